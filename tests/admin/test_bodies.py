"""Tests of safety_proxy/admin/bodies.py: what the admin's routes take, and how they say no."""

import io
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import ClientSession, web

from safety_proxy.admin.bodies import HOST, TOKEN, file_of, guarded, json_of, text_in
from safety_proxy.errors import ConfigError, StoreUnavailable
from safety_proxy.media.spool import Spooler
from tests.fakes import ask

JSON = {"Content-Type": "application/json"}


@guarded
async def echo(request: web.Request) -> web.StreamResponse:
    return web.json_response(await json_of(request))


@guarded
async def measure(request: web.Request) -> web.StreamResponse:
    with ExitStack() as opened:
        media = await file_of(request, Spooler(file_bytes=4, total_bytes=10), opened)
        return web.json_response({"bytes": media.size_bytes})


@guarded
async def fail(request: web.Request) -> web.StreamResponse:
    raise StoreUnavailable("the disk is full")


async def from_afar(request: web.Request) -> web.StreamResponse:
    """As `echo`, asked by another machine."""
    return await echo(request.clone(remote=request.headers["From"]))


@pytest.fixture
def token() -> str:
    """That of the settings; a test may have another."""
    return ""


@pytest.fixture
async def url(token: str) -> AsyncIterator[str]:
    app = web.Application()
    app[HOST], app[TOKEN] = "Admin.example.com", token
    app.add_routes([web.post("/echo", echo), web.post("/measure", measure), web.get("/fail", fail)])
    app.add_routes([web.post("/afar", from_afar)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_json_object_is_taken(client: ClientSession, url: str) -> None:
    """With its type."""
    answer = await ask(client, "POST", url, "/echo", json={"a": 1})
    assert (answer.status, answer.json) == (200, {"a": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": b"{}", "headers": {"Content-Type": "text/plain"}}, "Content-Type"),
        ({"data": b"{}"}, "Content-Type"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, "no JSON"),
        ({"data": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, "no JSON"),
        ({"data": b"\xff", "headers": {"Content-Type": "application/json"}}, "no JSON"),
        ({"json": [1]}, "not a JSON object"),
        ({"json": {}, "headers": {"Origin": "http://evil.example"}}, "not for a web page"),
    ],
)
async def test_what_a_web_page_could_send_is_refused(
    client: ClientSession, url: str, options: dict[str, Any], message: str
) -> None:
    """A form of any page can be sent to 127.0.0.1, as text; not as JSON without being asked."""
    answer = await ask(client, "POST", url, "/echo", **options)
    assert answer.status == 400
    assert message in answer.json["msg"]


async def test_a_file_is_taken_up_to_the_limit(client: ClientSession, url: str) -> None:
    """That of uploads."""
    assert (await ask(client, "POST", url, "/measure", data=b"1234")).json == {"bytes": 4}
    answer = await ask(client, "POST", url, "/measure", data=b"12345")
    assert (answer.status, answer.json["code"]) == (413, "too_large")


async def test_errors_keep_their_status_and_their_words(client: ClientSession, url: str) -> None:
    """The admin is told what the log would say."""
    answer = await ask(client, "GET", url, "/fail")
    assert (answer.status, answer.json) == (503, {"msg": "the disk is full", "code": "store"})


def test_fields_are_text() -> None:
    """Or not there."""
    assert text_in({"note": " why "}, "note") == "why"
    assert text_in({}, "note") == ""
    with pytest.raises(ConfigError, match="note must be text, not 5"):
        text_in({"note": 5}, "note")
    with pytest.raises(ConfigError, match="note is no text: surrogates not allowed at 1"):
        text_in({"note": "x\ud800"}, "note")


async def test_a_body_that_is_too_large_is_answered_like_other_errors(
    client: ClientSession, url: str
) -> None:
    """The command line shows what it says."""
    body = io.BytesIO(b"x" * 2_000_000)
    answer = await ask(client, "POST", url, "/echo", data=body, headers=JSON)
    assert (answer.status, answer.json["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8581", 200),
        ("proxy.LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:8581", 200),
        ("[::1]", 200),
        ("safety-proxy:8581", 200),
        ("safety-proxy.lemmy.svc.cluster.local:8581", 200),
        ("admin.example.com:8581", 200),
        ("rebound.example:8581", 400),
        ("127.0.0.1.rebound.example", 400),
        ("rebound.example.", 400),
        ("localhost.example", 400),
        ("[::1", 400),
    ],
)
async def test_a_name_that_somebody_could_own_is_no_way_in(
    client: ClientSession, url: str, host: str, status: int
) -> None:
    """A page may let its own name lead to loopback, and be of one origin with what is there."""
    answer = await ask(client, "POST", url, "/echo", json={}, headers={"Host": host})
    assert answer.status == status


TOKEN_OF_16 = "sixteen ch\u00e4racters"


@pytest.mark.parametrize(
    ("token", "shown", "status"),
    [
        ("", None, 401),
        ("", "Bearer ", 401),
        (TOKEN_OF_16, None, 401),
        (TOKEN_OF_16, TOKEN_OF_16, 401),
        (TOKEN_OF_16, "Bearer ", 401),
        (TOKEN_OF_16, f"Bearer {TOKEN_OF_16}x", 401),
        (TOKEN_OF_16, f"Basic {TOKEN_OF_16}", 401),
        (TOKEN_OF_16, f"Bearer {TOKEN_OF_16}", 200),
    ],
)
async def test_another_machine_has_to_show_the_token(
    client: ClientSession, url: str, shown: str | None, status: int
) -> None:
    """Without one there is none to show; the message says what to set."""
    headers = JSON | {"From": "10.0.0.9"} | ({"Authorization": shown} if shown else {})
    answer = await ask(client, "POST", url, "/afar", json={"a": 1}, headers=headers)
    assert answer.status == status
    assert status == 200 or "server.admin_token" in answer.json["msg"]


@pytest.mark.parametrize(
    ("remote", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("::ffff:10.0.0.9", 401),
        ("172.17.0.1", 401),
        ("", 401),
    ],
)
async def test_this_machine_needs_no_token(
    client: ClientSession, url: str, remote: str, status: int
) -> None:
    """By whichever of its own addresses it comes; a container's host is another machine."""
    headers = JSON | {"From": remote}
    answer = await ask(client, "POST", url, "/afar", json={"a": 1}, headers=headers)
    assert answer.status == status
