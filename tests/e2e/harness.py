"""Real servers for end-to-end tests: pict-rs, the safety proxy, nginx, and an origin to fetch from.

The first three are child processes on free loopback ports, each with a folder of its own below
pytest's temporary folder. `start`, `stop` and `kill` block: call them from fixtures, and from an
async test by `await asyncio.to_thread(server.stop)`. What asks a server something is async.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import (
    ClientHandlerType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    FormData,
    web,
)
from PIL import Image
from yarl import URL

ROOT = Path(__file__).resolve().parents[2]
# What sites run, and what comes.
PICTRS_VERSIONS = ("0.5.25", "0.6.0-rc.6")
PICTRS_ROOTS = Path(os.environ.get("PICTRS_ROOTS", Path.home() / ".cache/safety-proxy"))
PICTRS_API_KEY = "end-to-end"
VALIDATOR_ID = "end-to-end-validator"

# Planted wherever users send what is theirs alone: session tokens, file names, addresses. When a
# server of these tests stops, none of it may be in its log, nor in the proxy's statistics.
SECRET = "planted-secret"
SECRET_HEADERS = {"Authorization": f"Bearer {SECRET}", "Cookie": f"jwt={SECRET}"}
# pict-rs is told of an address where it is asked without the proxy, so it may log this one.
SECRET_ADDRESS = "planted-address"
NGINX_CONFIG = ROOT / "nginx" / "safety_proxy.conf"

# pict-rs removes a folder that has become empty while it makes a file in it for somebody else,
# whose upload then fails: 500, `not-found` (0.5) or `file-io-error` (0.6). The next try passes.
STUMBLE = b"No such file or directory"
TRIES = 3

START_SECONDS = 60.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.05


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where REQUIRE_E2E=1 says that nothing may be skipped."""
    if os.environ.get("REQUIRE_E2E") == "1":
        pytest.fail(f"REQUIRE_E2E=1, but {what}", pytrace=False)
    pytest.skip(what)


def free_port() -> int:
    """A loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def http_status(url: str) -> int | None:
    """The status of a GET, or None where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


def http_text(url: str) -> str:
    """The body of a GET, or nothing where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            text: str = response.read().decode()
            return text
    except OSError:
        return ""


def plain_png(color: str = "olive") -> bytes:
    """A picture of one color, as small as an upload can sensibly be."""
    body = BytesIO()
    Image.new("RGB", (96, 64), color).save(body, "PNG")
    return body.getvalue()


async def upload(
    client: ClientSession, url: str, *files: bytes, query: str = ""
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of `POST {url}/image?{query}` with each of `files` as an `images[]`."""
    form = FormData()
    for number, body in enumerate(files):
        form.add_field("images[]", BytesIO(body), filename=f"{SECRET}-{number}.png")
    target = URL(f"{url}/image{'?' if query else ''}{query}", encoded=True)
    async with client.post(target, data=form) as response:
        return response.status, await response.json()


async def try_again(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """A middleware of clients: what pict-rs has stumbled over is sent once more."""
    for _ in range(TRIES - 1):
        response = await handler(request)
        is_failure = response.status == HTTPStatus.INTERNAL_SERVER_ERROR
        if not is_failure or STUMBLE not in await response.read():
            return response
    return await handler(request)


async def send_raw(
    url: str, target: str, method: str = "GET", headers: str = "", body: bytes = b""
) -> bytes:
    """The whole answer to a request line that no client library has tidied up.

    What pict-rs has stumbled over is sent once more.
    """
    for _ in range(TRIES - 1):
        answer = await _sent_raw(url, target, method, headers, body)
        if not (answer.startswith(b"HTTP/1.1 500 ") and STUMBLE in answer):
            return answer
    return await _sent_raw(url, target, method, headers, body)


async def _sent_raw(url: str, target: str, method: str, headers: str, body: bytes) -> bytes:
    host, _, port = _host_port(url).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


class Server:
    """A child process that listens on `url` and answers 200 on `ready_url` once it is ready.

    Both outputs go to `log_file`. After `stop` or `kill`, `start` brings it back on the same port
    with the same folder.
    """

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        command: Sequence[str],
        url: str,
        ready_url: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.url = url
        self.log_file = folder / f"{name}.log"
        self._command = list(command)
        self._ready_url = ready_url
        self._environment = _clean_environment() | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self, *, wait_until_ready: bool = True) -> None:
        """Start it; by default returns when it is ready."""
        assert self._process is None, f"{self.name} is running"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not wait_until_ready:
            return
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        """Return when the server is ready; fail with its log when it ends or takes too long."""
        assert self._process is not None, f"{self.name} is not running"
        deadline = time.monotonic() + seconds
        while http_status(self._ready_url) != HTTPStatus.OK:
            if self._process.poll() is not None:
                pytest.fail(f"{self.name} ended ({self._process.returncode}):\n{self.log()}")
            if time.monotonic() > deadline:
                pytest.fail(f"{self.name} was not ready within {seconds} s:\n{self.log()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> int:
        """End it by SIGTERM; returns its exit code, negative for a signal. Not running: 0."""
        if self._process is None:
            return 0
        self.resume()
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.name} did not end within {STOP_SECONDS} s:\n{self.log()}")
        self._process = None
        self.check_privacy(self.log())
        return code

    def check_privacy(self, text: str) -> None:
        """Fail if what belongs to users is in a text of this server."""
        for line in text.splitlines():
            if SECRET in line:
                pytest.fail(f"{self.name} tells what is a user's: {line[:500]}")

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze it: connections are accepted by the kernel, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """All that it has printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def resident_bytes(self) -> int:
        """Memory that the process holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1]) * 1024

    def open_files(self) -> int:
        """Files, sockets and the like that the process has open now."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def _clean_environment() -> dict[str, str]:
    """The environment without settings of the developer's own servers and without HTTP proxies."""
    foreign = re.compile(r"SAFETY_PROXY_|PICTRS__|RUST_LOG$|(https?|all|no)_proxy$", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not foreign.match(name)}


class PictRs(Server):
    """A real pict-rs with a folder as its store, and the repo that its version has by default.

    In dummy mode it needs no other program, and stores what it gets, byte for byte, as image/png.
    With `real=True` it examines, strips and resizes pictures by ImageMagick, ffmpeg and exiftool;
    `can_be_real` says whether these are here. It may fetch from loopback addresses, so a request
    that gets past the proxy is seen at the origin, and it logs every request with its raw path.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: str = PICTRS_VERSIONS[0],
        real: bool = False,
        **environment: str,
    ) -> None:
        port = free_port()
        self.files = folder / "files"
        self.version = version
        settings = {
            "PICTRS__SERVER__ADDRESS": f"127.0.0.1:{port}",
            "PICTRS__SERVER__API_KEY": PICTRS_API_KEY,
            "PICTRS__SERVER__DANGER_DUMMY_MODE": "false" if real else "true",
            "PICTRS__SERVER__MAX_FILE_COUNT": "10",
            "PICTRS__SERVER__TEMPORARY_DIRECTORY": str(folder / "tmp"),
            "PICTRS__CLIENT__ALLOW_LOCAL_CONNECTIONS": "true",
            "PICTRS__STORE__TYPE": "filesystem",
            "PICTRS__STORE__PATH": str(self.files),
            "PICTRS__TRACING__LOGGING__FORMAT": "compact",
            "PICTRS__TRACING__LOGGING__LOG_REQUESTS": "true",
            "PICTRS__TRACING__LOGGING__NO_ANSI": "true",
        }
        if version.startswith("0.5."):
            settings |= {
                "PICTRS__OLD_REPO__PATH": str(folder / "old-repo"),
                "PICTRS__REPO__TYPE": "sled",
                "PICTRS__REPO__PATH": str(folder / "repo"),
                "PICTRS__REPO__EXPORT_PATH": str(folder / "exports"),
            }
        else:
            settings |= {
                "PICTRS__REPO__TYPE": "fjall",
                "PICTRS__REPO__FJALL_PATH": str(folder / "repo"),
            }
        if real:
            settings["PATH"] = f"{_magick_folder(folder)}:{os.environ['PATH']}"
        url = f"http://127.0.0.1:{port}"
        super().__init__(
            "pict-rs",
            folder=folder,
            command=[str(pictrs_binary(version)), "run"],
            url=url,
            ready_url=f"{url}/healthz",
            environment=settings | environment,
        )

    @staticmethod
    def can_be_real() -> bool:
        """Whether the programs that pict-rs calls outside dummy mode are here."""
        magick = shutil.which("magick") or shutil.which("convert-im6.q16")
        return bool(magick and shutil.which("ffprobe") and shutil.which("exiftool"))

    def stored_files(self) -> list[Path]:
        """Every file in its store, sorted: originals, variants, and uploads not yet processed."""
        # pict-rs removes files and folders meanwhile, which `os.walk` does not mind.
        return sorted(
            Path(folder, name) for folder, _, names in os.walk(self.files) for name in names
        )

    def holds(self, body: bytes) -> bool:
        """Whether a file with these very bytes is in its store; only dummy mode keeps all bytes."""
        return any(_read_bytes(path) == body for path in self.stored_files())

    async def hashes(self) -> list[dict[str, Any]]:
        """All of `/internal/hashes`: `{"hex": ..., "aliases": [...], "details": ...}` a picture."""
        found: list[dict[str, Any]] = []
        query = {"limit": "100"}
        async with ClientSession(headers={"X-Api-Token": PICTRS_API_KEY}) as session:
            while True:
                async with session.get(f"{self.url}/internal/hashes", params=query) as response:
                    page = (await response.json())["page"]
                found += page["hashes"]
                if not page.get("next"):
                    return found
                query["slug"] = page["next"]

    async def aliases(self) -> set[str]:
        """The aliases of all stored pictures."""
        return {alias for entry in await self.hashes() for alias in entry["aliases"]}


def _read_bytes(path: Path) -> bytes | None:
    """The bytes of a file; pict-rs may have removed it since it was listed."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def pictrs_binary(version: str) -> Path:
    """The program that `make pict-rs` built; where there is none, the test is skipped or fails."""
    binary = PICTRS_ROOTS / f"pict-rs-{version}" / "bin" / "pict-rs"
    if not binary.exists():
        missing(f"no pict-rs at {binary}: `make pict-rs` builds it")
    return binary


def _magick_folder(folder: Path) -> Path:
    """A folder for PATH that has `magick`: version 6, as Debian 12 ships it, lacks the name."""
    tools = folder / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    if not shutil.which("magick"):
        shim = tools / "magick"
        shim.write_text(
            '#!/bin/sh\n[ "$1" = convert ] && shift\nexec convert-im6.q16 "$@"\n',
        )
        shim.chmod(0o755)
    return tools


class SafetyProxy(Server):
    """`python -m safety_proxy serve` in front of `upstream_url`, with the demo model and policy.

    `start` returns when `/readyz` says 200. It may fetch from loopback at any port, and its door
    for pict-rs' validation is open. Each setting is an environment variable and can be overridden:
    `SAFETY_PROXY_LIMITS__MAX_FILE_BYTES="1000"`.
    """

    def __init__(self, folder: Path, upstream_url: str, **environment: str) -> None:
        port, admin_port, validator_port = free_port(), free_port(), free_port()
        self.validator_url = f"http://127.0.0.1:{validator_port}/api/v1/scan/{VALIDATOR_ID}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        settings = {
            "SAFETY_PROXY_SERVER__HOST": "127.0.0.1",
            "SAFETY_PROXY_SERVER__PORT": str(port),
            "SAFETY_PROXY_SERVER__ADMIN_HOST": "127.0.0.1",
            "SAFETY_PROXY_SERVER__ADMIN_PORT": str(admin_port),
            "SAFETY_PROXY_UPSTREAM__URL": upstream_url,
            "SAFETY_PROXY_UPSTREAM__API_KEY": PICTRS_API_KEY,
            "SAFETY_PROXY_VALIDATOR__PORT": str(validator_port),
            "SAFETY_PROXY_VALIDATOR__IDS": f'["{VALIDATOR_ID}"]',
            "SAFETY_PROXY_STORE__FOLDER": str(folder / "store"),
            "SAFETY_PROXY_MODEL__NAME": "demo",
            "SAFETY_PROXY_POLICY__FILE": str(ROOT / "safety_proxy" / "demo" / "policy.toml"),
            "SAFETY_PROXY_POLICY__HARMLESS_LIMIT": "1",  # not to be looked at where none asks
            "SAFETY_PROXY_FETCH__ALLOW_NETWORKS": '["127.0.0.0/8"]',
            "SAFETY_PROXY_FETCH__ALLOW_PORTS": "[]",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
        }
        super().__init__(
            "safety-proxy",
            folder=folder,
            command=[sys.executable, "-m", "safety_proxy", "serve"],
            url=f"http://127.0.0.1:{port}",
            ready_url=f"{self.admin_url}/readyz",
            environment=settings | environment,
        )

    def stop(self) -> int:
        """As that of any server; its statistics are read before."""
        if self._process is not None:
            self.resume()
            for path in ("/stats", "/metrics"):
                self.check_privacy(http_text(f"{self.admin_url}{path}"))
        return super().stop()

    def check_privacy(self, text: str) -> None:
        """Nor does the proxy tell of addresses."""
        super().check_privacy(text.replace(SECRET_ADDRESS, SECRET))

    async def stats(self) -> dict[str, Any]:
        """`/stats` of the admin listener."""
        async with ClientSession() as session, session.get(f"{self.admin_url}/stats") as response:
            stats: dict[str, Any] = await response.json()
            return stats

    async def forward_passes(self) -> int:
        """How often the image tower has run since the start."""
        count: int = (await self.stats())["batches"]["count"]
        return count

    def spooled_files(self) -> list[Path]:
        """Files in its temporary folder: uploads that are under way, or left behind."""
        return sorted(path for path in self.temporary.rglob("*") if path.is_file())


class Nginx(Server):
    """A real nginx that serves `nginx/safety_proxy.conf` as shipped, but for the three addresses.

    The access log has a line for each request: method, raw URI, status, and the address that it was
    passed to. Ready means that nginx itself is; what it passes requests to may be down.
    """

    def __init__(self, folder: Path, *, proxy_url: str, pictrs_url: str) -> None:
        port, ready_port = free_port(), free_port()
        url = f"http://127.0.0.1:{port}"
        self.access_log = folder / "access.log"
        self.config = folder / "nginx.conf"
        folder.mkdir(parents=True, exist_ok=True)
        addresses = {
            "server 127.0.0.1:8580": f"server {_host_port(proxy_url)}",
            "server 127.0.0.1:8080": f"server {_host_port(pictrs_url)}",
            "listen 127.0.0.1:8582": f"listen 127.0.0.1:{port}",
        }
        (folder / "safety_proxy.conf").write_text(_replace_each(NGINX_CONFIG, addresses))
        self.config.write_text(
            _NGINX_MAIN.format(folder=folder, user=_nginx_user(), ready_port=ready_port)
        )
        super().__init__(
            "nginx",
            folder=folder,
            command=[nginx_binary(), "-c", str(self.config), "-p", str(folder), "-e", "stderr"],
            url=url,
            ready_url=f"http://127.0.0.1:{ready_port}/",
        )

    def start(self, *, wait_until_ready: bool = True) -> None:
        """Start it after `nginx -t`."""
        self.check_config()
        super().start(wait_until_ready=wait_until_ready)

    def check_config(self) -> str:
        """What `nginx -t` prints; fails unless the configuration is right and without warnings."""
        result = subprocess.run(
            [*self._command, "-t"], capture_output=True, text=True, check=False, timeout=30
        )
        assert result.returncode == 0, result.stderr
        assert "[warn]" not in result.stderr, result.stderr
        return result.stderr

    def passed_to(self) -> list[tuple[str, str, int, str]]:
        """The access log as (method, raw URI, status, url passed to or ""), oldest first.

        A line is written when the answer has been sent, so just after the client has read it.
        """
        rows = [line.split("\t") for line in self.access_log.read_text().splitlines()]
        return [
            (method, uri, int(status), "" if address == "-" else f"http://{address}")
            for method, uri, status, address in rows
        ]


_NGINX_MAIN = """\
daemon off;
master_process on;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    log_format routing '$request_method\t$request_uri\t$status\t$upstream_addr';
    server {{ listen 127.0.0.1:{ready_port}; access_log off; return 200; }}
    access_log {folder}/access.log routing;
    include {folder}/safety_proxy.conf;
}}
"""


def nginx_binary() -> str:
    """The path of nginx; where there is none, the test is skipped or fails."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        missing("no nginx: Debian has it as nginx-light")
    return found


def _nginx_user() -> str:
    """Workers of a root nginx would run as nobody, who cannot write to the test's folder."""
    return "user root;" if os.geteuid() == 0 else ""


def _host_port(url: str) -> str:
    return url.removeprefix("http://")


def _replace_each(file: Path, replacements: Mapping[str, str]) -> str:
    """The text of `file` with each key replaced, which must be there exactly once."""
    text = file.read_text()
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True, slots=True)
class Hit:
    """A request that reached the origin."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Origin:
    """A foreign web server on loopback: serves what the test puts there, and records every request.

    `put` gives the address of a body; `route` one that a handler of the test answers. Anything else
    is 404 and is recorded too.
    """

    url: str = ""
    hits: list[Hit] = field(default_factory=list)
    _handlers: dict[str, Any] = field(default_factory=dict)

    def put(self, path: str, body: bytes, content_type: str = "image/png") -> str:
        """Serve `body` at `path` (`/a.png`); returns an address with a secret in its query."""

        async def answer(_request: web.Request) -> web.StreamResponse:
            return web.Response(body=body, content_type=content_type)

        return f"{self.route(path, answer)}?signature={SECRET_ADDRESS}"

    def route(self, path: str, handler: Any) -> str:
        """Let `async handler(request) -> StreamResponse` answer at `path`; returns the address."""
        self._handlers[path] = handler
        return self.url + path

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler of every request."""
        self.hits.append(Hit(request.method, request.raw_path, dict(request.headers)))
        handler = self._handlers.get(request.path)
        if handler is None:
            return web.Response(status=404)
        response: web.StreamResponse = await handler(request)
        return response
