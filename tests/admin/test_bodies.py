"""Tests of safety_proxy/admin/bodies.py: what the admin's routes take, and how they say no."""

import io
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import ClientSession, web

from safety_proxy.admin.bodies import HOST, file_of, guarded, json_of, text_in
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


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    app[HOST] = "Admin.example.com"
    app.add_routes([web.post("/echo", echo), web.post("/measure", measure), web.get("/fail", fail)])
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
