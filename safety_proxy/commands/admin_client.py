"""What a command asks of the running server, at its admin listener."""

import http.client
import json
import os
import sys
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from urllib.parse import urlsplit

import typer

from safety_proxy import __version__
from safety_proxy.commands import ExitCode
from safety_proxy.errors import ConfigError
from safety_proxy.settings import load_settings

# A scan may wait for others; a list of a million takes seconds to load.
_PATIENCE_SECONDS: Final = 120.0

_REFUSALS: Final = range(400, 500)


class NoServer(Exception):
    """Nothing listens at the address; the message says where."""


class Listener(NamedTuple):
    """An admin listener: its address, and what it wants to be shown by other machines, if known."""

    address: str
    token: str = ""


def listener_of(admin: str | None, config: Path | None) -> Listener:
    """At the address of --admin, or else of the settings. Raises ConfigError."""
    if admin is not None and not _is_address(admin):
        raise ConfigError(f"--admin {admin}: give an address such as http://127.0.0.1:8581.")
    server = load_settings(config).server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.admin_host, server.admin_host)  # noqa: S104 -- any address includes this one
    own = f"http://[{host}]" if ":" in host else f"http://{host}"
    token = server.admin_token.get_secret_value() if server.admin_token else ""
    return Listener(admin or f"{own}:{server.admin_port}", token)


def _is_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme == "http" and bool(url.hostname) and url.port != 0
    except ValueError:  # a bracket that stays open, or a port that is none
        return False


def ask(
    listener: Listener, method: str, target: str, *, body: Any = None, file: IO[bytes] | None = None
) -> dict[str, Any]:
    """The server's answer.

    body: sent as JSON. file: sent as it is.
    Raises NoServer; ConfigError for what the server refuses; Exit if it cannot answer.
    """
    address = listener.address
    try:
        sent = body if file is None else file
        status, release, content = _request(listener, method, target, sent)
    except ConnectionRefusedError as error:
        raise NoServer(f"No server answers at {address}: {error.strerror}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise given_up(f"The server at {address} did not answer: {error}.") from error
    if release != __version__:
        raise given_up(
            f"What answers at {address} is no admin listener of safety-proxy {__version__}: its "
            f"X-Safety-Proxy is {release!r}. Name the right one by --admin or --config; after an "
            "upgrade, restart the server."
        )
    answer: dict[str, Any] = json.loads(content)
    message = str(answer.get("msg", ""))
    if status == http.HTTPStatus.OK:
        return answer
    if status in _REFUSALS:
        raise ConfigError(message)
    raise given_up(f"The server at {address} cannot do that just now: {message}.")


def ask_running(
    listener: Listener, method: str, target: str, *, body: Any = None, file: IO[bytes] | None = None
) -> dict[str, Any]:
    """As `ask`, where nothing can be done without a server: raises Exit if there is none."""
    try:
        return ask(listener, method, target, body=body, file=file)
    except NoServer as error:
        raise given_up(
            f"{error} Start it with `safety-proxy serve`, or name its admin listener by --admin or "
            "--config."
        ) from error


def given_up(message: str) -> typer.Exit:
    """To be raised when something that the command needs does not answer."""
    sys.stderr.write(f"{message}\n")
    return typer.Exit(ExitCode.UNAVAILABLE)


def _request(listener: Listener, method: str, target: str, body: Any) -> tuple[int, str, bytes]:
    """Status, release of the server and body of the answer."""
    url = urlsplit(listener.address)
    assert url.hostname is not None
    content = body
    headers: dict[str, str | bytes] = {}
    if listener.token:
        headers["Authorization"] = f"Bearer {listener.token}".encode()
    if hasattr(body, "read"):
        size_bytes = body.seek(0, os.SEEK_END)
        body.seek(0)
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
    elif body is not None:
        content = json.dumps(body).encode()
        headers |= {"Content-Type": "application/json"}
    # Not urllib, which would go through the proxy that the environment names.
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request(method, target, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("X-Safety-Proxy", ""), answer.read()
    finally:
        connection.close()
