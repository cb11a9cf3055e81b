"""Tests of safety_proxy/store/cache.py: verdicts are bounded, and made once for all who ask."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from safety_proxy.errors import EmbedderUnavailable, UndecodableImage
from safety_proxy.store.cache import CacheKey, VerdictCache
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action, Reason, Source, Verdict
from tests.fakes import until


def key_of(name: str, *, model: str = "model", policy: str = "policy") -> CacheKey:
    return CacheKey(name, model, policy)


def verdict_of(key: CacheKey, source: Source = Source.POLICY) -> Verdict:
    return Verdict(Action.ALLOW, (Reason("r"),), key.sha256, key.model, key.decides, source)


@dataclass
class Scans:
    """Scans that wait for `go` and then give `outcome`, and what became of each.

    end: what a cancelled scan waits for before it ends; set unless a test clears it.
    """

    outcome: Callable[[CacheKey], Verdict] = verdict_of
    go: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)
    started: list[CacheKey] = field(default_factory=list)
    cancelled: list[CacheKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end.set()

    def of(self, key: CacheKey) -> Callable[[], Coroutine[Any, Any, Verdict]]:
        async def scan() -> Verdict:
            self.started.append(key)
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(key)
                await self.end.wait()
                raise
            return self.outcome(key)

        return scan

    def ask(self, cache: VerdictCache, key: CacheKey) -> asyncio.Task[Verdict]:
        return spawn(cache.scan_once(key, self.of(key)), name=f"ask {key.sha256}")


@pytest.fixture
async def scans() -> AsyncIterator[Scans]:
    """Scans, and no task of theirs left over."""
    scans = Scans()
    yield scans
    scans.go.set()
    async with asyncio.timeout(10):
        await until(lambda: len(asyncio.all_tasks()) == 1)


@pytest.fixture
def cache() -> VerdictCache:
    return VerdictCache(max_entries=3)


async def learn(cache: VerdictCache, *names: str) -> None:
    """Puts a verdict for each name into the cache."""
    for name in names:
        scans = Scans()
        scans.go.set()
        await scans.ask(cache, key_of(name))


def known(cache: VerdictCache, *names: str) -> str:
    """Those of the names that the cache has a verdict for, asked in this order."""
    return "".join(name for name in names if cache.get(key_of(name)))


async def test_a_verdict_is_known_once_it_was_made(cache: VerdictCache) -> None:
    """It comes back as it is, and is counted as a hit."""
    key = key_of("a")
    assert cache.get(key) is None
    await learn(cache, "a")
    assert cache.get(key) == verdict_of(key)
    assert (cache.counts.hits, cache.counts.misses, cache.counts.coalesced) == (1, 1, 0)


async def test_the_least_recently_used_goes_first(cache: VerdictCache) -> None:
    """The bound holds, a look counts as use, and each that goes is counted."""
    await learn(cache, "a", "b", "c")
    assert (len(cache), cache.counts.evictions) == (3, 0)
    assert known(cache, "a") == "a"
    await learn(cache, "d")
    assert (len(cache), cache.counts.evictions) == (3, 1)
    assert known(cache, "a", "b", "c", "d") == "acd"
    await learn(cache, "e", "f", "g")
    assert (len(cache), cache.counts.evictions) == (3, 4)
    assert known(cache, "a", "c", "d", "e", "f", "g") == "efg"


async def test_a_verdict_made_again_pushes_nothing_out(cache: VerdictCache) -> None:
    """It takes the place of the one before."""
    await learn(cache, "a", "b", "c", "c")
    assert known(cache, "a", "b", "c") == "abc"
    assert cache.counts.evictions == 0


@pytest.mark.parametrize(
    "other",
    [
        key_of("b"),
        key_of("a", model="another model"),
        key_of("a", policy="another policy"),
    ],
)
async def test_other_bytes_model_or_policy_ask_anew(
    cache: VerdictCache, scans: Scans, other: CacheKey
) -> None:
    """Neither is a verdict found under them nor a scan under way shared."""
    first = scans.ask(cache, key_of("a"))
    second = scans.ask(cache, other)
    await until(lambda: len(scans.started) == 2)
    scans.go.set()
    assert await first == verdict_of(key_of("a"))
    assert await second == verdict_of(other)
    assert cache.counts.coalesced == 0


async def test_a_known_verdict_is_not_that_of_another_model_or_policy(cache: VerdictCache) -> None:
    """A change of either re-judges what is known."""
    await learn(cache, "a")
    assert cache.get(key_of("a", model="another model")) is None
    assert cache.get(key_of("a", policy="another policy")) is None


async def test_a_hundred_simultaneous_askers_share_one_scan(
    cache: VerdictCache, scans: Scans
) -> None:
    """One pays, all are answered."""
    asking = [scans.ask(cache, key_of("a")) for _ in range(100)]
    await until(lambda: cache.counts.coalesced == 99)
    scans.go.set()
    assert await asyncio.gather(*asking) == [verdict_of(key_of("a"))] * 100
    assert scans.started == [key_of("a")]
    assert (cache.counts.misses, cache.counts.hits) == (1, 0)


async def test_others_are_answered_when_the_first_asker_leaves(
    cache: VerdictCache, scans: Scans
) -> None:
    """The scan belongs to all who wait for it."""
    first = scans.ask(cache, key_of("a"))
    others = [scans.ask(cache, key_of("a")) for _ in range(3)]
    await until(lambda: len(scans.started) == 1 and cache.counts.coalesced == 3)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    newcomer = scans.ask(cache, key_of("a"))
    await until(lambda: cache.counts.coalesced == 4)
    scans.go.set()
    assert await asyncio.gather(*others, newcomer) == [verdict_of(key_of("a"))] * 4
    assert scans.started == [key_of("a")]
    assert scans.cancelled == []


async def test_a_scan_is_cancelled_when_its_last_asker_leaves(
    cache: VerdictCache, scans: Scans
) -> None:
    """Nobody waits, so nothing is spent; a newcomer starts anew and does not join the dead."""
    asking = [scans.ask(cache, key_of("a")) for _ in range(3)]
    await until(lambda: cache.counts.coalesced == 2 and len(scans.started) == 1)
    for asker in asking[:-1]:
        asker.cancel()
    await asyncio.wait(asking[:-1])
    assert not scans.cancelled
    scans.end.clear()
    asking[-1].cancel()
    await until(lambda: scans.cancelled == [key_of("a")])
    newcomer = scans.ask(cache, key_of("a"))  # does not join what is ending
    await until(lambda: len(scans.started) == 2)
    scans.end.set()
    await until(lambda: len(asyncio.all_tasks()) == 3)  # this, the newcomer, and its scan
    another = scans.ask(cache, key_of("a"))  # joins the newcomer, whom the end left in place
    await until(lambda: cache.counts.misses + cache.counts.coalesced == 5)
    scans.go.set()
    assert await newcomer == await another == verdict_of(key_of("a"))
    assert (cache.counts.misses, cache.counts.coalesced) == (2, 3)
    assert known(cache, "a") == "a"


async def test_an_asker_that_leaves_at_once_leaves_nothing_behind(
    cache: VerdictCache, scans: Scans
) -> None:
    """Cancelled before the scan ran a step."""
    asker = scans.ask(cache, key_of("a"))
    await asyncio.sleep(0)
    asker.cancel()
    await asyncio.wait([asker])
    assert asker.cancelled()
    newcomer = scans.ask(cache, key_of("a"))
    scans.go.set()
    assert await newcomer == verdict_of(key_of("a"))


async def test_a_failure_reaches_all_and_is_not_kept(cache: VerdictCache, scans: Scans) -> None:
    """The next asker tries again, and may succeed."""

    def fail(key: CacheKey) -> Verdict:
        raise EmbedderUnavailable("on purpose")

    scans.outcome = fail
    asking = [scans.ask(cache, key_of("a")) for _ in range(3)]
    await until(lambda: cache.counts.coalesced == 2)
    scans.go.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EmbedderUnavailable] * 3
    assert (known(cache, "a"), len(cache)) == ("", 0)
    scans.outcome = verdict_of
    assert await scans.ask(cache, key_of("a")) == verdict_of(key_of("a"))
    assert scans.started == [key_of("a")] * 2


async def test_a_failure_that_nobody_waits_for_is_no_loose_end(
    cache: VerdictCache, scans: Scans
) -> None:
    """An error on the way to being cancelled is not reported as one that was never seen."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fail_when_cancelled() -> Verdict:
        try:
            await scans.go.wait()
        except asyncio.CancelledError:
            raise UndecodableImage("on purpose") from None
        return verdict_of(key_of("a"))

    asker = spawn(cache.scan_once(key_of("a"), fail_when_cancelled), name="ask")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asker.cancel()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert asker.cancelled()
    assert complaints == []


@pytest.mark.parametrize("source", [Source.UNREADABLE, Source.UNSCANNED])
async def test_only_what_was_decided_is_kept(
    cache: VerdictCache, scans: Scans, source: Source
) -> None:
    """A decoder that failed may do better next time."""
    scans.outcome = lambda key: verdict_of(key, source)
    scans.go.set()
    for _ in range(2):
        assert (await scans.ask(cache, key_of("a"))).source is source
        assert known(cache, "a") == ""
    assert len(scans.started) == 2


async def test_scans_of_different_bytes_run_side_by_side(cache: VerdictCache, scans: Scans) -> None:
    """More of them than the cache keeps, and each asker gets its own verdict."""
    names = "abcdefgh"
    asking = [scans.ask(cache, key_of(name)) for name in names for _ in range(2)]
    await until(lambda: len(scans.started) == 8 and cache.counts.coalesced == 8)
    scans.go.set()
    assert [verdict.sha256 for verdict in await asyncio.gather(*asking)] == [
        name for name in names for _ in range(2)
    ]
    assert (len(cache), cache.counts.evictions) == (3, 5)
