"""Verdicts kept in memory, and one scan for any number of simultaneous askers."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cachetools import LRUCache

from safety_proxy.tasks import spawn
from safety_proxy.verdict import Source, Verdict


class CacheKey(NamedTuple):
    """The content and all that decided on it: a new model or policy asks anew."""

    sha256: str
    model: str
    policy: str


@dataclass(slots=True)
class _Flight:
    """A scan under way, and how many wait for it."""

    task: asyncio.Task[Verdict]
    waiting: int = 0


@dataclass(slots=True)
class CacheCounts:
    """Since start; `coalesced` are askers that joined a scan under way."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    evictions: int = 0


class _CountingLRU(LRUCache[CacheKey, Verdict]):
    def __init__(self, max_entries: int, counts: CacheCounts) -> None:
        super().__init__(max_entries)
        self._counts = counts

    def popitem(self) -> tuple[CacheKey, Verdict]:
        """Called by cachetools to make room, and by nothing else here."""
        self._counts.evictions += 1
        return super().popitem()


@dataclass(slots=True)
class VerdictCache:
    """A bounded LRU of verdicts, and single flight. For one event loop.

    Kept is what the policy decided. A failure is not, nor that a file could not be read: either
    may come out otherwise the next time.
    """

    max_entries: int
    counts: CacheCounts = field(default_factory=CacheCounts)
    _known: _CountingLRU = field(init=False)
    _flights: dict[CacheKey, _Flight] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._known = _CountingLRU(self.max_entries, self.counts)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: CacheKey) -> Verdict | None:
        """The verdict, if it is known."""
        known = self._known.get(key)
        if known is not None:
            self.counts.hits += 1
        return known

    async def scan_once(
        self, key: CacheKey, scan: Callable[[], Coroutine[Any, Any, Verdict]]
    ) -> Verdict:
        """The verdict that `scan` comes to; simultaneous askers for one key share one scan.

        scan: called only for the first asker, in a task of its own, so that the others still get
        their answer when the first one leaves. It is cancelled when the last one has left.
        Raises what `scan` raises, to every asker; the next asker starts a new scan.
        """
        flight = self._flights.get(key)
        if flight is None:
            self.counts.misses += 1
            flight = self._flights[key] = _Flight(spawn(self._fly(key, scan), name="scan"))
        else:
            self.counts.coalesced += 1
        return await self._join(key, flight)

    async def _fly(
        self, key: CacheKey, scan: Callable[[], Coroutine[Any, Any, Verdict]]
    ) -> Verdict:
        try:
            verdict = await scan()
        finally:
            self._land(key, asyncio.current_task())
        if verdict.source is Source.POLICY:
            self._known[key] = verdict
        return verdict

    async def _join(self, key: CacheKey, flight: _Flight) -> Verdict:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._land(key, flight.task)
                flight.task.cancel()

    def _land(self, key: CacheKey, task: asyncio.Task[Verdict] | None) -> None:
        """Newcomers must not join a scan that has ended or is being cancelled."""
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
