"""The processes under test: a real pict-rs, and the proxy in front of it, each with its log."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
PICTRS_ROOTS = Path(os.environ.get("PICTRS_ROOTS", Path.home() / ".cache/safety-proxy"))
API_KEY = "benchmark"
_READY_SECONDS = 60


class ServerFailedError(Exception):
    """A server that did not start, with its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running child process that listens on a port of loopback."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """Processor time so far, of the process and of its children that have ended."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        user_to_children = text.rpartition(")")[2].split()[11:15]  # utime stime cutime cstime
        return sum(map(int, user_to_children)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one stage, since the start of the proxy."""

    seconds: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Proxy(Server):
    """The proxy, and what its admin listener tells."""

    admin_port: int

    def stats(self) -> dict[str, Any]:
        """`/stats`."""
        stats: dict[str, Any] = json.loads(self._admin("stats"))
        return stats

    def stage_totals(self) -> dict[str, Totals]:
        """Time by stage. From `/metrics`: the percentiles of `/stats` cannot be subtracted."""
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        for family in text_string_to_metric_families(self._admin("metrics")):
            for sample in family.samples:
                if sample.name == "safety_proxy_stage_duration_seconds_sum":
                    sums[sample.labels["stage"]] = sample.value
                elif sample.name == "safety_proxy_stage_duration_seconds_count":
                    counts[sample.labels["stage"]] = sample.value
        return {stage: Totals(sums[stage], int(counts[stage])) for stage in sums}

    def _admin(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.admin_port}/{path}", timeout=30) as answer:
            body: bytes = answer.read()
        return body.decode()


@contextmanager
def pictrs(folder: Path, *, real: bool) -> Iterator[Server]:
    """A pict-rs of its own; dummy mode looks at no picture, real mode calls ImageMagick."""
    binary = PICTRS_ROOTS / "pict-rs-0.5.25" / "bin" / "pict-rs"
    if not binary.is_file():
        raise ServerFailedError(f"No pict-rs at {binary}: `make pict-rs` builds it.")
    folder.mkdir(parents=True)
    port = _free_port()
    environment = {
        "PICTRS__SERVER__ADDRESS": f"127.0.0.1:{port}",
        "PICTRS__SERVER__API_KEY": API_KEY,
        "PICTRS__CLIENT__ALLOW_LOCAL_CONNECTIONS": "true",
        "PICTRS__SERVER__DANGER_DUMMY_MODE": str(not real).lower(),
        "PICTRS__SERVER__TEMPORARY_DIRECTORY": str(folder / "tmp"),
        "PICTRS__OLD_REPO__PATH": str(folder / "old-repo"),
        "PICTRS__REPO__TYPE": "sled",
        "PICTRS__REPO__PATH": str(folder / "repo"),
        "PICTRS__REPO__EXPORT_PATH": str(folder / "exports"),
        "PICTRS__STORE__TYPE": "filesystem",
        "PICTRS__STORE__PATH": str(folder / "files"),
        "PATH": f"{_magick(folder)}:{os.environ['PATH']}",
    }
    with _child([str(binary), "run"], folder, environment) as process:
        _wait_for(f"http://127.0.0.1:{port}/healthz", process, folder)
        yield Server(process, port)


@contextmanager
def proxy(folder: Path, upstream: Server, model: str) -> Iterator[Proxy]:
    """The proxy with this model, warmed up, its settings the defaults and the environment's."""
    folder.mkdir(parents=True)
    policy = resources.files("safety_proxy.policy").joinpath("default_contrast.toml")
    # Judged as by the default, but a model with random weights must not refuse anything.
    harmless = policy.read_text(encoding="utf-8").replace('action = "block"', 'action = "flag"')
    (folder / "policy.toml").write_text(harmless, encoding="utf-8")
    environment = {
        # As safety_proxy.app.load_clip has it; the benchmark loads its models itself.
        "OMP_WAIT_POLICY": "PASSIVE",
        "SAFETY_PROXY_SERVER__HOST": "127.0.0.1",
        "SAFETY_PROXY_SERVER__PORT": "0",
        "SAFETY_PROXY_SERVER__ADMIN_PORT": "0",
        "SAFETY_PROXY_UPSTREAM__URL": f"http://127.0.0.1:{upstream.port}",
        "SAFETY_PROXY_UPSTREAM__API_KEY": API_KEY,
        "SAFETY_PROXY_POLICY__FILE": str(folder / "policy.toml"),
        "SAFETY_PROXY_POLICY__HARMLESS_LIMIT": "1",  # which would take the first seconds
        "SAFETY_PROXY_STORE__FOLDER": str(folder),
        "SAFETY_PROXY_FETCH__ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "SAFETY_PROXY_FETCH__ALLOW_PORTS": "[]",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(ROOT / "benchmarks" / "proxy_process.py"), model]
    with _child(command, folder, environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ServerFailedError(_log(folder))
        yield Proxy(process, **json.loads(line))


@contextmanager
def _child(
    command: list[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log if command[-1] == "run" else subprocess.PIPE,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def _wait_for(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, ConnectionError):
            time.sleep(0.05)
    raise ServerFailedError(_log(folder))


def _log(folder: Path) -> str:
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    return f"The server did not start:\n{text}"


def _magick(folder: Path) -> Path:
    """A folder for PATH with `magick`, which ImageMagick 6 lacks under that name."""
    tools = folder / "bin"
    tools.mkdir()
    if not shutil.which("magick"):
        script = tools / "magick"
        script.write_text('#!/bin/sh\n[ "$1" = convert ] && shift\nexec convert-im6.q16 "$@"\n')
        script.chmod(0o755)
    return tools


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
