"""A client that sends the very bytes it is given."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass
class Reply:
    """An answer as it came; `interim`: the `100 Continue` before it, if there was one."""

    status: int
    headers: dict[str, str]
    json: Any
    interim: bytes


class Client:
    """An open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Sends them one by one, so that most of them arrive apart."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def closed(self) -> bytes:
        """What comes until the server closes the connection."""
        return await self.reader.read()

    async def reply(self) -> Reply:
        """The one answer; the server has closed the connection after it."""
        return parsed(await self.closed())

    def leave(self) -> None:
        """Closes at once, as a client does whose time is over."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """A client of the server on this loopback port; it has left at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(reader, writer)
    try:
        yield client
    finally:
        client.leave()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(port: int, *pieces: bytes) -> Reply:
    """The answer to a request in these pieces."""
    async with connected(port) as client:
        await client.send(*pieces)
        return await client.reply()


def parsed(answer: bytes) -> Reply:
    """Raises AssertionError unless it is one whole answer, with or without a body."""
    interim = b""
    if answer.startswith(b"HTTP/1.1 100 "):
        interim, _, answer = answer.partition(b"\r\n\r\n")
    head, end, body = answer.partition(b"\r\n\r\n")
    assert end, answer
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(body) in {0, int(headers["content-length"])}
    return Reply(int(status.split()[1]), headers, json.loads(body) if body else None, interim)
