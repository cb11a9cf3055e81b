"""Tests of safety_proxy/proxy/forward.py: reads pass untouched, and what breaks is told."""

import asyncio
import gzip
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import ClientSession, web

from safety_proxy.proxy.forward import Pictrs
from safety_proxy.settings import UpstreamSettings
from safety_proxy.tasks import spawn
from tests.fakes import Answered, FakeServer, Received, Running, ask, running_proxy, until, upload
from tests.pictures import RED, plain

BODY = bytes(range(256)) * 40
ETAG = '"Erc0x8mro1RpSaJItLYVXdTHbkqhRvZqP1dwAdhVlEoAAAAAFJUH"'
CACHE = "public, max-age=0, immutable, stale-while-revalidate=604800"


def zipped() -> bytes:
    """A gzip body whose length differs from what it holds."""
    return gzip.compress(BODY, mtime=0)


async def as_store(request: web.BaseRequest, received: Received) -> web.StreamResponse:
    """A stored picture with pict-rs' headers: ranges, conditions, HEAD, and an encoded form."""
    common = {
        "ETag": ETAG,
        "Accept-Ranges": "bytes",
        "Cache-Control": CACHE,
        "Last-Modified": "Wed, 25 Nov 2026 12:47:02 GMT",
        "Content-Type": "image/png",
    }
    if request.headers.get("If-None-Match") == ETAG:
        return web.Response(status=304, headers=common)
    if received.target.endswith("zipped"):
        return web.Response(body=zipped(), headers={**common, "Content-Encoding": "gzip"})
    if received.target.endswith("missing"):
        return web.Response(status=404)
    if request.headers.get("If-Range", ETAG) == ETAG and (span := request.headers.get("Range")):
        if span == "bytes=99999-":
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(BODY)}"})
        first, last = {"bytes=0-1": (0, 1), "bytes=-5": (len(BODY) - 5, len(BODY) - 1)}[span]
        common["Content-Range"] = f"bytes {first}-{last}/{len(BODY)}"
        return web.Response(status=206, headers=common, body=BODY[first : last + 1])
    return web.Response(body=BODY, headers=common)


def seen(answer: Answered) -> tuple[int, bytes, dict[str, str | None]]:
    """All of an answer that may not differ between pict-rs and the proxy."""
    names = (
        "Content-Range Accept-Ranges ETag Last-Modified Cache-Control Content-Length "
        "Content-Encoding Content-Type"
    )
    return answer.status, answer.body, {name: answer.headers.get(name) for name in names.split()}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Range": "bytes=0-1"},
        {"Range": "bytes=-5"},
        {"Range": "bytes=99999-"},
        {"Range": "bytes=0-1", "If-Range": ETAG},
        {"Range": "bytes=0-1", "If-Range": '"other"'},
        {"If-None-Match": ETAG},
        {"Accept-Encoding": "gzip, br"},
    ],
)
@pytest.mark.parametrize("name", ["a.png", "zipped", "missing"])
async def test_read_is_the_same_as_from_pictrs_itself(
    method: str,
    headers: dict[str, str],
    name: str,
    client: ClientSession,
    proxy: Running,
    pictrs: FakeServer,
) -> None:
    """Status, headers and body, with ranges and conditions, encoded or not."""
    pictrs.answer = as_store
    target = f"/image/original/{name}"
    direct = await ask(client, method, pictrs.url, target, headers=headers)
    through = await ask(client, method, proxy.url, target, headers=headers)
    assert seen(through) == seen(direct)


async def test_query_reaches_pictrs_byte_for_byte(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """No escape is rewritten, none added."""
    target = "/image/process.jpg?src=a%2Bb%2F%27%25%28'()+c&thumbnail=10"
    await ask(client, "GET", proxy.url, target)
    assert [r.target for r in pictrs.received] == [target]


async def test_pictrs_gets_no_header_that_nobody_sent(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Neither the client library's own, nor the user's session."""
    headers = {"Authorization": "x", "Cookie": "x", "X-Api-Token": "k", "Connection": "X-Api-Token"}
    await ask(client, "GET", proxy.url, "/image/original/a", headers=headers)
    await ask(client, "GET", proxy.url, "/image/original/a", headers={"X-Api-Token": "k"})
    first, second = ({n.lower() for n in r.headers} for r in pictrs.received)
    assert first == {"host"}
    assert second == {"host", "x-api-token"}


async def test_body_of_a_passing_post_arrives(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """`set_not_found` has JSON to say."""
    await ask(client, "POST", proxy.url, "/internal/set_not_found", json={"alias": "a.png"})
    (received,) = pictrs.received
    assert json.loads(received.body) == {"alias": "a.png"}
    assert received.headers["Content-Type"] == "application/json"


async def test_redirect_of_pictrs_is_the_client_s_to_follow(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """An object store's public address passes as it is."""

    async def redirect(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=303, headers={"Location": "http://store.example/a?b=%2F"})

    pictrs.answer = redirect
    answer = await ask(client, "GET", proxy.url, "/image/original/a")
    assert answer.status == 303
    assert answer.headers["Location"] == "http://store.example/a?b=%2F"


async def test_large_answer_streams(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """The first bytes are with the client before pict-rs has sent the last."""
    first_seen = asyncio.Event()
    block = bytes(64 * 1024)

    async def slowly(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(block)
        await first_seen.wait()
        for _ in range(200):
            await response.write(block)
        return response

    pictrs.answer = slowly
    digest, expected = hashlib.sha256(), hashlib.sha256(block * 201)
    async with client.get(f"{proxy.url}/image/original/a") as answer:
        async for chunk in answer.content.iter_any():
            first_seen.set()
            digest.update(chunk)
    assert digest.digest() == expected.digest()


@asynccontextmanager
async def raw_upstream(*replies: bytes, reset: bool = False) -> AsyncIterator[str]:
    """A server that answers each connection with such bytes and closes it."""
    left = list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()
            if reset:
                await asyncio.sleep(0.05)
                socket = writer.get_extra_info("socket")
                socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: close by reset
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
)
async def test_answer_that_pictrs_breaks_off_is_cut_for_the_client_too(
    *,
    framing: bytes,
    reset: bool,
    client: ClientSession,
) -> None:
    """A whole-looking answer of half a picture would be cached for years."""
    async with (
        raw_upstream(b"HTTP/1.1 200 OK\r\n" + framing, reset=reset) as url,
        running_proxy(url) as proxy,
    ):
        async with client.get(f"{proxy.url}/image/original/a") as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        assert proxy.metrics.failures["internal"] == 0


async def test_answer_that_stalls_is_cut(client: ClientSession, pictrs: FakeServer) -> None:
    """After `read_seconds` of silence."""

    async def stall(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        await asyncio.Event().wait()
        return response

    pictrs.answer = stall
    async with (
        running_proxy(pictrs.url, upstream={"read_seconds": 0.1}) as proxy,
        client.get(f"{proxy.url}/image/original/a") as answer,
    ):
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_silent_pictrs_is_504(client: ClientSession, pictrs: FakeServer) -> None:
    """For reads and uploads, in JSON."""

    async def never(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    pictrs.answer = never
    async with running_proxy(pictrs.url, upstream={"read_seconds": 0.1}) as proxy:
        for answer in (
            await ask(client, "GET", proxy.url, "/image/original/a"),
            await upload(client, proxy.url, plain(RED)),
        ):
            assert answer.status == 504
            assert answer.json["code"] == "upstream-error"


@pytest.mark.parametrize("reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_pictrs_that_breaks_before_its_answer_is_502(
    reply: bytes, client: ClientSession
) -> None:
    """Closed, or no HTTP at all."""
    async with raw_upstream(reply) as url, running_proxy(url) as proxy:
        for answer in (
            await ask(client, "GET", proxy.url, "/image/original/a"),
            await upload(client, proxy.url, plain(RED)),
        ):
            assert answer.status == 502
            assert answer.json["code"] == "upstream-error"


async def test_client_that_leaves_ends_the_request_to_pictrs(
    proxy: Running, pictrs: FakeServer
) -> None:
    """Nothing is read from pict-rs that nobody wants."""
    gone = asyncio.Event()

    async def forever(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(64 * 1024))
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    pictrs.answer = forever
    host, port = proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /image/original/a HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(100_000)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await gone.wait()


async def test_client_that_leaves_while_pictrs_thinks_ends_the_request(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Before the first byte of an answer as well."""
    gone = asyncio.Event()

    async def think(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError

    pictrs.answer = think
    asking = spawn(ask(client, "GET", proxy.url, "/image/original/a"), name="ask")
    await until(lambda: bool(pictrs.received))
    asking.cancel()
    await gone.wait()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_connection_that_pictrs_closes_after_each_answer_breaks_nothing(
    method: str, client: ClientSession
) -> None:
    """It says keep-alive and closes all the same: every request is answered."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    target = {"GET": "/image/original/a", "POST": "/internal/purge?alias=a"}[method]
    async with raw_upstream(reply) as url, running_proxy(url) as proxy:
        for _ in range(20):
            answer = await ask(client, method, proxy.url, target)
            assert (answer.status, answer.body) == (200, b"ok")


async def test_twenty_uploads_over_closing_connections_are_stored_once_each(
    client: ClientSession, pictrs: FakeServer
) -> None:
    """An upload cannot be repeated, so it never meets a stale connection."""
    async with running_proxy(pictrs.url) as proxy:
        for _ in range(20):
            assert (await upload(client, proxy.url, plain(RED))).status == 201
    assert len(pictrs.stored) == 20
    assert {r.headers.get("Connection") for r in pictrs.stored} == {"close"}


async def test_encoded_answer_to_an_upload_passes_as_it_is(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Header and body agree."""
    body = gzip.compress(json.dumps({"msg": "ok" * 1000}).encode())

    async def answer_zipped(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=201, body=body, headers={"Content-Encoding": "gzip"})

    pictrs.answer = answer_zipped
    answer = await upload(client, proxy.url, plain(RED))
    assert (answer.status, answer.body) == (201, body)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Length"] == str(len(body))


async def test_stored_parts_carry_nothing_of_the_client_s_form(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Field, name and type are the proxy's; the length is told beforehand."""
    await upload(client, proxy.url, plain(RED))
    (received,) = pictrs.stored
    (part,) = received.parts
    assert dict(part.items()) == {
        "Content-Disposition": 'form-data; name="images[]"; filename="picture"',
        "Content-Type": "application/octet-stream",
    }
    assert received.headers["Content-Length"] == str(len(received.body))
    assert "Transfer-Encoding" not in received.headers


@pytest.mark.parametrize(("status", "alive"), [(200, True), (500, False), (302, False)])
async def test_pictrs_is_alive_when_its_health_check_says_so(
    *,
    status: int,
    alive: bool,
    pictrs: FakeServer,
) -> None:
    """And not when it answers otherwise."""

    async def health(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        assert received.target == "/healthz"
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    pictrs.answer = health
    upstream = Pictrs(UpstreamSettings.model_validate({"url": pictrs.url}))
    assert await upstream.is_alive() is alive
    await pictrs.stop()
    assert not await upstream.is_alive()
    await upstream.aclose()


async def test_base_address_may_have_a_path(client: ClientSession, pictrs: FakeServer) -> None:
    """pict-rs behind a prefix."""
    async with running_proxy(f"{pictrs.url}/prefix/") as proxy:
        await ask(client, "GET", proxy.url, "/image/original?alias=a%2Fb")
    assert [r.target for r in pictrs.received] == ["/prefix/image/original?alias=a%2Fb"]


async def test_equal_files_are_stored_one_after_another(
    client: ClientSession, pictrs: FakeServer, proxy: Running
) -> None:
    """pict-rs stumbles over simultaneous uploads of one file; other files do not wait for it."""
    under_way: list[str] = []
    most: dict[str, int] = {}
    overlapped = asyncio.Event()

    async def slow(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        digest = hashlib.sha256(received.files[0]).hexdigest()
        under_way.append(digest)
        most[digest] = max(most.get(digest, 0), under_way.count(digest))
        if len(set(under_way)) > 1:
            overlapped.set()
        await overlapped.wait()
        under_way.remove(digest)
        return await FakeServer.as_pictrs(request, received)

    pictrs.answer = slow
    one, other = plain(RED), plain(RED, size=(17, 17))
    answers = await asyncio.gather(
        *(upload(client, proxy.url, body) for body in (one, one, one, other))
    )
    assert [answer.status for answer in answers] == [201] * 4
    assert sorted(most.values()) == [1, 1]
