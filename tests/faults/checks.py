"""Looks into pict-rs, the logs and the proxy's process: what is there, not what anybody says."""

import asyncio
import hashlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.faults.forms import PRIVATE, form, part, upload
from tests.faults.pictures import Kind
from tests.faults.proxy import SPOOLED
from tests.faults.wire import ask
from tests.faults.world import World

FORBIDDEN: Final = {Kind.BLOCKED, Kind.UNREADABLE, "unknown", "other bytes"}

# Of the proxy: what it should never have to say.
_UNFORESEEN: Final = re.compile(
    r"unforeseen error|nothing caught|never retrieved|was destroyed but|never awaited|log line was"
    r" lost|Traceback|could not be raised|Unclosed"
)

_DIGEST_LENGTH: Final = 64

# Pictures that no client sends, to see whether all is well again.
_PROBES: Final = count(500_000_000)
_PROBES_AT_ONCE: Final = 16
_PROBES_BESIDE: Final = 3
_RECOVERY_SECONDS: Final = 40.0

_SETTLE_SECONDS: Final = 20.0


@dataclass
class Audit:
    """The files in pict-rs' store, each read once; `kinds`: how many of each kind it has seen."""

    kinds: Counter[str] = field(default_factory=Counter)
    hashes: int = 0
    _seen: set[Path] = field(default_factory=set)

    async def look(self, world: World) -> None:
        """Reads what is new. Something forbidden is a finding, whether it stays there or not."""
        await asyncio.to_thread(self._read_new, world)

    def _read_new(self, world: World) -> None:
        for path in world.pictrs.files.rglob("*"):
            if path in self._seen or not path.is_file():
                continue
            try:
                body = path.read_bytes()
            except FileNotFoundError:
                continue  # deleted just now
            kind = world.ledger.kind_of_body(body)
            if kind == "fragment":
                continue  # being written, or left so by a kill: looked at again next time
            self._seen.add(path)
            self.kinds[kind] += 1
            if kind in FORBIDDEN:
                digest = hashlib.sha256(body).hexdigest()[:16]
                world.found("blocked pictures stored", f"{kind} {digest} in {path.name}")

    async def look_at_hashes(self, world: World) -> None:
        """What pict-rs itself says it has."""
        entries = await world.pictrs.hashes()
        self.hashes = len(entries)
        for entry in entries:
            kind = world.ledger.kind_of(entry["hex"][:_DIGEST_LENGTH])  # size and format follow
            if kind in FORBIDDEN:
                world.found("blocked pictures in internal/hashes", f"{kind} {entry['hex'][:16]}")

    async def keep_looking(self, world: World) -> None:
        """Now and then, until cancelled: what is stored for a moment only is seen as well."""
        while True:
            await asyncio.sleep(3)
            await self.look(world)


async def see_recovered(world: World, *, beside_clients: bool = False) -> None:
    """Returns when the proxy takes as many clean uploads at once as there are clients.

    beside_clients: while these send theirs, so it is asked to take a few more.
    """
    with world.broken("recovering"):
        seconds = await _recovered(world, _PROBES_BESIDE if beside_clients else _PROBES_AT_ONCE)
        world.recovery = max(world.recovery, seconds)
    world.is_well()


async def _recovered(world: World, at_once: int) -> float:
    started = time.monotonic()
    while time.monotonic() < started + _RECOVERY_SECONDS:
        bodies = [world.ledger.take(Kind.CLEAN, next(_PROBES)) for _ in range(at_once)]
        replies = await asyncio.gather(
            *(ask(world.proxy.port, upload(form([part(it)])), seconds=30) for it in bodies)
        )
        if all(reply.status == HTTPStatus.CREATED for reply in replies):
            return time.monotonic() - started
        await asyncio.sleep(0.2)
    world.found("proxies that did not recover", f"not within {_RECOVERY_SECONDS} s")
    return time.monotonic() - started


async def look_at_rest(world: World) -> None:
    """No upload may keep its place on the disk when nobody waits for it any more.

    The spool's own count does not show that: a file without a name lives as long as its handles.
    """
    end = time.monotonic() + _SETTLE_SECONDS
    told = await world.proxy.control()
    while (told["in_flight"] or told["spooled_bytes"]) and time.monotonic() < end:
        await asyncio.sleep(0.1)
        told = await world.proxy.control()
    await asyncio.sleep(0.1)  # a write that its client has left ends first
    kept = (await world.proxy.control())["file_kinds"].get(SPOOLED, 0)
    world.most_kept = max(world.most_kept, kept)


async def settled(world: World) -> dict[str, Any]:
    """What the proxy holds when nobody asks anything of it."""
    end = time.monotonic() + _SETTLE_SECONDS
    previous: dict[str, Any] = {}
    while True:
        told = await world.proxy.control()
        is_idle = not told["in_flight"] and not told["spooled_bytes"]
        if is_idle and told["tasks"] == previous.get("tasks"):
            break
        if time.monotonic() > end:
            break
        previous = told
        await asyncio.sleep(1.0)
    told["resident_bytes"] = world.proxy.resident_bytes()
    return told


def look_at_logs(world: World) -> None:
    """Secrets, and errors that nobody foresaw."""
    for server in (world.proxy, world.pictrs):
        for line in server.log().splitlines():
            if PRIVATE in line:
                world.found(f"secrets in the log of {server.name}", line[:300])
    for line in world.proxy.log().splitlines():
        if _UNFORESEEN.search(line):
            world.found("unforeseen errors in the log of the proxy", line[:400])
