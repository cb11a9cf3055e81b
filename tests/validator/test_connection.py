"""Tests of safety_proxy/validator/connection.py: the framing of one request and its answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from safety_proxy.errors import DeadlineExceeded, MalformedRequest
from safety_proxy.tasks import spawn
from safety_proxy.validator import connection as connections
from safety_proxy.validator.connection import Answer, Connection
from tests.fakes import until
from tests.validator.clients import Client, ask, connected
from tests.validator.pictrs import chunked, head

OK = Answer(200, "ok")

Handle = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handle) -> AsyncIterator[tuple[int, asyncio.Queue[object]]]:
    """A port whose connections `handle` gets; and what became of each: an error or None."""
    outcomes: asyncio.Queue[object] = asyncio.Queue()
    tasks = []

    async def serve(connection: Connection) -> None:
        outcome: object = None
        try:
            await handle(connection)
        except Exception as error:  # noqa: BLE001 -- the test looks at it
            outcome = error
        await connection.aclose()
        outcomes.put_nowait(outcome)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(spawn(serve(Connection(reader, writer)), name="test"))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], outcomes
        await asyncio.gather(*tasks)


async def echo(connection: Connection) -> None:
    """Answers with the body as text."""
    await connection.head(5)
    body = b"".join([chunk async for chunk in connection.body()])
    await connection.answer(Answer(200, body.decode()))


@pytest.mark.parametrize(
    "pieces",
    [
        [head("transfer-encoding: chunked") + chunked([b"some ", b"text"])],
        [head("Transfer-Encoding: Chunked"), *(bytes([b]) for b in chunked([b"some ", b"text"]))],
        [head("content-length: 9"), b"some ", b"text"],
        [head("content-length: 9", "content-length: 9") + b"some text"],
        [head("transfer-encoding: chunked"), b"9;ext=1\r\nsome text\r\n0\r\nTrailer: x\r\n\r\n"],
        [b"POST / HTTP/1.0\r\ncontent-length: 9\r\n\r\n", b"some text"],
        [bytes([b]) for b in head("content-length: 9") + b"some text"],
    ],
)
async def test_body_is_read_whole(pieces: list[bytes]) -> None:
    """However it is framed, and wherever the network cuts it."""
    async with serving(echo) as (port, _):
        reply = await ask(port, *pieces)
    assert (reply.status, reply.json) == (200, {"msg": "some text"})


HEADS = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "no host": b"POST / HTTP/1.1\r\n\r\n",
    "two lengths": head("content-length: 9", "content-length: 8"),
    "two lengths in a line": head("content-length: 9, 8"),
    "length and encoding": head("content-length: 9", "transfer-encoding: chunked"),
    "encoding and length": head("transfer-encoding: chunked", "content-length: 9"),
    "two encodings": head("transfer-encoding: chunked", "transfer-encoding: chunked"),
    "encoded twice": head("transfer-encoding: gzip, chunked"),
    "an encoding not known": head("transfer-encoding: identity"),
    "an encoding and a tab inside": head("transfer-encoding: chun\tked"),
    "an empty length": head("content-length: "),
    "a negative length": head("content-length: -1"),
    "a length with a sign": head("content-length: +9"),
    "a hexadecimal length": head("content-length: 0x9"),
    "a space before the colon": head("content-length : 9"),
    "a huge length": head("content-length: " + "9" * 21),
    "a header line too long": head("x: " + "y" * 200_000),
    "too many header lines": head(*["x: y"] * 50_000),
    "a request line too long": head(path="/" + "x" * 200_000),
}


@pytest.mark.parametrize("name", HEADS)
async def test_head_that_could_be_read_in_two_ways_is_refused(name: str) -> None:
    """Or that is none; the client is told, and nothing of a body is looked at."""

    async def handle(connection: Connection) -> None:
        try:
            await connection.head(5)
        except MalformedRequest as error:
            await connection.answer(Answer(error.status, str(error)))
            raise

    async with serving(handle) as (port, outcomes):
        reply = await ask(port, HEADS[name])
        assert isinstance(await outcomes.get(), MalformedRequest)
    assert reply.status == 400
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\nsome text\r\n0\r\n\r\n",
        b"9\r\nsome text0\r\n\r\n",
        b"-9\r\nsome text\r\n0\r\n\r\n",
        b"9" * 30 + b"\r\n",
        b"9;" + b"x" * 200_000,
        b"0\r\n" + b"trailer: x\r\n" * 20_000,
    ],
)
async def test_damaged_chunks_are_refused(body: bytes) -> None:
    """The body has no end then, and what came of it is nothing."""
    async with serving(echo) as (port, outcomes), connected(port) as client:
        await client.send(head("transfer-encoding: chunked"), body)
        assert isinstance(await outcomes.get(), MalformedRequest)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /",
        head("content-length: 9")[:-2],
        head("content-length: 9"),
        head("content-length: 9") + b"some tex",
        head("transfer-encoding: chunked") + chunked([b"some text"])[:-2],
        head("transfer-encoding: chunked") + b"9\r\nsome text\r\n",
    ],
)
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_client_that_leaves_before_the_end_has_sent_nothing(sent: bytes, how: str) -> None:
    """A body that is not complete never looks as if it were."""
    async with serving(echo) as (port, outcomes), connected(port) as client:
        await client.send(sent)
        if how == "closes":
            client.writer.write_eof()
        else:
            client.leave()
        assert isinstance(await outcomes.get(), ConnectionError)


async def test_client_that_is_slow_to_ask_is_not_waited_for() -> None:
    """It holds a connection for so long and no longer."""

    async def handle(connection: Connection) -> None:
        await connection.head(0.05)

    async with serving(handle) as (port, outcomes), connected(port) as client:
        await client.send(head()[:-1])
        assert isinstance(await outcomes.get(), DeadlineExceeded)
        assert await client.closed() == b""


@pytest.mark.parametrize("expects", [True, False])
async def test_100_continue_is_said_to_whom_waits_for_it(expects: bool) -> None:  # noqa: FBT001
    """When the body is asked for, not before; and to nobody else."""
    waiting = ["expect: 100-continue"] if expects else []
    asked = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.head(5)
        asked.set()
        await echo_body(connection)

    async def echo_body(connection: Connection) -> None:
        body = b"".join([chunk async for chunk in connection.body()])
        await connection.answer(Answer(200, body.decode()))

    async with serving(handle) as (port, _), connected(port) as client:
        await client.send(head("content-length: 4", *waiting))
        await asked.wait()
        interim = await client.reader.readuntil(b"\r\n\r\n") if expects else b""
        await client.send(b"text")
        reply = await client.reply()
    assert interim.startswith(b"HTTP/1.1 100 ") is expects
    assert (reply.status, reply.json, reply.interim) == (200, {"msg": "text"}, b"")


async def test_refusal_before_the_body_needs_no_100_continue() -> None:
    """The client then never sends the body."""

    async def handle(connection: Connection) -> None:
        await connection.head(5)
        await connection.answer(Answer(403, "no"))

    async with serving(handle) as (port, _):
        reply = await ask(port, head("content-length: 4", "expect: 100-continue"))
    assert (reply.status, reply.interim) == (403, b"")


async def test_answer_arrives_while_the_client_is_still_sending() -> None:
    """Closing over unread bytes would reset the connection, and the answer would be lost."""

    async def handle(connection: Connection) -> None:
        await connection.head(5)
        await connection.answer(Answer(413, "too large"))

    async with serving(handle) as (port, _):
        reply = await ask(port, head("content-length: 8000000"), *[bytes(100_000)] * 20)
    assert reply.status == 413


async def test_client_that_sends_on_for_ever_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its answer it has a moment."""
    monkeypatch.setattr(connections, "_LINGER_SECONDS", 0.05)

    async def handle(connection: Connection) -> None:
        await connection.head(5)
        await connection.answer(Answer(413, "too large"))

    async def send_on(client: Client) -> None:
        while True:
            await client.send(bytes(10_000))
            await asyncio.sleep(0.005)

    async with serving(handle) as (port, outcomes), connected(port) as client:
        await client.send(head("content-length: 8000000"))
        with pytest.raises(ConnectionError):
            await send_on(client)
        assert await outcomes.get() is None


async def test_answer_is_json_and_the_last_of_its_connection() -> None:
    """A second request on the same connection is never looked at."""
    seen = []

    async def handle(connection: Connection) -> None:
        seen.append((await connection.head(5)).target)
        await connection.answer(Answer(503, "later", "busy", retry_after=7))

    async with serving(handle) as (port, _):
        reply = await ask(port, head(path="/1") + head(path="/2"), head(path="/3"))
    assert reply.json == {"msg": "later", "code": "busy"}
    assert reply.headers == {
        "content-type": "application/json",
        "content-length": "32",
        "connection": "close",
        "retry-after": "7",
    }
    assert seen == [b"/1"]


async def test_answer_to_head_has_no_body() -> None:
    """Whatever it says."""

    async def handle(connection: Connection) -> None:
        await connection.head(5)
        await connection.answer(Answer(405, "no"))

    async with serving(handle) as (port, _):
        reply = await ask(port, head(method="HEAD"))
    assert (reply.status, reply.json) == (405, None)


async def test_end_of_the_client_is_seen_while_nothing_is_read() -> None:
    """Which is how a scan that nobody waits for ends; what it sends before does not count."""
    left = asyncio.Event()

    async def handle(connection: Connection) -> None:
        await connection.head(5)
        await connection.left()
        left.set()

    async with serving(handle) as (port, _), connected(port) as client:
        await client.send(head(), b"more", b"and more")
        await asyncio.sleep(0.02)
        assert not left.is_set()
        client.leave()
        await until(left.is_set)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("10.0.0.1", 5), "10.0.0.1"),
        (("::1", 5, 0, 0), "::1"),
        (("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::1"),
        (None, None),
    ],
)
async def test_address_of_the_client_is_read_in_every_form(
    name: tuple[object, ...] | None, expected: str | None
) -> None:
    """A listener on `::` writes IPv4 in its own way."""

    async def handle(connection: Connection) -> None:
        connection._writer.get_extra_info = lambda _key: name  # type: ignore[method-assign,assignment,misc]
        assert connection.client == (ip_address(expected) if expected else None)

    async with serving(handle) as (port, outcomes), connected(port):
        assert await outcomes.get() is None
