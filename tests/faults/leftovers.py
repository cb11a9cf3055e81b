"""Proxied pictures between two worlds: the proxy's table, and what pict-rs has."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.faults.world import World

# By which the proxy names what it stores for addresses.
_PROXIED: Final = "safety-proxy-"

# More than `_STORING_SECONDS` of the proxy's table: what is still being stored then never will be.
_AGED_SECONDS: Final = 4000.0
_SWEEP_SECONDS: Final = 20.0


def rows(database: Path) -> dict[str, str]:
    """Alias -> storing, live or doomed."""
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        return dict(connection.execute("SELECT alias, state FROM proxied").fetchall())


def make_older(database: Path) -> None:
    """What was being stored when the proxy ended was so for long: it is not waited for here."""
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        connection.execute(
            "UPDATE proxied SET accessed_at = accessed_at - ? WHERE state = 'storing'",
            (_AGED_SECONDS,),
        )


async def kill(world: World) -> None:
    """SIGKILL; what it interrupts is made older, and must be swept after the new start."""
    await world.kill_proxy(lambda: make_older(world.proxy.database))
    await _see_swept(world, world.left_by_kill)


async def sweep(world: World) -> None:
    """A last restart, after which nothing that was interrupted in the whole run may be left."""
    world.proxy_up.clear()
    await asyncio.to_thread(world.proxy.stop)
    await asyncio.to_thread(make_older, world.proxy.database)
    known = await asyncio.to_thread(rows, world.proxy.database)
    await world.start_proxy()
    await _see_swept(world, {alias for alias, state in known.items() if state != "live"})


async def _see_swept(world: World, left: Collection[str]) -> None:
    end = time.monotonic() + _SWEEP_SECONDS
    while True:
        known = await asyncio.to_thread(rows, world.proxy.database)
        kept = set(left) & (known.keys() | await world.pictrs.aliases())
        if not kept or time.monotonic() > end:
            break
        await asyncio.sleep(0.5)
    world.swept += len(left) - len(kept)
    for alias in sorted(kept):
        world.found("proxied leftovers that were not swept", f"{alias} {known.get(alias)}")


async def look_for_orphans(world: World) -> Counter[str]:
    """Rows by state; a picture in pict-rs that no row knows is a finding."""
    # Rows first: one that is removed in between has no picture any more.
    aliases = {alias for alias in await world.pictrs.aliases() if alias.startswith(_PROXIED)}
    known = await asyncio.to_thread(rows, world.proxy.database)
    for orphan in sorted(aliases - known.keys()):
        world.found("proxied pictures that no row knows", orphan)
    return Counter(known.values())
