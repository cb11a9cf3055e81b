"""All that a run has: the servers, what was sent, what went wrong and when, and what came back."""

import asyncio
import json
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safety_proxy.tasks import spawn
from tests.e2e.harness import PictRs, SafetyProxy, free_port
from tests.faults.origins import Origins
from tests.faults.pictures import Ledger
from tests.faults.proxy import CONTROL_PORT, HANG_SECONDS

# After a fault the pace of scans is still known as slow, connections are made anew, and so on.
GRACE_SECONDS: Final = 1.5

# Short, so that what hangs does not hang the run; the rest is as shipped. The two limits that Lemmy
# has (upload_seconds, request_seconds) are as shipped.
SETTINGS: Final = {
    "SAFETY_PROXY_FETCH__ALLOW_NETWORKS": '["127.0.0.1/32"]',
    "SAFETY_PROXY_FETCH__SILENCE_SECONDS": "1",
    "SAFETY_PROXY_FETCH__TOTAL_SECONDS": "2.5",
    "SAFETY_PROXY_LIMITS__MAX_FILE_BYTES": "1000000",
    "SAFETY_PROXY_PROXIED__REVALIDATE_SECONDS": "0.5",
    "SAFETY_PROXY_SCAN__TIMEOUT_SECONDS": "3",
    "SAFETY_PROXY_CACHE__MAX_ENTRIES": "1000",
}

# For a picture of an address to be fetched, judged, and on its way to a pict-rs that is paused.
_STORING_WITHIN_SECONDS: Final = 5.0

# Clients go on knocking for so long after the proxy was told to stop.
_KNOCKING_SECONDS: Final = 0.3

# So little room that 16 clients do not find any: for one phase.
TIGHT: Final = {
    "SAFETY_PROXY_SCAN__QUEUE_LIMIT": "2",
    "SAFETY_PROXY_SCAN__DECODERS": "1",
    "SAFETY_PROXY_LIMITS__MAX_SPOOL_BYTES": "60000",
}


class FaultyProxy(SafetyProxy):
    """The proxy under test, in its own process, with its control port."""

    def __init__(self, folder: Path, upstream_url: str) -> None:
        self.control_port = free_port()
        super().__init__(folder, upstream_url, **SETTINGS, **{CONTROL_PORT: str(self.control_port)})
        self._command = [sys.executable, "-m", "tests.faults.proxy"]
        self._usual = dict(self._environment)

    def configure(self, **settings: str) -> None:
        """From its next start on; what is not named is as usual."""
        self._environment = self._usual | settings

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def validator(self) -> tuple[str, int]:
        """Path and port of the door for pict-rs' validation."""
        host, _, path = self.validator_url.removeprefix("http://").partition("/")
        return f"/{path}", int(host.rpartition(":")[2])

    @property
    def database(self) -> Path:
        return self.folder / "store" / "safety-proxy.sqlite3"

    async def control(self, **wanted: str) -> dict[str, Any]:
        """Sets what is wanted; tells what the process holds. Raises OSError if it is away."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.control_port)
        try:
            writer.write(json.dumps(wanted).encode() + b"\n")
            told: dict[str, Any] = json.loads(await reader.readline())
            return told
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Stored:
    """A clean picture that a client was told is stored.

    digests: it is one of these; pict-rs names several files of one upload in any order.
    """

    alias: str
    delete_token: str
    digests: frozenset[str]


@dataclass(slots=True)
class Window:
    """A time in which something is broken; `what`: whose fault it then is."""

    what: str
    begin: float
    end: float = float("inf")
    grace: float = GRACE_SECONDS

    def touches(self, begin: float, end: float, *, with_grace: bool) -> bool:
        return self.begin <= end and begin <= self.end + (self.grace if with_grace else 0.0)


@dataclass
class World:
    """The state of a run. Times are those of `time.monotonic`."""

    seed: int
    pictrs: PictRs
    proxy: FaultyProxy
    origins: Origins
    ledger: Ledger
    windows: list[Window] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    lookups: Counter[str] = field(default_factory=Counter)
    stored: list[Stored] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    findings: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    left_by_kill: set[str] = field(default_factory=set)
    swept: int = 0
    recovery: float = 0.0
    most_kept: int = 0
    notes: list[str] = field(default_factory=list)
    proxy_up: asyncio.Event = field(default_factory=asyncio.Event)

    def found(self, check: str, detail: str) -> None:
        """Something that must not be; told once."""
        if detail not in self.findings[check]:
            self.findings[check].append(detail)

    @contextmanager
    def broken(self, what: str) -> Iterator[None]:
        """A fault window around what runs inside."""
        window = Window(what, time.monotonic())
        self.windows.append(window)
        self.faults[what] += 1
        try:
            yield
        finally:
            window.end = time.monotonic()

    def was_broken(self, begin: float, end: float, *whats: str) -> bool:
        """Whether any fault, or one of `whats`, fell in this time or shortly before."""
        return any(
            window.touches(begin, end, with_grace=not whats)
            for window in self.windows
            if not whats or window.what in whats
        )

    def is_well(self) -> None:
        """All faults up to now are known to be over: what fails from now on has no excuse."""
        for window in self.windows:
            window.grace = 0.0

    def came_at_stop(self, moment: float) -> bool:
        """Whether the proxy was down or going down at this moment."""
        return self.was_broken(moment, moment, "proxy stopped")

    async def kill_pictrs(self, down_seconds: float) -> None:
        """SIGKILL, and a new start after so long."""
        with self.broken("pict-rs killed"):
            await asyncio.to_thread(self.pictrs.kill)
            await asyncio.sleep(down_seconds)
            await asyncio.to_thread(self.pictrs.start)

    async def pause_pictrs(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        with self.broken("pict-rs paused"):
            self.pictrs.pause()
            try:
                await asyncio.sleep(seconds)
            finally:
                self.pictrs.resume()

    @asynccontextmanager
    async def model_fault(self, fault: str) -> AsyncIterator[None]:
        """The model has this fault; it has met at least one picture when this ends."""
        with self.broken(f"model: {fault}"):
            before = (await self.proxy.control(fault=fault))["faults"].get(fault, 0)
            try:
                yield
                for _ in range(50):
                    if (await self.proxy.control())["faults"].get(fault, 0) > before:
                        break
                    await asyncio.sleep(0.1)
                else:
                    self.found("faults that met nothing", f"model: {fault}")
            finally:
                await self.proxy.control(fault="none")
                if fault == "hang":  # the pass that hangs does so to its end
                    await asyncio.sleep(HANG_SECONDS)

    async def restart_proxy(self, **settings: str) -> None:
        """SIGTERM under load, and a new start with these settings."""
        await self._keep_lookups()
        with self.broken("proxy stopped"):
            stopping = spawn(asyncio.to_thread(self.proxy.stop), name="stop the proxy")
            await asyncio.sleep(_KNOCKING_SECONDS)
            self.proxy_up.clear()
            code = await stopping
            if code:
                self.found("proxy's exit codes after SIGTERM", str(code))
            self.proxy.configure(**settings)
            await self.start_proxy()

    async def kill_proxy(self, while_down: Callable[[], None]) -> None:
        """SIGKILL under load, while pict-rs has taken pictures that it has not yet confirmed."""
        await self._keep_lookups()
        with self.broken("proxy killed"):
            self.pictrs.pause()
            await self._something_is_stored()
            self.proxy_up.clear()
            await asyncio.to_thread(self.proxy.kill)
            self.left_by_kill = await asyncio.to_thread(self._being_stored)
            self.pictrs.resume()
            await asyncio.to_thread(while_down)
            await self.start_proxy()

    async def _something_is_stored(self) -> None:
        end = time.monotonic() + _STORING_WITHIN_SECONDS
        while not await asyncio.to_thread(self._being_stored):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.1)

    def _being_stored(self) -> set[str]:
        with closing(sqlite3.connect(self.proxy.database, timeout=10)) as connection:
            found = connection.execute("SELECT alias FROM proxied WHERE state = 'storing'")
            return {alias for (alias,) in found}

    async def start_proxy(self) -> None:
        """Returns when it is ready; clients go on then."""
        await asyncio.to_thread(self.proxy.start)
        self.proxy_up.set()

    async def _keep_lookups(self) -> None:
        """The process counts names that it looked up; a new one begins at 0."""
        with suppress(OSError):
            self.lookups.update((await self.proxy.control())["lookups"])

    async def all_lookups(self) -> Counter[str]:
        """By kind of name, of all processes of the proxy."""
        return self.lookups + Counter((await self.proxy.control())["lookups"])
