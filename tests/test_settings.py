"""Tests of safety_proxy/settings.py: where a setting comes from, and how mistakes are told."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from safety_proxy.errors import ConfigError
from safety_proxy.settings import CacheSettings, ServerSettings, Settings, load_settings
from tools.write_settings_docs import DOCUMENT, document

Environment = pytest.MonkeyPatch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a settings file would be."""
    return tmp_path / "safety-proxy.toml"


def problem_of(file: Path | None = None) -> str:
    """The message of the error that loading gives."""
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    return str(caught.value)


def test_without_file_and_environment_all_is_default() -> None:
    """And the defaults are right for a small Lemmy: pict-rs' own limits, nothing reachable."""
    settings = load_settings()
    assert settings == Settings()
    assert type(settings) is Settings
    assert (settings.server.host, settings.server.admin_host) == ("127.0.0.1", "127.0.0.1")
    assert (settings.server.port, settings.server.admin_port) == (8580, 8581)
    assert str(settings.upstream.url) == "http://127.0.0.1:8080/"
    assert settings.limits.max_file_bytes == 40 * 1024 * 1024
    assert settings.fetch.allow_networks == []
    assert settings.fetch.allow_ports == [80, 443]
    assert settings.fetch.total_seconds + 2 <= 10  # what Lemmy gives fetch, scan and store
    assert settings.policy.file is None


def test_a_file_sets_what_it_names(file: Path) -> None:
    """All else in its sections stays as it is by default."""
    file.write_text(
        """
        log_level = "debug"
        [server]
        port = 1
        [fetch]
        allow_networks = ["10.0.0.0/8", "fc00::/7"]
        allow_ports = []
        [policy]
        file = "policy.toml"
        """
    )
    settings = load_settings(file)
    assert settings.log_level == "debug"
    assert settings.server == ServerSettings(port=1)
    assert settings.fetch.allow_networks == [IPv4Network("10.0.0.0/8"), IPv6Network("fc00::/7")]
    assert settings.fetch.allow_ports == []
    assert settings.policy.file == Path("policy.toml")
    assert settings.cache == CacheSettings()


def test_environment_stands_over_the_file_key_by_key(file: Path, monkeypatch: Environment) -> None:
    """Of one section, each key comes from wherever it is set."""
    file.write_text('log_level = "debug"\n[server]\nhost = "h"\nport = 1\nadmin_port = 2')
    monkeypatch.setenv("SAFETY_PROXY_SERVER__PORT", "3")
    monkeypatch.setenv("SAFETY_PROXY_LOG_LEVEL", "error")
    monkeypatch.setenv("SAFETY_PROXY_FETCH__ALLOW_PORTS", "[80, 8080]")
    settings = load_settings(file, server={"admin_port": 4})
    assert settings.server == ServerSettings(host="h", port=3, admin_port=4)
    assert settings.log_level == "error"
    assert settings.fetch.allow_ports == [80, 8080]


def test_an_empty_variable_is_not_set(file: Path, monkeypatch: Environment) -> None:
    """Compose files pass "" on for what is not given; no path is meant by it."""
    file.write_text("[server]\nport = 1")
    for variable in ("SERVER__PORT", "MODEL__CACHE_DIR", "POLICY__FILE", "FETCH__ALLOW_PORTS"):
        monkeypatch.setenv(f"SAFETY_PROXY_{variable}", "")
    assert load_settings(file) == load_settings(server={"port": 1})


def test_variables_may_be_written_in_lower_case(monkeypatch: Environment) -> None:
    """Known ones are taken, and unknown ones told, in any case."""
    monkeypatch.setenv("safety_proxy_server__port", "3")
    assert load_settings().server.port == 3
    monkeypatch.setenv("safety_proxy_server__prt", "3")
    assert "safety_proxy_server__prt" in problem_of()


def test_the_variable_of_the_command_is_no_mistake(monkeypatch: Environment) -> None:
    """It names the file, and is read by `serve`; other programs' variables are not ours."""
    monkeypatch.setenv("SAFETY_PROXY_CONFIG", "/etc/safety-proxy.toml")
    monkeypatch.setenv("SAFETY_OTHER", "1")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[server]\nprt = 1", ["server.prt", "not permitted"]),
        ("[sever]\nport = 1", ["sever", "not permitted"]),
        ("port = 1", ["port", "not permitted"]),
        ("[server]\nport = 65536", ["server.port", "SAFETY_PROXY_SERVER__PORT", "65535"]),
        ("[server]\nport = 'http'", ["server.port", "valid integer", "'http'"]),
        ("server = 1", ["server (SAFETY_PROXY_SERVER)"]),
        ("[upstream]\nurl = 'pictrs:8080'", ["upstream.url", "'http' or 'https'"]),
        ("[limits]\nmax_file_bytes = 0", ["limits.max_file_bytes", "greater than or equal to 1"]),
        ("[limits]\nmax_frame_pixels = 179000000", ["limits.max_frame_pixels"]),
        ("[scan]\ntimeout_seconds = 0.0", ["scan.timeout_seconds", "greater than 0"]),
        ("[scan]\ntimeout_seconds = nan", ["scan.timeout_seconds", "greater than 0"]),
        ("[model]\ndevice = 'tpu'", ["model.device", "'auto', 'cpu' or 'cuda'"]),
        ("log_level = 'loud'", ["log_level (SAFETY_PROXY_LOG_LEVEL)", "'loud'"]),
        ("[fetch]\nallow_networks = ['10.0.0.0/99']", ["fetch.allow_networks", "10.0.0.0/99"]),
        ("[server]]", ["not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_file_is_refused_with_what_and_where(
    file: Path, text: str, told: list[str]
) -> None:
    """The message has the file, the key and its variable, and what would be right."""
    file.write_text(text)
    message = problem_of(file)
    assert str(file) in message
    assert [part for part in told if part not in message] == []


def test_a_problem_inside_a_list_names_the_variable_of_the_list(file: Path) -> None:
    """There is no variable for an item."""
    file.write_text("[fetch]\nallow_ports = [80, 'x']")
    assert "(SAFETY_PROXY_FETCH__ALLOW_PORTS):" in problem_of(file)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("SERVER__PRT", "1", ["SAFETY_PROXY_SERVER__PRT"]),
        ("SEVER__PORT", "1", ["Unknown environment variables: SAFETY_PROXY_SEVER__PORT"]),
        ("SERVER_PORT", "1", ["Unknown environment variables: SAFETY_PROXY_SERVER_PORT"]),
        ("SERVER__PORT", "x", ["server.port (SAFETY_PROXY_SERVER__PORT)", "'x'"]),
        ("LOG_LEVEL", "loud", ["log_level (SAFETY_PROXY_LOG_LEVEL)"]),
        ("FETCH__ALLOW_PORTS", "80,443", ["fetch", "JSON", "'[80, 443]'"]),
        ("FETCH__ALLOW_PORTS", "80", ["SAFETY_PROXY_FETCH__ALLOW_PORTS", "valid list"]),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    monkeypatch: Environment, variable: str, value: str, told: list[str]
) -> None:
    """A mistyped one is no setting silently left out."""
    monkeypatch.setenv(f"SAFETY_PROXY_{variable}", value)
    message = problem_of()
    assert [part for part in told if part not in message] == []


def test_all_problems_are_told_at_once(file: Path, monkeypatch: Environment) -> None:
    """Of file and environment, each with its variable's name."""
    file.write_text("[server]\nport = -1\nprt = 1\n[scan]\nqueue_limit = 0")
    monkeypatch.setenv("SAFETY_PROXY_CACHE__MAX_ENTRIES", "many")
    monkeypatch.setenv("SAFETY_PROXY_SEVER__PORT", "1")
    message = problem_of(file)
    for variable in (
        "SAFETY_PROXY_SERVER__PORT",
        "SAFETY_PROXY_SERVER__PRT",
        "SAFETY_PROXY_SCAN__QUEUE_LIMIT",
        "SAFETY_PROXY_CACHE__MAX_ENTRIES",
        "SAFETY_PROXY_SEVER__PORT",
    ):
        assert variable in message
    assert "docs/settings.md" in message


def test_a_file_that_cannot_be_read_is_named(file: Path, tmp_path: Path) -> None:
    """Missing, a folder, not text."""
    assert f"{file}: not found" in problem_of(file)
    assert f"{tmp_path}: not found" in problem_of(tmp_path)
    file.write_bytes(b"log_level = '\xff'")
    assert f"{file}: cannot be read" in problem_of(file)


def sections() -> list[BaseModel]:
    """The settings and each of their sections."""
    settings = load_settings()
    parts: list[Any] = [getattr(settings, name) for name in Settings.model_fields]
    return [settings, *(part for part in parts if isinstance(part, BaseModel))]


@pytest.mark.parametrize("section", sections(), ids=lambda section: type(section).__name__)
def test_settings_cannot_be_changed(section: BaseModel) -> None:
    """What was checked at start is what holds."""
    name = next(iter(type(section).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section, name, getattr(section, name))


def test_the_page_of_settings_is_that_of_the_code() -> None:
    """Otherwise run `python tools/write_settings_docs.py`."""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_the_page_has_every_key_with_variable_and_meaning() -> None:
    """A row each, with no cell left empty."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in document().splitlines()
        if line.startswith("| `")
    ]
    keys = [
        (name, f"SAFETY_PROXY_{section}{name}".upper())
        for section, model in [
            ("", Settings()),
            *((f"{name}__", getattr(Settings(), name)) for name in Settings.model_fields),
        ]
        if isinstance(model, BaseModel)
        for name, field in type(model).model_fields.items()
        if not isinstance(field.default, BaseModel)
    ]
    assert sorted(row[:2] for row in rows) == sorted(
        [f"`{name}`", f"`{variable}`"] for name, variable in keys
    )
    assert all(len(row) == 5 and all(row) and "None" not in row for row in rows)


def test_the_example_of_the_page_can_be_used(file: Path) -> None:
    """It is a file that loads and changes something."""
    file.write_text(document().partition("```toml\n")[2].partition("```")[0])
    settings = load_settings(file)
    assert settings != Settings()
    assert str(settings.upstream.url) == "http://pictrs:8080/"
