"""A client that sends the very bytes it is told to, and may leave early."""

import asyncio
import json
import random
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import h11

from safety_proxy.tasks import spawn

_READ_BYTES: Final = 64 * 1024

# How long a client that has closed only its own side listens for what may still come.
_LISTEN_SECONDS: Final = 3.0

# A linger time of 0: closing the socket sends RST instead of FIN.
_RESET: Final = struct.pack("ii", 1, 0)


class Manner(StrEnum):
    """How a client sends its request."""

    WHOLE = "whole"
    SLOW = "slow"
    FIN_IN_BODY = "fin-in-body"
    RST_IN_BODY = "rst-in-body"
    FIN_WAITING = "fin-waiting"
    RST_WAITING = "rst-waiting"

    @property
    def leaves(self) -> bool:
        """Whether it goes before its answer."""
        return self not in {Manner.WHOLE, Manner.SLOW}


CUTS: Final = tuple(manner for manner in Manner if manner.leaves)


class Silence(StrEnum):
    """Why there is no answer."""

    LEFT = "the client left"
    REFUSED = "connection refused"
    CLOSED = "closed without an answer"
    BROKEN = "closed within the answer"
    TIME = "no answer in time"


@dataclass(frozen=True, slots=True)
class Request:
    """What goes over the wire; `lines`: headers as they stand."""

    target: str
    method: str = "GET"
    lines: Sequence[str] = ()
    body: bytes | None = None
    version: str = "1.1"
    chunked: bool = False

    def encoded(self) -> tuple[bytes, bytes]:
        """Head and body."""
        lines = [f"{self.method} {self.target} HTTP/{self.version}", "Host: lemmy", *self.lines]
        body = self.body or b""
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(it), it) for it in pieces) + b"0\r\n\r\n"
        elif self.body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode(), body


@dataclass(slots=True)
class Reply:
    """What came back, or `silence`. Times are those of `time.monotonic`."""

    method: str = "GET"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    silence: Silence | None = None
    started: float = 0.0
    ended: float = 0.0

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object in it; empty if there is none."""
        try:
            told = json.loads(self.body)
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    @property
    def code(self) -> str:
        """Of an error of pict-rs or the proxy."""
        return str(self.json.get("code", ""))

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_picture(self) -> bool:
        return self.headers.get("content-type", "").startswith("image/")


async def ask(
    port: int, request: Request, *, seconds: float, manner: Manner = Manner.WHOLE, seed: int = 0
) -> Reply:
    """The answer of the server on this loopback port, or why there is none."""
    reply = Reply(request.method, started=time.monotonic())
    try:
        async with asyncio.timeout(seconds):
            await _exchange(port, request, manner, random.Random(seed), reply)
    except TimeoutError:
        reply.silence = Silence.LEFT if manner.leaves else Silence.TIME
    except ConnectionRefusedError:
        reply.silence = Silence.REFUSED
    except (OSError, h11.RemoteProtocolError):
        reply.silence = Silence.BROKEN if reply.status else Silence.CLOSED
    if manner.leaves and reply.silence in {Silence.BROKEN, Silence.CLOSED}:
        reply.silence = Silence.LEFT
    reply.ended = time.monotonic()
    return reply


async def _exchange(
    port: int, request: Request, manner: Manner, rng: random.Random, reply: Reply
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head, body = request.encoded()
        if manner.leaves:
            await _leave_early(writer, head, body, manner, rng)
            if manner is not Manner.FIN_IN_BODY:
                reply.silence = Silence.LEFT
                return
            async with asyncio.timeout(_LISTEN_SECONDS):
                await _read(reader, reply)
            return
        sending = spawn(_send(writer, head, body, manner), name="send")
        try:
            await _read(reader, reply)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    finally:
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, head: bytes, body: bytes, manner: Manner) -> None:
    pieces = [head + body]
    if manner is Manner.SLOW:
        step = len(body) // 5 + 1
        pieces = [head, *(body[start : start + step] for start in range(0, len(body), step))]
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        if manner is Manner.SLOW:
            await asyncio.sleep(0.1)


async def _leave_early(
    writer: asyncio.StreamWriter, head: bytes, body: bytes, manner: Manner, rng: random.Random
) -> None:
    """Part of the request or all of it, a moment, and then out by FIN or RST."""
    in_body = manner in {Manner.FIN_IN_BODY, Manner.RST_IN_BODY}
    writer.write(head + (body[: int(len(body) * rng.random())] if in_body else body))
    await writer.drain()
    await asyncio.sleep(rng.choice((0.0, 0.005, 0.02, 0.1, 0.3)))
    if manner is Manner.FIN_IN_BODY:
        writer.write_eof()
    elif manner is Manner.FIN_WAITING:
        writer.close()
    else:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, reply: Reply) -> None:
    """Fills the reply. Raises h11.RemoteProtocolError where the connection ends before it."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_READ_BYTES)
    # What was sent, as far as it decides how the answer is read.
    parser.send(h11.Request(method=reply.method, target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    while True:
        event = parser.next_event()
        match event:
            case h11.NEED_DATA:
                parser.receive_data(await reader.read(_READ_BYTES))
            case h11.Response():
                reply.status = event.status_code
                reply.headers = {
                    name.decode("latin1"): value.decode("latin1") for name, value in event.headers
                }
            case h11.Data():
                reply.body += bytes(event.data)
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return
