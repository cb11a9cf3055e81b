"""Tests of safety_proxy/commands/admin_client.py: the server's answer, or why there is none."""

import http.server
import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from safety_proxy import __version__
from safety_proxy.commands.admin_client import Listener, NoServer, ask, listener_of
from safety_proxy.errors import ConfigError


class Server(http.server.ThreadingHTTPServer):
    """Answers all alike, and keeps what it was asked."""

    daemon_threads = True
    status = 200
    body = b"{}"
    release = __version__

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str | None, bytes]] = []
        self.shown: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = (self.command, self.path, self.headers.get("Content-Type"), body)
        self.server.asked.append(asked)
        shown = self.headers.get("Authorization")
        self.server.shown.append(shown and shown.encode("latin-1").decode())
        self.send_response(self.server.status)
        self.send_header("X-Safety-Proxy", self.server.release)
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 -- names that http.server looks for

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_json_and_files_are_sent_with_their_types(server: Server) -> None:
    """And the answer comes back as an object."""
    server.body = b'{"a": 1}'
    assert ask(Listener(server.url), "GET", "/x") == {"a": 1}
    ask(Listener(server.url), "POST", "/y?z", body={"b": "ü"})
    with Path(__file__).open("rb") as file:
        ask(Listener(server.url), "POST", "/f", file=file)
    assert server.asked == [
        ("GET", "/x", None, b""),
        ("POST", "/y?z", "application/json", b'{"b": "\\u00fc"}'),
        ("POST", "/f", "application/octet-stream", Path(__file__).read_bytes()),
    ]


def test_the_environment_s_proxy_is_not_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback would be that of another machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(Listener(server.url), "GET", "/") == {}


def test_a_refusal_is_the_user_s_to_mend(server: Server) -> None:
    """In the server's words; the command then ends with code 2."""
    server.status, server.body = 404, b'{"msg": "give the file"}'
    with pytest.raises(ConfigError, match="give the file"):
        ask(Listener(server.url), "GET", "/")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (503, b'{"msg": "the model is still loading"}', "just now: the model is still loading"),
        (500, b'{"msg": "a fault"}', "just now: a fault"),
    ],
)
def test_a_server_that_cannot_answer_ends_the_command_with_3(
    server: Server, capsys: pytest.CaptureFixture[str], status: int, body: bytes, message: str
) -> None:
    """And it says what it is about."""
    server.status, server.body = status, body
    with pytest.raises(typer.Exit) as caught:
        ask(Listener(server.url), "GET", "/")
    assert caught.value.exit_code == 3
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("release", ["", "0.0.1"])
@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>"])
def test_what_is_no_server_of_this_version_is_not_believed(
    server: Server, capsys: pytest.CaptureFixture[str], release: str, body: bytes
) -> None:
    """The public listener and an older release answer by JSON too."""
    server.release, server.body = release, body
    with pytest.raises(typer.Exit) as caught:
        ask(Listener(server.url), "GET", "/")
    assert caught.value.exit_code == 3
    assert f"{release!r}" in capsys.readouterr().err


def test_no_server_is_told_apart_from_one_that_hangs_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only where nothing listens may the caller write the database itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(typer.Exit):
            ask(Listener(url), "POST", "/", file=io.BytesIO(b"x"))
        thread.join()
    assert "did not answer" in capsys.readouterr().err
    with pytest.raises(NoServer, match="No server answers at"):
        ask(Listener(url), "GET", "/")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "settings.toml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("admin.internal", "http://admin.internal:9000"),
    ],
)
def test_the_address_is_that_of_the_settings(
    settings: Callable[[str], Path], host: str, address: str
) -> None:
    """A listener on any address is asked on loopback."""
    file = settings(f'[server]\nadmin_host = "{host}"\nadmin_port = 9000\n')
    assert listener_of(None, file) == (address, "")


def test_a_given_address_goes_before_the_settings() -> None:
    """If it is one."""
    assert listener_of("http://10.0.0.1:1", None) == ("http://10.0.0.1:1", "")
    for wrong in (
        "10.0.0.1:1",
        "https://10.0.0.1",
        "http://",
        "http://h:x",
        "http://h:99999",
        "http://[h",
    ):
        with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:8581"):
            listener_of(wrong, None)


def test_the_token_of_the_settings_is_shown(
    server: Server, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever address; and none where none is set."""
    token = "sixteen ch\u00e4racters"
    file = settings(f'[server]\nadmin_token = "{token}"\n')
    ask(listener_of(server.url, file), "POST", "/", body={})
    monkeypatch.setenv("SAFETY_PROXY_SERVER__ADMIN_TOKEN", token)
    ask(listener_of(server.url, None), "GET", "/")
    ask(Listener(server.url), "GET", "/")
    assert server.shown == [f"Bearer {token}"] * 2 + [None]
