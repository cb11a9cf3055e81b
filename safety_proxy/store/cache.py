"""Verdicts kept in memory, and one scan for any number of simultaneous askers."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from cachetools import LRUCache

from safety_proxy.tasks import SingleFlight
from safety_proxy.verdict import Source, Verdict

_KEPT: Final = {Source.POLICY, Source.ALLOW_LIST, Source.BLOCK_LIST}


class CacheKey(NamedTuple):
    """The content and all that decided on it: a new model, policy or list asks anew."""

    sha256: str
    model: str
    decides: str


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

    Kept is what the policy or a list decided. A failure is not, nor that a file could not be read:
    either may come out otherwise the next time.
    """

    max_entries: int
    counts: CacheCounts = field(default_factory=CacheCounts)
    _known: _CountingLRU = field(init=False)
    _flights: SingleFlight[CacheKey, Verdict] = field(
        init=False, default_factory=partial(SingleFlight, "scan")
    )

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

        As `SingleFlight.run` has it.
        """
        if key in self._flights:
            self.counts.coalesced += 1
        else:
            self.counts.misses += 1
        return await self._flights.run(key, partial(self._keep, key, scan))

    async def _keep(
        self, key: CacheKey, scan: Callable[[], Coroutine[Any, Any, Verdict]]
    ) -> Verdict:
        verdict = await scan()
        if verdict.source in _KEPT:
            self._known[key] = verdict
        return verdict
