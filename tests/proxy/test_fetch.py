"""Tests of safety_proxy/proxy/fetch.py: foreign pictures, from origins of every kind.

What may not be asked at all is tests/proxy/test_addresses.py.
"""

import asyncio
import logging
import socket
import threading
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.deadline import Deadline
from safety_proxy.errors import Busy, DownloadFailed
from safety_proxy.media.spool import Spooler
from safety_proxy.proxy.addresses import IPNetwork
from safety_proxy.proxy.fetch import MAX_REDIRECTS, Fetcher, Validators, canonical
from safety_proxy.settings import FetchSettings
from tests.fakes import Answer, FakeServer, Received, until
from tests.pictures import RED, plain

LIMIT_BYTES = 100_000
LOOPBACK = [ip_network("127.0.0.0/8")]
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
# Far more than any of this takes, and less than what ends a test: whatever is bounded ends sooner.
PATIENCE_SECONDS = 60


class FakeResolver(AbstractResolver):
    """Answers each look-up of a name with the next of its lists; the last one stays."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError(f"{host}: no such name")
        lists = self.answers[host]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in (lists.pop(0) if len(lists) > 1 else lists[0])
        ]

    async def close(self) -> None:
        pass


def fetcher(
    *ports: int,
    networks: Sequence[IPNetwork] = LOOPBACK,
    names: dict[str, list[list[str]]] | FakeResolver | None = None,
    total_seconds: float = PATIENCE_SECONDS,
    silence_seconds: float = PATIENCE_SECONDS,
    spool_bytes: int = 100 * LIMIT_BYTES,
) -> Fetcher:
    """A fetcher that may ask these ports (none: all) and networks."""
    settings = FetchSettings(
        allow_ports=list(ports),
        allow_networks=list(networks),
        total_seconds=total_seconds,
        silence_seconds=silence_seconds,
    )
    resolver = FakeResolver(names) if isinstance(names, dict) else names
    spooler = Spooler(file_bytes=LIMIT_BYTES, total_bytes=spool_bytes)
    return Fetcher(settings, spooler, resolver=resolver)


async def ask(
    fetching: Fetcher, address: str, known: Validators | None = None
) -> tuple[bytes, Validators] | None:
    """The body at an address and its validators."""
    with ExitStack() as opened:
        deadline = Deadline.after(PATIENCE_SECONDS)
        fetched = await fetching.fetch(address, opened, deadline=deadline, known=known)
        if fetched is None:
            return None
        return b"".join([block async for block in fetched.media.blocks()]), fetched.validators


async def fetch(fetching: Fetcher, address: str) -> bytes:
    """The body at an address; the fetcher is closed."""
    try:
        answer = await ask(fetching, address)
    finally:
        await fetching.aclose()
    assert answer is not None
    return answer[0]


async def refusal(fetching: Fetcher, address: str) -> DownloadFailed:
    """The error that fetching an address ends with; the fetcher is closed."""
    with pytest.raises(DownloadFailed) as caught:
        await fetch(fetching, address)
    assert caught.value.code == "download-file-error"
    return caught.value


@dataclass
class RawOrigin:
    """A server that answers each request with bytes as they are given."""

    url: str = ""
    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    sent_bytes: int = 0


@asynccontextmanager
async def raw_origin(
    *blocks: bytes,
    forever: bytes | None = None,
    pause_seconds: float = 0,
    host: str = "127.0.0.1",
) -> AsyncIterator[RawOrigin]:
    """Sends the blocks, then `forever` again and again (empty: nothing, and stays), or closes."""
    origin, serving = RawOrigin(), set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        origin.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            origin.heads.append(await reader.readuntil(b"\r\n\r\n"))
            for block in blocks:
                writer.write(block)
                await writer.drain()
                await asyncio.sleep(0.01)  # so that each arrives by itself
            while forever:
                writer.write(forever)
                await writer.drain()
                origin.sent_bytes += len(forever)
                await asyncio.sleep(pause_seconds)
            if forever is not None:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, host, 0)
    origin.port = server.sockets[0].getsockname()[1]
    origin.url = f"http://[{host}]:{origin.port}" if ":" in host else f"http://{host}:{origin.port}"
    try:
        yield origin
    finally:
        server.close()
        for _ in range(10):  # until a connection that was just accepted has its task
            await asyncio.sleep(0)
        await asyncio.gather(*(task for task in serving if task is not None))


def answering(
    status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None
) -> Answer:
    """An origin that gives this one answer."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer


def redirecting(*locations: str, status: int = 302) -> Answer:
    """An origin that sends `/0` to the first location, `/1` to the next, and serves all else."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        name = received.target.rpartition("/")[2]
        if name.isdecimal() and int(name) < len(locations):
            return web.Response(
                status=status,
                headers={
                    "Location": locations[int(name)],
                    "Content-Type": "application/json",
                    "ETag": '"redirect"',
                },
                body=b"not this",
            )
        return web.Response(body=received.target.encode(), headers={"ETag": '"behind"'})

    return answer


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("/a%2Bb%2Fc%27d%25e%28f?x=%2B%2F%27%25%28", "/a%2Bb%2Fc%27d%25e%28f?x=%2B%2F%27%25%28"),
        ("/a+b?c+d=e+f", "/a+b?c+d=e+f"),
        ("/a b?c d", "/a%20b?c%20d"),
        ("/é?é", "/%C3%A9?%C3%A9"),
        ("/%c3%A9", "/%c3%A9"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("//a//b", "//a//b"),
        ("/a?url=http://x/?y=z&w&&v=", "/a?url=http://x/?y=z&w&&v="),
        ("/a'b(c)*!;=@:$,~[0]", "/a'b(c)*!;=@:$,~[0]"),
        ("/a;?b;", "/a;?b;"),
        ("/a#fragment", "/a"),
        ("/a?b#f?c", "/a?b"),
        ('/a"b<c>d|e\\f^g`h{i}', "/a%22b%3Cc%3Ed%7Ce%5Cf%5Eg%60h%7Bi%7D"),
        ("/100%", "/100%"),
        ("/byte\udce9", "/byte%E9"),
        ("", "/"),
        ("?a=b", "/?a=b"),
    ],
)
async def test_address_reaches_the_origin_as_it_was_made(
    address: str, target: str, origin: FakeServer
) -> None:
    """Signed links break when an escape is rewritten; blanks around an address are dropped."""
    await fetch(fetcher(origin.port), f" {origin.url}{address}\n")
    assert [r.target for r in origin.received] == [target]


async def test_origin_learns_nothing_but_our_name(origin: FakeServer) -> None:
    """No header of a user, no cookie, no wish for an encoding."""
    origin.answer = answering(body=b"x", headers={"Set-Cookie": "a=b"})
    fetching = fetcher(origin.port)
    await ask(fetching, f"HTTP://127.0.0.1:{origin.port}/")
    await fetch(fetching, origin.url)
    for received in origin.received:
        assert {name.lower() for name in received.headers} == {
            "host",
            "accept",
            "accept-encoding",
            "user-agent",
            "connection",
        }
        assert received.headers["Accept-Encoding"] == "identity"
        assert received.headers["User-Agent"].startswith("safety-proxy/")
    assert len(origin.received) == 2


async def test_proxy_of_the_environment_is_not_used(
    origin: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look names up by itself, and so reach what must not be."""
    async with raw_origin(OK + b"Content-Length: 5\r\n\r\nproxy") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert await fetch(fetcher(), origin.url) == b"pict-rs"
    assert proxy.connections == 0


async def test_no_connection_is_kept() -> None:
    """One left open would outlive the check of its name: each fetch makes its own."""
    async with raw_origin(OK + b"Content-Length: 1\r\n\r\nx", forever=b"") as origin:
        fetching = fetcher(origin.port)
        assert await ask(fetching, origin.url) == (b"x", Validators())
        assert await fetch(fetching, origin.url) == b"x"
    assert origin.connections == 2
    assert all(b"Connection: close" in head for head in origin.heads)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int, origin: FakeServer) -> None:
    """Absolute and relative; the last answer is the picture."""
    there = f"{origin.url}/x%2Fy%20z/1"
    locations = (there, "2", f"//127.0.0.1:{origin.port}/3", "../4?", "/5#f")
    origin.answer = redirecting(*locations, status=status)
    assert await fetch(fetcher(origin.port), f"{origin.url}/0") == b"/5"
    assert [r.target for r in origin.received] == [
        "/0",
        "/x%2Fy%20z/1",
        "/x%2Fy%20z/2",
        "/3",
        "/4",
        "/5",
    ]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/y?a=%2B%27&b=c%20d", "/y?a=%2B%27&b=c%20d"),
        ("?a=b", "/x/0?a=b"),
        ("http:y", "/x/y"),
        ("../../../y", "/y"),
        (" /y ", "/y"),
        ("/ü y", "/%C3%BC%20y"),
    ],
)
async def test_redirect_arrives_as_it_was_meant(
    location: str, target: str, origin: FakeServer
) -> None:
    """Relative to where it came from, and with the bytes that it has."""
    origin.answer = redirecting(location)
    assert await fetch(fetcher(origin.port), f"{origin.url}/x/0") == target.encode()


async def test_redirect_that_calls_itself_json_leads_to_the_picture(origin: FakeServer) -> None:
    """The type of the redirect says nothing, nor does that of the picture: the bytes come back."""
    picture = plain(RED)

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        headers = {"Content-Type": "application/json"}
        if received.target == "/":
            return web.Response(status=301, headers={**headers, "Location": "/a"}, body=b"{}")
        return web.Response(headers=headers, body=picture)

    origin.answer = answer
    assert await fetch(fetcher(origin.port), origin.url) == picture


@pytest.mark.parametrize("type_", ["image/svg+xml", "text/html", "", "nonsense", "image/png"])
async def test_type_of_the_answer_is_not_judged_here(type_: str, origin: FakeServer) -> None:
    """The bytes decide, and later."""
    origin.answer = answering(body=b"<svg/>", headers={"Content-Type": type_})
    assert await fetch(fetcher(origin.port), origin.url) == b"<svg/>"


async def test_redirects_are_bounded(origin: FakeServer) -> None:
    """A loop, and a chain one longer than allowed; one that is just not is followed."""
    for chain in (["/0"], [f"/{n + 1}" for n in range(MAX_REDIRECTS + 1)]):
        origin.received.clear()
        origin.answer = redirecting(*chain)
        error = await refusal(fetcher(origin.port), f"{origin.url}/0")
        assert "too many redirects" in str(error)
        assert len(origin.received) == MAX_REDIRECTS + 1
    origin.received.clear()
    origin.answer = redirecting(*[f"/{n + 1}" for n in range(MAX_REDIRECTS)])
    assert await fetch(fetcher(origin.port), f"{origin.url}/0") == b"/5"
    assert len(origin.received) == MAX_REDIRECTS + 1


async def test_redirect_without_an_address_ends(origin: FakeServer) -> None:
    """It leads nowhere new."""
    for headers in ({}, {"Location": ""}):
        origin.answer = answering(302, headers=headers)
        assert "bad response 302" in str(await refusal(fetcher(origin.port), origin.url))
    assert len(origin.received) == 2


@pytest.mark.parametrize(
    "status", [201, 202, 204, 206, 300, 304, 400, 401, 403, 404, 410, 418, 429, 451, 500, 503]
)
async def test_answer_that_is_no_200_is_an_error_close_to_pictrs_own(
    status: int, origin: FakeServer
) -> None:
    """500 `download-file-error`, with the origin's status; nothing of it is remembered."""
    origin.answer = answering(status, b"" if status in {204, 304} else b"x")
    fetching = fetcher(origin.port)
    with pytest.raises(DownloadFailed, match=f"bad response {status}") as caught:
        await ask(fetching, f"{origin.url}/a")
    assert (caught.value.status, caught.value.code) == (500, "download-file-error")
    assert caught.value.gone is (status in {404, 410})
    origin.answer = answering(body=b"recovered")
    assert await fetch(fetching, f"{origin.url}/a") == b"recovered"


async def test_picture_is_gone_where_a_redirect_leads_nowhere(origin: FakeServer) -> None:
    """The answer at the end counts; a redirect that is refused says nothing of the picture."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        if received.target == "/":
            return web.Response(status=302, headers={"Location": "/removed"})
        return web.Response(status=410)

    origin.answer = answer
    assert (await refusal(fetcher(origin.port), origin.url)).gone
    origin.answer = redirecting("http://10.0.0.1/")
    assert not (await refusal(fetcher(origin.port), f"{origin.url}/0")).gone


KNOWN = Validators('"v1"', "Wed, 21 Oct 2015 07:28:00 GMT")


@pytest.mark.parametrize(
    ("known", "sent"),
    [
        (KNOWN, {"If-None-Match": KNOWN.etag, "If-Modified-Since": KNOWN.last_modified}),
        (Validators('W/"v1"', None), {"If-None-Match": 'W/"v1"'}),
        (Validators(None, KNOWN.last_modified), {"If-Modified-Since": KNOWN.last_modified}),
    ],
)
async def test_unchanged_picture_is_not_sent_again(
    known: Validators, sent: dict[str, str], origin: FakeServer
) -> None:
    """The origin is asked with what it said, and 304 brings None."""
    origin.answer = answering(304)
    fetching = fetcher(origin.port)
    assert await ask(fetching, origin.url, known) is None
    origin.answer = answering(body=b"changed", headers={"ETag": '"v2"'})
    assert await ask(fetching, origin.url, known) == (b"changed", Validators('"v2"'))
    await fetching.aclose()
    for received in origin.received:
        assert {n: v for n, v in received.headers.items() if n.startswith("If-")} == sent
    assert len(origin.received) == 2


@pytest.mark.parametrize("known", [None, Validators()])
async def test_not_modified_without_being_asked_is_an_error(
    known: Validators | None, origin: FakeServer
) -> None:
    """There is no earlier answer that it could mean."""
    origin.answer = answering(304)
    fetching = fetcher(origin.port)
    with pytest.raises(DownloadFailed, match="bad response 304"):
        await ask(fetching, origin.url, known)
    await fetching.aclose()
    (received,) = origin.received
    assert not any(name.startswith("If-") for name in received.headers)


async def test_validators_stay_with_the_address_that_gave_them(origin: FakeServer) -> None:
    """Behind a redirect none are sent, none are taken, and 304 is an error."""
    origin.answer = redirecting("/behind")
    fetching = fetcher(origin.port)
    assert await ask(fetching, f"{origin.url}/0", KNOWN) == (b"/behind", Validators())
    first, second = origin.received
    assert first.headers["If-None-Match"] == KNOWN.etag
    assert not any(name.startswith("If-") for name in second.headers)

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        if received.target == "/":
            return web.Response(status=302, headers={"Location": "/a"})
        return web.Response(status=304)

    origin.answer = answer
    with pytest.raises(DownloadFailed, match="bad response 304"):
        await ask(fetching, origin.url, KNOWN)
    await fetching.aclose()


@pytest.mark.parametrize(
    ("etag", "kept"),
    [
        (b'"v1"', '"v1"'),
        (b'W/"a b"', 'W/"a b"'),
        (b"unquoted", "unquoted"),
        (b'"' + b"x" * 1022 + b'"', '"' + "x" * 1022 + '"'),
        (b'"' + b"x" * 1023 + b'"', None),
        (b"", None),
        (b'"\xc3\xa9"', None),
        (b'"\xe9"', None),
        (b'"a\tb"', None),
    ],
)
async def test_validators_that_cannot_be_sent_back_are_dropped(
    etag: bytes, kept: str | None
) -> None:
    """Too long, or of other characters than a header may have; the picture is still one."""
    head = b"ETag: " + etag + b"\r\nLast-Modified: " + etag + b"\r\nContent-Length: 1\r\n\r\n"
    async with raw_origin(OK + head + b"x") as origin:
        fetching = fetcher(origin.port)
        assert await ask(fetching, origin.url) == (b"x", Validators(kept, kept))
        if kept:
            await ask(fetching, origin.url, Validators(kept, kept))
            assert b"If-None-Match: " + etag + b"\r\n" in origin.heads[-1]
        await fetching.aclose()


@pytest.mark.parametrize("length", [True, False])
async def test_size_is_counted_while_it_arrives(*, length: bool) -> None:
    """With a length told or none; exactly the limit passes, and an endless answer ends."""
    for size, passes in ((LIMIT_BYTES, True), (LIMIT_BYTES + 1, False)):
        told = f"Content-Length: {size}\r\n".encode() if length else b""
        async with raw_origin(OK + told + b"\r\n", bytes(size)) as origin:
            if passes:
                assert await fetch(fetcher(origin.port), origin.url) == bytes(size)
            else:
                error = await refusal(fetcher(origin.port), origin.url)
                assert str(error) == "Response body larger than size limit"


@pytest.mark.parametrize("head", [OK + b"\r\n", CHUNKED])
async def test_endless_answer_ends_at_the_limit(head: bytes) -> None:
    """No more than the limit, and what the sockets hold, is read."""
    block = bytes(1000) if head is not CHUNKED else b"3e8\r\n" + bytes(1000) + b"\r\n"
    async with raw_origin(head, forever=block) as origin:
        error = await refusal(fetcher(origin.port), origin.url)
        assert str(error) == "Response body larger than size limit"
    assert LIMIT_BYTES - 2000 <= origin.sent_bytes < 100 * LIMIT_BYTES


async def test_answer_that_says_that_it_is_too_large_is_not_read() -> None:
    """Its first byte is not waited for."""
    told = f"Content-Length: {LIMIT_BYTES + 1}\r\n\r\n".encode()
    async with raw_origin(OK + told, forever=b"") as origin:
        error = await refusal(fetcher(origin.port), origin.url)
        assert str(error) == "Response body larger than size limit"


async def test_no_room_is_busy_and_given_back(origin: FakeServer) -> None:
    """Not the origin's fault, and a smaller picture passes a moment later."""
    fetching = fetcher(origin.port, spool_bytes=10)
    for _ in range(2):
        origin.answer = answering(body=b"x" * 11)
        with pytest.raises(Busy):
            await ask(fetching, origin.url)
        origin.answer = answering(body=b"x" * 10)
        assert await ask(fetching, origin.url) == (b"x" * 10, Validators())
    await fetching.aclose()


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip", "x", "deflate"])
async def test_encoded_answer_is_refused(encoding: str) -> None:
    """Unpacked it might be a bomb, packed it is no picture; nobody asked for it."""
    head = f"Content-Encoding: {encoding}\r\nContent-Length: 1\r\n\r\n".encode()
    async with raw_origin(OK + head + b"x") as origin:
        error = await refusal(fetcher(origin.port), origin.url)
    assert (error.status, "unexpected encoding" in str(error)) == (500, True)


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
async def test_answer_that_is_named_unencoded_passes(encoding: str) -> None:
    """Some servers say so."""
    head = f"Content-Encoding: {encoding}\r\nContent-Length: 1\r\n\r\n".encode()
    async with raw_origin(OK + head + b"x") as origin:
        assert await fetch(fetcher(origin.port), origin.url) == b"x"


@pytest.mark.parametrize("head", [OK + b"Content-Length: 0\r\n\r\n", OK + b"\r\n"])
async def test_empty_answer_is_no_picture(head: bytes) -> None:
    """Nothing to judge and nothing to store."""
    async with raw_origin(head) as origin:
        assert "empty" in str(await refusal(fetcher(origin.port), origin.url))


UNREACHABLE = "Unable to download image, the server cannot be reached"


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"HTTP/1.1 200"], id="cut in the head"),
        pytest.param([OK + b"Content-Length: 100\r\n\r\n", b"half"], id="length lies, too long"),
        pytest.param([OK + b"Content-Length: 1\r\n\r\nmore"], id="length lies, too short"),
        pytest.param([CHUNKED + b"5\r\nhalf"], id="cut in a chunk"),
        pytest.param([CHUNKED + b"1\r\nx\r\n"], id="cut between chunks"),
        pytest.param([CHUNKED + b"nonsense\r\n"], id="no chunk"),
        pytest.param([OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"], id="two lengths"),
        pytest.param([OK + b"Content-Length: -1\r\n\r\nx"], id="negative length"),
        pytest.param([OK + b"Content-Length: +1\r\n\r\nx"], id="odd length"),
        pytest.param([OK + b"Content-Length: 1" + b"0" * 40 + b"\r\n\r\nx"], id="huge length"),
        pytest.param(
            [OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
            id="length and chunks",
        ),
        pytest.param([plain(RED)], id="a picture without a head"),
        pytest.param([b"SSH-2.0-OpenSSH_9.2\r\n"], id="another protocol"),
    ],
)
async def test_broken_answer_is_no_picture(blocks: list[bytes]) -> None:
    """Half a picture is not judged, and no error of another kind comes out."""
    async with raw_origin(*blocks) as origin:
        error = await refusal(fetcher(origin.port), origin.url)
    assert (error.status, str(error)) == (500, UNREACHABLE)
    assert origin.heads


@pytest.mark.parametrize(
    ("start", "forever"),
    [
        pytest.param(b"HTTP/1.1 200 ", b"x" * 1000, id="status line"),
        pytest.param(OK + b"X: ", b"x" * 1000, id="value"),
        pytest.param(OK, b"x" * 1000, id="name"),
        pytest.param(OK, b"X: y\r\n", id="headers"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n", id="trailers"),
    ],
)
async def test_endless_head_ends_by_its_size(start: bytes, forever: bytes) -> None:
    """Long before the time is over."""
    async with raw_origin(start, forever=forever) as origin:
        assert str(await refusal(fetcher(origin.port), origin.url)) == UNREACHABLE
    assert 0 < origin.sent_bytes < 10_000_000


TOO_LONG = "Unable to download image, it took too long"


@pytest.mark.parametrize(
    ("start", "forever"),
    [
        pytest.param(OK, b"x", id="head"),
        pytest.param(OK + b"\r\n", b"x", id="body"),
        pytest.param(CHUNKED, b"1\r\nx\r\n", id="chunks"),
        pytest.param(CHUNKED + b"1;", b"x", id="chunk extension"),
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", id="interim answers"),
    ],
)
async def test_drip_ends_with_the_time(start: bytes, forever: bytes) -> None:
    """Each byte ends a silence, so only the total can end it."""
    async with raw_origin(start, forever=forever, pause_seconds=0.02) as origin:
        fetching = fetcher(origin.port, total_seconds=1)
        started = time.monotonic()
        assert str(await refusal(fetching, origin.url)) == TOO_LONG
        assert 0.9 < time.monotonic() - started < PATIENCE_SECONDS
    assert origin.sent_bytes > len(forever)


async def test_redirects_share_one_time(origin: FakeServer) -> None:
    """A chain of slow ones takes no longer."""

    async def slowly(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        await asyncio.sleep(0.4)
        return web.Response(status=302, headers={"Location": "/again"})

    origin.answer = slowly
    assert str(await refusal(fetcher(origin.port, total_seconds=1), origin.url)) == TOO_LONG
    assert 1 <= len(origin.received) < MAX_REDIRECTS


@pytest.mark.parametrize("blocks", [[], [OK], [OK + b"\r\n"], [OK + b"\r\n", b"x"]])
async def test_silence_ends_before_the_time(blocks: list[bytes]) -> None:
    """Before the answer, in its head and in its body."""
    async with raw_origin(*blocks, forever=b"") as origin:
        started = time.monotonic()
        fetching = fetcher(origin.port, silence_seconds=1)
        assert str(await refusal(fetching, origin.url)) == TOO_LONG
        assert 0.9 < time.monotonic() - started < PATIENCE_SECONDS - 10
    assert len(origin.heads) == 1


async def test_connection_that_is_never_made_ends_by_the_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a server behind a wall that drops what comes; aiohttp's own error tells the URL."""

    async def hang(*args: Any, **kwargs: Any) -> socket.socket:
        return await asyncio.Future()

    monkeypatch.setattr("aiohappyeyeballs.start_connection", hang)
    started = time.monotonic()
    error = await refusal(fetcher(silence_seconds=0.2), "http://127.0.0.1/Secret")
    assert (error.status, str(error)) == (500, TOO_LONG)
    assert "Secret" not in "".join(traceback.format_exception(error))
    assert time.monotonic() - started < PATIENCE_SECONDS - 10


@pytest.mark.parametrize("left_seconds", [0.5, 0, -5])
async def test_deadline_of_the_request_ends_it_sooner(left_seconds: float) -> None:
    """Than the settings would."""
    async with raw_origin(forever=b"") as origin:
        fetching = fetcher(origin.port)
        started = time.monotonic()
        with ExitStack() as opened, pytest.raises(DownloadFailed) as caught:
            await fetching.fetch(origin.url, opened, deadline=Deadline.after(left_seconds))
        await fetching.aclose()
        assert (caught.value.status, str(caught.value)) == (500, TOO_LONG)
        assert time.monotonic() - started < PATIENCE_SECONDS - 10


async def test_silent_name_server_holds_up_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More look-ups hang than the loop has threads: other work goes on, and they end in time."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    answer, begun = threading.Event(), []

    def hang(*args: Any, **kwargs: Any) -> list[Any]:
        begun.append(args)
        answer.wait(2 * PATIENCE_SECONDS)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    fetching = fetcher(total_seconds=1)
    asked = asyncio.gather(
        *(ask(fetching, f"http://{n}.example/") for n in range(40)), return_exceptions=True
    )
    await until(lambda: len(begun) > 1)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.to_thread(len, begun)
        assert [str(error) for error in await asked] == [TOO_LONG] * 40
    finally:
        answer.set()
        await fetching.aclose()


@pytest.fixture
async def closed_port(origin: FakeServer) -> int:
    """A port where nothing listens any more."""
    port = origin.port
    await origin.stop()
    return port


async def test_origin_that_is_down_is_its_own_fault(closed_port: int) -> None:
    """500, without the system's text."""
    error = await refusal(fetcher(closed_port), f"http://127.0.0.1:{closed_port}/")
    assert (error.status, str(error)) == (500, UNREACHABLE)


@pytest.mark.parametrize("answers", [{}, {"x.example": [[]]}])
async def test_name_that_has_no_address_is_an_error_of_the_origin(
    answers: dict[str, list[list[str]]],
) -> None:
    """500, as pict-rs has it."""
    error = await refusal(fetcher(80, names=answers), "http://x.example/")
    assert (error.status, str(error)) == (500, UNREACHABLE)


async def test_error_of_the_system_resolver_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is not passed on."""

    def unknown(*args: Any, **kwargs: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await refusal(fetcher(80), "http://x.example/")
    assert (error.status, str(error)) == (500, UNREACHABLE)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://Secret@x.example/Secret\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/Secret?Secret\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://secret.example/Secret\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/Secret\r\n\r\n",
        OK + b"Content-Length: x\r\n\r\n",
        OK + b"Content-Length: 9\r\n\r\nx",
        b"Secret\r\n\r\n",
        b"",
        None,
    ],
)
async def test_no_error_tells_the_address(
    answer: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its message, nor a trace of it, nor a log: addresses are private and hold keys."""
    caplog.set_level(logging.DEBUG)
    async with raw_origin(*([answer] if answer else []), forever=None if answer else b"") as origin:
        fetching = fetcher(silence_seconds=0.5, names={})
        address = f"{origin.url}/Secret?key=Secret#Secret"
        if answer is None:
            address = address.replace("127.0.0.1", "Secret.with:a@login")
        error = await refusal(fetching, address)
    told = "".join(traceback.format_exception(error)) + str(error) + error.public_message
    assert "secret" not in (told + caplog.text).lower()
    assert "DownloadFailed" in told


@pytest.mark.parametrize(
    "address",
    ["http://secret\uff0fx/", "http://[secret:", "http://x:secret/", "http://\u00adsecret/secret"],
)
async def test_no_refusal_tells_the_address(address: str) -> None:
    """Not even that of an address which cannot be read."""
    error = await refusal(fetcher(), address)
    assert error.status == 400
    assert "secret" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("HTTP://EXAMPLE.com", "http://example.com/"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:/a", "https://example.com/a"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER。example/", "http://bücher.example/"),
        ("http://①.①.①.①/", "http://1.1.1.1/"),
        ("http://[2606:4700:0::1]/", "http://[2606:4700::1]/"),
        ("http://x.example/a/../b/./c", "http://x.example/b/c"),
        ("http://x.example/a/%2e%2E/b", "http://x.example/b"),
        ("http://x.example/a#b", "http://x.example/a"),
        ("http://x.example/%7ea%27é", "http://x.example/~a'%c3%A9"),
        ("http://x.example/?q=%27é", "http://x.example/?q='%c3%A9"),
        (" http://x.example/\n", "http://x.example/"),
        ("http://x.example?a", "http://x.example/?a"),
    ],
)
def test_spellings_of_one_address_have_one_key(first: str, second: str) -> None:
    """Whoever asks finds what was stored for the other."""
    assert canonical(first) == canonical(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("http://x.example/", "https://x.example/"),
        ("http://x.example/", "http://x.example:8080/"),
        ("http://x.example/", "http://y.example/"),
        ("http://x.example/a", "http://x.example/A"),
        ("http://x.example/a", "http://x.example/a/"),
        ("http://x.example/a%2Fb", "http://x.example/a/b"),
        ("http://x.example/a%3Fb", "http://x.example/a?b"),
        ("http://x.example/?a=b%26c", "http://x.example/?a=b&c"),
        ("http://x.example/?a=%2B", "http://x.example/?a=+"),
        ("http://x.example/?a=%2523", "http://x.example/?a=%23"),
    ],
)
def test_addresses_that_mean_different_things_have_different_keys(first: str, second: str) -> None:
    """One picture is never given for another."""
    assert canonical(first) != canonical(second)


@pytest.mark.parametrize(
    "address",
    ["", "x", "/x", "//x/", "ftp://x/", "http://", "http://u@x/", "http://127.1/", "http://x:0/"],
)
def test_what_cannot_be_fetched_has_no_key(address: str) -> None:
    """400, as fetching it would bring."""
    with pytest.raises(DownloadFailed) as caught:
        canonical(address)
    assert (caught.value.status, caught.value.code) == (400, "download-file-error")


HOSTS = st.sampled_from(["x.example", "X.Example.", "bücher.example", "①.①.①.①", "[::FFFF:a00:1]"])
PIECES = [*"/?#&=+;:@.%25eE2fF7é\udce9 '()[]|\\~\u3000", "%2e", "%2F", "%C3%A9"]
TAILS = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=30).map("".join)


@given(
    scheme=st.sampled_from(["http", "HTTPS"]),
    host=HOSTS | st.text(max_size=12),
    port=st.sampled_from(["", ":", ":80", ":443", ":0443", ":8080"]),
    tail=TAILS,
)
def test_key_of_a_key_is_itself(scheme: str, host: str, port: str, tail: str) -> None:
    """And it is plain ASCII, whatever the address was."""
    try:
        key = canonical(f"{scheme}://{host}{port}/{tail}")
    except DownloadFailed:
        return
    assert canonical(key) == key
    assert key.isascii()
    assert key.isprintable()
    assert not {" ", "#"} & set(key)


@given(host=HOSTS, tail=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_ordinary_address_has_a_key(host: str, tail: str) -> None:
    """So the test before this one is not about refusals only."""
    assert canonical(f"http://{host}/{tail}").startswith("http://")


@given(address=st.text())
def test_any_text_is_an_address_or_refused(address: str) -> None:
    """No error of another kind."""
    for text in (address, f"http://{address}", f"http://x.example/{address}"):
        with suppress(DownloadFailed):
            canonical(text)
