"""The files that admins deploy with agree with the package and with each other."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from safety_proxy.settings import Settings
from tests.e2e.harness import PICTRS_VERSIONS

ROOT = Path(__file__).resolve().parents[1]
OVERLAY = "docker-compose.yml"
STANDALONE = "docker-compose.override.yml"
GPU = "docker-compose.gpu.yml"
DEPLOYMENT_FILES = [
    OVERLAY,
    STANDALONE,
    GPU,
    "Dockerfile",
    ".env.example",
    "docs/deployment.md",
    "docs/validator.md",
    "docs/threat-model.md",
    "nginx/safety_proxy.conf",
]


class _Tagged(yaml.SafeLoader):
    """Reads Compose's `!override` and `!reset` as the plain value."""


def _plain(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


_Tagged.add_multi_constructor("!", _plain)


def compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / name).read_text(), _Tagged)
    return loaded


def variables() -> Iterator[str]:
    """The environment variable of every setting."""
    yield "SAFETY_PROXY_CONFIG"
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from (f"SAFETY_PROXY_{name}__{key}".upper() for key in section.model_fields)
        else:
            yield f"SAFETY_PROXY_{name}".upper()


def dockerfile_words(instruction: str) -> list[list[str]]:
    """The arguments of every such instruction, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [shlex.split(rest) for rest in re.findall(rf"^{instruction} (.+)$", text, re.MULTILINE)]


def test_pictrs_is_reached_by_nothing_but_the_proxy() -> None:
    """It stands on one network, which is cut off from the internet, and publishes no port."""
    overlay = compose(OVERLAY)
    assert overlay["networks"] == {"pictrs-only": {"internal": True}}
    assert list(overlay["services"]["pictrs"]["networks"]) == ["pictrs-only"]
    members = [
        name
        for name, service in (overlay["services"] | compose(STANDALONE)["services"]).items()
        if "pictrs-only" in service.get("networks", overlay["services"][name]["networks"])
    ]
    assert sorted(members) == ["pictrs", "safety-proxy"]
    assert overlay["services"]["pictrs"]["ports"] == []
    assert "ports" not in compose(STANDALONE)["services"]["pictrs"]


def test_networks_and_ports_of_lemmys_file_are_replaced() -> None:
    """Merged instead, they would leave pict-rs reachable under the name that the proxy takes."""
    text = (ROOT / OVERLAY).read_text()
    service = text[text.index("\n  pictrs:") :]
    assert re.search(r"^    networks: !override$", service, re.MULTILINE)
    assert re.search(r"^    ports: !reset \[\]$", service, re.MULTILINE)


def test_the_proxy_answers_to_the_name_and_port_that_lemmy_asks() -> None:
    """`http://pictrs:8080/` stays right in lemmy.hjson; the real one has another name."""
    services = compose(OVERLAY)["services"]
    proxy, pictrs = services["safety-proxy"], services["pictrs"]
    assert proxy["networks"]["default"]["aliases"] == ["pictrs"]
    assert proxy["environment"]["SAFETY_PROXY_SERVER__PORT"] == "8080"
    (alias,) = pictrs["networks"]["pictrs-only"]["aliases"]
    assert proxy["environment"]["SAFETY_PROXY_UPSTREAM__URL"] == f"http://{alias}:8080"


def test_the_overlay_leaves_lemmys_pictrs_as_it_is() -> None:
    """Image, settings and volume are the admin's: another version could not read the store."""
    assert set(compose(OVERLAY)["services"]["pictrs"]) == {"networks", "ports"}


def test_the_overlay_gives_the_proxy_no_rights_that_it_does_not_need() -> None:
    """Read-only, no capabilities, spools in memory, and no published port."""
    proxy = compose(OVERLAY)["services"]["safety-proxy"]
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert proxy["tmpfs"][0].startswith("/tmp:")
    assert "ports" not in proxy


def test_images_are_pinned() -> None:
    """A tag that moves could bring a pict-rs whose routes nobody has looked at."""
    assert (
        compose(STANDALONE)["services"]["pictrs"]["image"] == f"asonix/pictrs:{PICTRS_VERSIONS[0]}"
    )


def test_the_gpu_file_builds_what_it_needs() -> None:
    """A CUDA image, and a device for it."""
    proxy = compose(GPU)["services"]["safety-proxy"]
    assert proxy["build"]["args"] == {"TORCH": "cuda"}
    (device,) = proxy["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert proxy["image"] != compose(OVERLAY)["services"]["safety-proxy"]["image"]


def test_the_dockerfile_copies_files_that_exist_and_are_sent() -> None:
    """Every source is in the repository and let through by .dockerignore."""
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    sources = {
        source
        for words in dockerfile_words("COPY")
        if not words[0].startswith("--from")
        for source in words[:-1]
    }
    assert sources == allowed
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_runs_as_a_user_that_owns_its_volume() -> None:
    """Not root; the volumes' folders are its own, so named volumes start out writable."""
    text = (ROOT / "Dockerfile").read_text()
    assert dockerfile_words("USER") == [["10001"]]
    assert "--uid 10001" in text
    assert "install -d -o safety-proxy /models /data" in text
    assert dockerfile_words("VOLUME") == [["/models", "/data"]]
    assert compose(OVERLAY)["services"]["safety-proxy"]["volumes"] == [
        "safety-proxy-models:/models",
        "safety-proxy-data:/data",
    ]


@pytest.mark.parametrize("name", DEPLOYMENT_FILES)
def test_every_variable_that_is_named_is_a_setting(name: str) -> None:
    """`serve` refuses unknown ones, so a wrong name in these files would stop it at start."""
    named = set(re.findall(r"\bSAFETY_PROXY_[A-Z0-9_]+", (ROOT / name).read_text()))
    assert named <= set(variables())


def test_the_example_shows_the_defaults() -> None:
    """A line of .env.example with its # taken away changes nothing, but for a path and a key."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    shown = dict(line.removeprefix("#").split("=", 1) for line in lines if line.startswith("#SAF"))
    del shown["SAFETY_PROXY_POLICY__FILE"]
    assert shown.pop("SAFETY_PROXY_UPSTREAM__API_KEY") == ""  # which counts as not set
    for variable, value in shown.items():
        section, _, key = variable.removeprefix("SAFETY_PROXY_").lower().partition("__")
        default = getattr(Settings.model_construct(), section)
        assert str(getattr(default, key) if key else default) == value, variable


def test_nginx_and_the_proxy_agree_on_the_largest_file() -> None:
    """The limit of nginx is over the largest file by 1 MiB, the room for the form around it."""
    config = (ROOT / "nginx/safety_proxy.conf").read_text()
    (size,) = re.findall(r"client_max_body_size (\d+)m;", config)
    largest = Settings.model_construct().limits.max_file_bytes
    assert int(size) * 1024 * 1024 == largest + 1024 * 1024


def test_nginx_asks_the_proxy_where_it_listens() -> None:
    """The file works as it is with the defaults of the package and of pict-rs."""
    config = (ROOT / "nginx/safety_proxy.conf").read_text()
    server = Settings.model_construct().server
    assert f"server {server.host}:{server.port};" in config
    assert f"server 127.0.0.1:{Settings.model_construct().upstream.url.port};" in config


def test_the_systemd_unit_in_the_docs_is_right(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about it, with its program's path filled in."""
    text = (ROOT / "docs/deployment.md").read_text()
    (unit,) = re.findall(
        r"```ini\n(# /etc/systemd/system/safety-proxy.service\n.+?)```", text, re.DOTALL
    )
    (program,) = re.findall(r"^ExecStart=(\S+) serve", unit, re.MULTILINE)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    file = tmp_path / "safety-proxy.service"
    file.write_text(unit.replace(program, "/bin/true"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert [line for line in result.stderr.splitlines() if file.name in line] == []
