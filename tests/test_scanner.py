"""Tests of safety_proxy/scanner.py: the main path from bytes to a verdict."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from safety_proxy.errors import EmbedderUnavailable, QueueFull, ScanTimeout
from safety_proxy.media.spool import Media, Spool, Spooler
from safety_proxy.metrics import Metrics
from safety_proxy.policy.policy import Policy
from safety_proxy.scanner import Cleared, Scanner
from safety_proxy.settings import Settings
from safety_proxy.store.cache import VerdictCache
from safety_proxy.store.hashlist import BlockList
from safety_proxy.store.hashlist import test_picture as blocked_test_picture
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action, Source
from tests.fakes import FakeEmbedder, color_policy, model_of, until
from tests.pictures import BLUE, GREEN, PURPLE, RED, animation, plain


async def media_of(body: bytes) -> Media:
    """Spooled bytes."""
    spool = Spool(Spooler(file_bytes=10_000_000, total_bytes=10_000_000))
    await spool.write(body)
    return await spool.finish()


@dataclass
class Scanning:
    """A scanner and what it was built of."""

    scanner: Scanner
    embedder: FakeEmbedder
    cache: VerdictCache
    metrics: Metrics


@asynccontextmanager
async def scanning(
    embedder: FakeEmbedder | None = None, policy: Policy | None = None, **sections: dict[str, Any]
) -> AsyncIterator[Scanning]:
    """A scanner over a FakeEmbedder; `sections` are settings."""
    settings = Settings.model_validate(sections)
    cache, metrics, embedder = VerdictCache(100), Metrics(), embedder or FakeEmbedder()
    scanner = Scanner(settings, cache=cache, block_list=BlockList(), metrics=metrics)
    scanner.model = model = model_of(embedder, metrics, policy=policy)
    try:
        yield Scanning(scanner, embedder, cache, metrics)
    finally:
        embedder.go.set()
        await model.batcher.aclose()
        scanner.close()


@pytest.mark.parametrize(
    ("body", "action", "rules"),
    [
        (plain(RED), Action.ALLOW, []),
        (plain(GREEN), Action.FLAG, ["green"]),
        (plain(PURPLE), Action.BLOCK, ["red-and-blue"]),
        (animation([RED, BLUE, RED, BLUE]), Action.ALLOW, []),
        (animation([RED] * 9 + [PURPLE]), Action.BLOCK, ["red-and-blue"]),
        (animation([PURPLE] + [RED] * 9, "WEBP"), Action.BLOCK, ["red-and-blue"]),
    ],
)
async def test_picture_is_judged_by_the_policy(
    body: bytes, action: Action, rules: list[str]
) -> None:
    """Every looked-at frame counts; the verdict says on what it rests."""
    async with scanning() as it:
        with await media_of(body) as media:
            verdict = await it.scanner.scan(media)
            outcome = await it.scanner.clear(media)
        assert verdict.action is action
        assert [reason.rule for reason in verdict.reasons] == rules
        assert (verdict.sha256, verdict.source) == (media.sha256, Source.POLICY)
        assert (verdict.model, verdict.policy) == ("fake/fp32", color_policy().version)
        assert {score.concept for score in verdict.scores} == {"red", "green", "blue"}
        if action is Action.BLOCK:
            assert outcome == verdict
        else:
            assert isinstance(outcome, Cleared)
            assert (outcome.media, outcome.verdict) == (media, verdict)


async def test_listed_picture_needs_no_model_pass() -> None:
    """Not even when the model is broken."""
    async with scanning(FakeEmbedder(error=RuntimeError("lost"))) as it:
        with await media_of(blocked_test_picture()) as media:
            verdict = await it.scanner.scan(media)
        assert (verdict.action, verdict.source) == (Action.BLOCK, Source.BLOCK_LIST)
        assert str(verdict.reasons[0]) == "block-list: test picture"
        assert it.embedder.batches == []


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("body", [b"", b"no picture", plain(RED, size=(101, 100))])
async def test_what_cannot_be_read_has_the_action_of_the_policy(
    body: bytes, action: Action
) -> None:
    """Empty, no picture, or over the bound; it is read anew each time, and no hit."""
    policy = color_policy().model_copy(update={"unreadable": action})
    async with scanning(policy=policy, limits={"max_frame_pixels": 10_000}) as it:
        for _ in range(2):
            with await media_of(body) as media:
                verdict = await it.scanner.scan(media)
            assert (verdict.action, verdict.source) == (action, Source.UNREADABLE)
            assert verdict.reasons[0].detail
        assert it.embedder.batches == []
        assert len(it.cache) == 0
        assert it.metrics.verdicts_by_source == {"unreadable": 2}


async def test_before_the_model_has_loaded_every_scan_fails() -> None:
    """Also for what is on a list: the proxy is not ready."""
    async with scanning() as it:
        it.scanner.model, model = None, it.scanner.model
        with await media_of(plain(RED)) as media:
            with pytest.raises(EmbedderUnavailable):
                await it.scanner.scan(media)
            it.scanner.model = model
            assert (await it.scanner.scan(media)).action is Action.ALLOW


async def test_second_scan_of_the_same_bytes_skips_the_model() -> None:
    """Other bytes of the same look do not."""
    async with scanning() as it:
        for body in (plain(RED), plain(RED), plain(RED) + b"trailing"):
            with await media_of(body) as media:
                await it.scanner.scan(media)
        assert it.embedder.batches == [1, 1]
        assert (it.cache.counts.hits, it.cache.counts.misses) == (1, 2)
        assert it.metrics.scans_by_action == {"allow": 2}
        assert it.metrics.verdicts_by_action == {"allow": 3}


async def test_new_policy_or_model_judges_known_bytes_anew() -> None:
    """A verdict holds for those that decided."""
    async with scanning() as it:
        with await media_of(plain(PURPLE)) as media:
            assert (await it.scanner.scan(media)).action is Action.BLOCK
            rules = [rule for rule in color_policy().rules if rule.action is not Action.BLOCK]
            mild = color_policy().model_copy(update={"rules": rules})
            it.scanner.model = model_of(it.embedder, it.metrics, policy=mild)
            assert (await it.scanner.scan(media)).action is Action.ALLOW
            other = FakeEmbedder(fingerprint="other/fp32")
            it.scanner.model = model_of(other, it.metrics)
            assert (await it.scanner.scan(media)).model == "other/fp32"
        assert it.cache.counts.hits == 0


async def test_scan_that_takes_too_long_is_given_up(spooled: Callable[[], set[str]]) -> None:
    """Nothing of it is kept, and the next one may succeed."""
    async with scanning(scan={"timeout_seconds": 0.1}) as it:
        it.embedder.go.clear()
        with await media_of(plain(RED)) as media:
            with pytest.raises(ScanTimeout):
                await it.scanner.scan(media)
            await until(lambda: it.scanner.in_flight == 0)
            assert len(it.cache) == 0
            it.embedder.go.set()
            await it.scanner.scan(media)
    await until(lambda: not spooled())


async def test_scans_over_the_queue_s_limit_are_refused_at_once() -> None:
    """Those under way go on; known pictures are answered all the same."""
    async with scanning(scan={"queue_limit": 2}) as it:
        with await media_of(plain(GREEN)) as known:
            await it.scanner.scan(known)
            it.embedder.started.clear()
            it.embedder.go.clear()
            waiting = [await media_of(plain(color)) for color in (RED, BLUE)]
            tasks = [spawn(it.scanner.scan(media), name="scan") for media in waiting]
            await until(lambda: it.scanner.in_flight == 2)
            with await media_of(plain(PURPLE)) as media, pytest.raises(QueueFull):
                await it.scanner.scan(media)
            assert (await it.scanner.scan(known)).action is Action.FLAG
            it.embedder.go.set()
            assert {v.action for v in await asyncio.gather(*tasks)} == {Action.ALLOW}
            for media in waiting:
                media.close()
        assert it.scanner.in_flight == 0


async def test_others_are_answered_though_the_first_closed_its_media() -> None:
    """The scan reads a view of its own."""
    async with scanning(scan={"decode_threads": 1}) as it:
        it.embedder.go.clear()
        first, second = await media_of(plain(PURPLE)), await media_of(plain(PURPLE))
        leader = spawn(it.scanner.scan(first), name="scan")
        follower = spawn(it.scanner.scan(second), name="scan")
        await until(lambda: it.cache.counts.coalesced == 1)
        leader.cancel()
        first.close()
        it.embedder.go.set()
        assert (await follower).action is Action.BLOCK
        second.close()
        assert it.embedder.batches == [1]


async def test_model_that_gives_nan_never_clears() -> None:
    """Neither once nor from the cache."""
    async with scanning(FakeEmbedder(answer=lambda rows: rows * float("nan"))) as it:
        with await media_of(plain(RED)) as media:
            for _ in range(2):
                with pytest.raises(EmbedderUnavailable):
                    await it.scanner.clear(media)
        assert len(it.cache) == 0


async def test_log_has_one_line_a_scan_and_no_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """The digest's beginning, what was decided, and why."""
    async with scanning() as it:
        with (
            caplog.at_level("INFO", "safety_proxy.scanner"),
            await media_of(plain(PURPLE)) as media,
        ):
            await it.scanner.scan(media)
        (record,) = caplog.records
        line = record.getMessage()
        assert f"sha256={media.sha256[:16]} action=block source=policy cached=False" in line
        assert "red-and-blue in frame 0: red 0.7" in line
