"""One HTTP/1.1 request on a connection and its one answer; nothing here knows pictures.

By h11, and not by aiohttp as the other listeners: pict-rs 0.6 sends two Content-Type lines, upon
which aiohttp's parser answers 400.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

import h11

from safety_proxy.errors import DeadlineExceeded, MalformedRequest

_READ_BYTES: Final = 64 * 1024

# Request line and headers; pict-rs sends about 400 bytes.
_HEAD_BYTES: Final = 16 * 1024

# How long a client that is still sending is listened to after its answer.
_LINGER_SECONDS: Final = 1.0


class Answer(NamedTuple):
    """A status, and what the JSON says; `retry_after`: seconds."""

    status: int
    msg: str
    code: str | None = None
    retry_after: int | None = None


class Connection:
    """A client's connection: `head`, then `body`, then `answer`, and `aclose` in any case.

    ConnectionError means that the client has left.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
        self._has_body_in_answer = True

    @property
    def client(self) -> IPv4Address | IPv6Address | None:
        """The address at the other end; None if it left already."""
        name = self._writer.get_extra_info("peername")
        if not name:
            return None
        address = ip_address(name[0].partition("%")[0])
        return getattr(address, "ipv4_mapped", None) or address

    async def head(self, seconds: float) -> h11.Request:
        """Request line and headers, their names in lower case.

        Raises MalformedRequest, also for two kinds of length, DeadlineExceeded after so many
        seconds, ConnectionError.
        """
        try:
            async with asyncio.timeout(seconds):
                request = await self._next()
        except TimeoutError as error:
            raise DeadlineExceeded("Deadline exceeded") from error
        assert isinstance(request, h11.Request)  # nothing else comes first
        self._has_body_in_answer = request.method != b"HEAD"
        # h11 believes the encoding then; a server in between may have believed the length.
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            raise MalformedRequest("The request has two kinds of length")
        return request

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it arrives; whoever waits for a `100 Continue` gets it now.

        Ends only if the body is complete. Raises MalformedRequest, ConnectionError.
        """
        if self._parser.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])
            self._writer.write(self._parser.send(go_on))
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)  # h11 raises for all else

    async def left(self) -> None:
        """Returns when the client has closed its side; what it still sends is dropped."""
        with suppress(ConnectionError):
            while await self._reader.read(_READ_BYTES):
                pass

    async def answer(self, answer: Answer) -> None:
        """Sends it as the last of this connection, and gives the client a moment to read it.

        Closed over bytes that nobody has read, TCP resets the connection, and the answer is lost
        with it (RFC 9112, section 9.6).
        """
        self._writer.write(self._encoded(answer))
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                self._writer.write_eof()
                await self.left()

    async def aclose(self) -> None:
        """Closes the connection, at once."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _next(self) -> h11.Event:
        try:
            while not isinstance(event := self._parser.next_event(), h11.Event):
                data = await self._reader.read(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("closed before its request was complete")
                self._parser.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise MalformedRequest("The request is not proper HTTP/1.1") from error
        return event

    def _encoded(self, answer: Answer) -> bytes:
        fields = {"msg": answer.msg} | ({"code": answer.code} if answer.code else {})
        body = json.dumps(fields).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        if answer.retry_after is not None:
            headers["Retry-After"] = str(answer.retry_after)
        head = h11.Response(
            status_code=answer.status,
            reason=HTTPStatus(answer.status).phrase,
            headers=list(headers.items()),
        )
        return self._parser.send(head) + (body if self._has_body_in_answer else b"")
