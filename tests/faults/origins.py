"""A foreign web server that behaves as its address says, and one inside that nobody may reach.

http://{name}.test:{port}/{behavior}/{kind}/{number}/{anything}
"""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Final, Self

from safety_proxy.tasks import spawn
from tests.faults.behaviors import BEHAVIORS, Behavior, Call
from tests.faults.pictures import Kind, Ledger

INSIDE_ADDRESSES: Final = ("127.0.0.2", "::1")


class Origins:
    """Both servers, on one port: of 127.0.0.1, which may be fetched from, and of 127.0.0.2.

    served: how often each behavior was asked for. inside: connections that should not have come.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.port = 0
        self.served: Counter[str] = Counter()
        self.inside = 0
        self._ledger = ledger
        self._first_asked: dict[str, float] = {}
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        outside = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._closing.callback(outside.close)
        self.port = outside.sockets[0].getsockname()[1]
        for address in INSIDE_ADDRESSES:
            with suppress(OSError):  # no IPv6 here
                inside = await asyncio.start_server(self._serve_inside, address, self.port)
                self._closing.callback(inside.close)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._closing.aclose()

    def age(self, path: str) -> float:
        """Seconds since a path was asked for first."""
        return time.monotonic() - self._first_asked.setdefault(path, time.monotonic())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
            first, *lines = head.split("\r\n")
            path = first.split(" ")[1]
            fields = [line.partition(":") for line in lines if line]
            _, behavior, kind, number, _ = path.split("/", 4)
            call = Call(
                path=path,
                headers={name.lower(): value.strip() for name, _, value in fields},
                kind=Kind(kind),
                number=int(number),
                ledger=self._ledger,
                port=self.port,
                age=self.age(path.partition("?")[0]),
                writer=writer,
            )
            self.served[behavior] += 1
            await self._answer(BEHAVIORS[behavior], call, reader)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _answer(behavior: Behavior, call: Call, reader: asyncio.StreamReader) -> None:
        """Until it is said, or the client has left: what hangs should not outlive the run."""
        saying = spawn(behavior(call), name="origin says")
        leaving = spawn(reader.read(), name="client leaves")
        try:
            await asyncio.wait({saying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if saying.done():
                saying.result()
                await call.flush()
        finally:
            saying.cancel()
            leaving.cancel()
            await asyncio.gather(saying, leaving, return_exceptions=True)

    async def _serve_inside(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        del reader
        self.inside += 1
        body = self._ledger.take(Kind.BLOCKED, self.inside)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()
