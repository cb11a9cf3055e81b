"""Tests of safety_proxy/scanner.py: the main path from bytes to a verdict."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from safety_proxy.crops import CropSpec, Float32Array
from safety_proxy.deadline import Deadline
from safety_proxy.errors import EmbedderUnavailable, QueueFull, ScanError, ScanTimeout
from safety_proxy.look import Viewer
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.frames import read_frames
from safety_proxy.media.spool import Media, Spool, Spooler
from safety_proxy.metrics import Metrics
from safety_proxy.policy.judge import Judge, Judgment
from safety_proxy.policy.policy import Policy
from safety_proxy.proof import Proof
from safety_proxy.scanner import Cleared, Scanner
from safety_proxy.settings import Settings
from safety_proxy.store.cache import VerdictCache
from safety_proxy.store.database import Database
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.hashlist import test_picture as blocked_test_picture
from safety_proxy.store.listed import OwnEntry
from safety_proxy.store.recall import Recall
from safety_proxy.store.shared import ListSource
from safety_proxy.store.unscanned import Unscanned
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action, Source
from tests.fakes import FakeEmbedder, InProcessDecoders, color_policy, model_of, until
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
    unscanned: Unscanned
    lists: HashLists
    evidence: EvidenceStore
    recall: Recall
    decoders: InProcessDecoders
    proof: Proof


def soon() -> Deadline:
    """One that no test waits for."""
    return Deadline.after(60)


@asynccontextmanager
async def scanning(
    embedder: FakeEmbedder | None = None,
    policy: Policy | None = None,
    sources: Sequence[ListSource] = (),
    harmless_limit: float = 1,
    **sections: dict[str, Any],
) -> AsyncIterator[Scanning]:
    """A scanner over a FakeEmbedder; `sources` are shared lists, `sections` settings.

    harmless_limit: 1 looks at no harmless pictures, of which fifty would have to be decoded.
    """
    settings = Settings.model_validate(sections)
    cache, metrics, embedder = VerdictCache(100), Metrics(), embedder or FakeEmbedder()
    with TemporaryDirectory() as folder:
        database = Database(Path(folder))
        await database.open()
        unscanned, decoders = Unscanned(database), InProcessDecoders()
        evidence = EvidenceStore(database, keep_seconds=3600, max_embeddings=1000)
        recall, lists = Recall(evidence), HashLists(sources, database=database)
        await lists.load()
        viewer = Viewer(settings, decoders, metrics)
        scanner = Scanner(
            settings,
            cache=cache,
            lists=lists,
            recall=recall,
            unscanned=unscanned,
            viewer=viewer,
            metrics=metrics,
        )
        proof = Proof(scanner, lists=lists, viewer=viewer, limit=harmless_limit)
        scanner.model = model = model_of(embedder, metrics, policy=policy)
        try:
            yield Scanning(
                scanner,
                embedder,
                cache,
                metrics,
                unscanned,
                lists,
                evidence,
                recall,
                decoders,
                proof,
            )
        finally:
            embedder.go.set()
            await model.batcher.aclose()
            await decoders.aclose()
            await recall.aclose()
            await database.aclose()


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
            verdict = await it.scanner.scan(media, soon())
            outcome = await it.scanner.clear(media, soon())
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
            verdict = await it.scanner.scan(media, soon())
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
                verdict = await it.scanner.scan(media, soon())
            assert (verdict.action, verdict.source) == (action, Source.UNREADABLE)
            assert verdict.reasons[0].detail
        assert it.embedder.batches == []
        assert len(it.cache) == 0
        assert it.metrics.verdicts_by_source == {"unreadable": 2}


async def test_before_the_model_has_loaded_every_scan_fails() -> None:
    """Of what is on no list: see tests/test_scanner_lists.py."""
    async with scanning() as it:
        it.scanner.model, model = None, it.scanner.model
        with await media_of(plain(RED)) as media:
            with pytest.raises(EmbedderUnavailable):
                await it.scanner.scan(media, soon())
            it.scanner.model = model
            assert (await it.scanner.scan(media, soon())).action is Action.ALLOW


async def test_second_scan_of_the_same_bytes_skips_the_model() -> None:
    """Nor is it asked about other bytes that look the same to it: those cost a decode."""
    async with scanning() as it:
        for body in (plain(RED), plain(RED), plain(RED) + b"trailing"):
            with await media_of(body) as media:
                verdict = await it.scanner.scan(media, soon())
                assert verdict.sha256 == media.sha256
        assert it.embedder.batches == [1]
        assert (it.cache.counts.hits, it.cache.counts.misses) == (1, 2)
        assert it.metrics.scans_by_action == {"allow": 2}
        assert it.metrics.verdicts_by_action == {"allow": 3}


async def test_pictures_that_look_the_same_share_a_forward_pass_under_way() -> None:
    """A picture and its copy without metadata, at the same time."""
    async with scanning() as it:
        it.embedder.go.clear()
        media = [await media_of(plain(PURPLE) + bytes(n)) for n in range(5)]
        scans = [spawn(it.scanner.scan(one, soon()), name="scan") for one in media]
        flights = it.scanner._embedding._flights
        await until(lambda: [flight.waiting for flight in flights.values()] == [5])
        it.embedder.go.set()
        verdicts = await asyncio.gather(*scans)
        assert [verdict.sha256 for verdict in verdicts] == [one.sha256 for one in media]
        assert {verdict.action for verdict in verdicts} == {Action.BLOCK}
        assert it.embedder.batches == [1]
        for one in media:
            one.close()


async def test_other_frames_are_another_look() -> None:
    """Equal crops in another number or order are judged by themselves."""
    async with scanning() as it:
        for colors in ([RED, BLUE], [BLUE, RED], [RED, BLUE, GREEN]):
            with await media_of(animation(colors)) as media:
                await it.scanner.scan(media, soon())
        assert it.embedder.batches == [2, 2, 3]


@pytest.mark.parametrize(
    "answer",
    [
        lambda rows: rows * 0 + rows[:1],
        lambda rows: rows * 0 + 0.5,
        lambda rows: rows[::-1],
        lambda rows: rows * float("nan"),
        lambda rows: -rows,
    ],
    ids=["the same", "a constant", "shuffled", "nan", "reversed"],
)
async def test_model_that_goes_wrong_unseen_clears_nothing(
    answer: Callable[[Float32Array], Float32Array],
) -> None:
    """A device may break and go on to answer: each pass shows it a picture that is known."""
    async with scanning() as it:
        with await media_of(blocked_test_picture()) as hit, await media_of(plain(RED)) as clean:
            await it.proof.prove(hit, clean)
        assert it.scanner.model is not None
        it.embedder.answer = answer
        with await media_of(plain(PURPLE)) as media:
            with pytest.raises(EmbedderUnavailable):
                await it.scanner.clear(media, soon())
            assert it.scanner.model.batcher.failing
            it.embedder.answer = lambda rows: rows
            assert (await it.scanner.scan(media, soon())).action is Action.BLOCK
            assert not it.scanner.model.batcher.failing
        assert it.embedder.batches == [2, 2, 2]
        assert it.metrics.frames == 3  # the known picture is not counted


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (EmbedderUnavailable("on purpose"), "model"),
        (RuntimeError("on purpose"), "model"),
        (MemoryError("on purpose"), "model"),
    ],
)
async def test_failure_lets_nothing_in_unless_the_admin_chose_so(
    failure: Exception, reason: str
) -> None:
    """Then the digest is marked until a scan succeeds; either way it is counted, once."""
    for on_failure in ("block", "allow"):
        async with scanning(FakeEmbedder(error=failure), scan={"on_failure": on_failure}) as it:
            with await media_of(plain(PURPLE)) as media:
                if on_failure == "block":
                    with pytest.raises(EmbedderUnavailable):
                        await it.scanner.clear(media, soon())
                    assert len(it.unscanned) == 0
                else:
                    outcome = await it.scanner.clear(media, soon())
                    assert isinstance(outcome, Cleared)
                    assert outcome.verdict.source is Source.UNSCANNED
                    assert len(it.unscanned) == 1
                assert it.metrics.failures == {reason: 1}
                assert len(it.cache) == 0
                it.embedder.error = None
                assert (await it.scanner.scan(media, soon())).action is Action.BLOCK
                assert len(it.unscanned) == 0


async def test_full_queue_and_lateness_are_failures_like_others() -> None:
    """`allow` lets in what there is no time for, and before there is a model."""
    async with scanning(scan={"on_failure": "allow", "queue_limit": 1}) as it:
        it.embedder.go.clear()
        with await media_of(plain(RED)) as slow, await media_of(plain(PURPLE)) as media:
            scan = spawn(it.scanner.scan(slow, soon()), name="scan")
            await until(lambda: it.scanner.in_flight == 1)
            assert (await it.scanner.scan(media, soon())).source is Source.UNSCANNED
            late = await it.scanner.scan(slow, Deadline.after(-1))
            assert late.source is Source.UNSCANNED
            it.embedder.go.set()
            assert (await scan).source is Source.POLICY
            it.scanner.model, model = None, it.scanner.model
            assert (await it.scanner.scan(media, soon())).source is Source.UNSCANNED
            it.scanner.model = model
        assert it.metrics.failures == {"queue_full": 1, "timeout": 1, "model": 1}


async def test_list_blocks_though_failures_are_let_in() -> None:
    """What is known to be bad needs no model."""
    embedder = FakeEmbedder(error=RuntimeError("on purpose"))
    async with scanning(embedder, scan={"on_failure": "allow"}) as it:
        with await media_of(blocked_test_picture()) as media:
            assert (await it.scanner.scan(media, soon())).action is Action.BLOCK


async def test_scan_that_could_not_end_in_time_is_refused_at_once() -> None:
    """By the measured rate, with the time after which another attempt makes sense."""
    async with scanning() as it:
        pace = it.scanner._pace
        pace._known, pace._busy_seconds, pace._ended = True, 10.0, 2.0  # 5 s a scan
        it.embedder.go.clear()
        with await media_of(plain(RED)) as first, await media_of(plain(PURPLE)) as second:
            scan = spawn(it.scanner.scan(first, soon()), name="scan")  # alone, so it may try
            await until(lambda: it.scanner.in_flight == 1)
            with pytest.raises(QueueFull) as caught:
                await it.scanner.scan(second, soon())
            assert caught.value.retry_after == pytest.approx(10, abs=1)
            it.embedder.go.set()
            assert (await scan).action is Action.ALLOW


async def test_who_joins_a_scan_has_its_own_time() -> None:
    """Not that of the first, whose client said that it would not wait."""
    async with scanning() as it:
        decoding = threading.Event()

        def decode(data: mmap | bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
            assert decoding.wait(30)
            return read_frames(data, spec, bounds)

        it.decoders.decoding = decode
        with await media_of(plain(PURPLE)) as media:
            hasty = spawn(it.scanner.scan(media, Deadline.after(0.2)), name="scan")
            await until(lambda: it.scanner.in_flight == 1)
            patient = spawn(it.scanner.scan(media, soon()), name="scan")
            with pytest.raises(ScanTimeout):
                await hasty
            decoding.set()
            assert (await patient).action is Action.BLOCK
        assert it.embedder.batches == [1]


async def test_judging_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a video with a thousand frames it takes a third of a second."""
    threads, judge = set(), Judge.judge

    def judging(*args: Any) -> Judgment:
        threads.add(threading.current_thread())
        return judge(*args)

    monkeypatch.setattr(Judge, "judge", judging)
    async with scanning() as it:
        for _ in range(2):  # what has been scanned, and what is known
            with await media_of(plain(RED)) as media:
                await it.scanner.scan(media, soon())
            await it.recall.aclose()
            await it.lists.put(OwnEntry("a" * 64, Action.BLOCK))  # nothing is at hand any more
    assert threads
    assert threading.main_thread() not in threads


async def test_what_was_seen_otherwise_is_looked_at_anew() -> None:
    """With bounds that left out what these would show, it was let in."""
    async with scanning() as it:
        with await media_of(plain(RED)) as media:
            await it.scanner.scan(media, soon())
            await it.recall.aclose()
            for version, passes in ((it.scanner._viewer.version, 1), ("another", 2)):
                it.scanner._viewer.version = version
                await it.lists.put(OwnEntry("a" * 64, Action.BLOCK))  # nothing is at hand any more
                await it.scanner.scan(media, soon())
                assert len(it.embedder.batches) == passes


async def test_what_is_at_hand_counts_as_seen() -> None:
    """Else what everybody asks for would be forgotten as what nobody does."""
    async with scanning() as it:
        with await media_of(plain(RED)) as media:
            await it.scanner.scan(media, soon())
            it.evidence._seen.clear()
            await it.scanner.scan(media, soon())
        assert it.cache.counts.hits == 1
        assert list(it.evidence._seen) == [(media.sha256, "fake/fp32")]


async def test_new_policy_or_model_judges_known_bytes_anew() -> None:
    """A verdict holds for those that decided."""
    async with scanning() as it:
        with await media_of(plain(PURPLE)) as media:
            assert (await it.scanner.scan(media, soon())).action is Action.BLOCK
            rules = [rule for rule in color_policy().rules if rule.action is not Action.BLOCK]
            mild = color_policy().model_copy(update={"rules": rules})
            it.scanner.model = model_of(it.embedder, it.metrics, policy=mild)
            assert (await it.scanner.scan(media, soon())).action is Action.ALLOW
            other = FakeEmbedder(fingerprint="other/fp32")
            it.scanner.model = model_of(other, it.metrics)
            assert (await it.scanner.scan(media, soon())).model == "other/fp32"
        assert it.cache.counts.hits == 0


async def test_scan_that_takes_too_long_is_given_up(spooled: Callable[[], set[str]]) -> None:
    """Nothing of it is kept, and the next one may succeed."""
    async with scanning(scan={"timeout_seconds": 0.1}) as it:
        it.embedder.go.clear()
        with await media_of(plain(RED)) as media:
            with pytest.raises(ScanTimeout):
                await it.scanner.scan(media, soon())
            await until(lambda: it.scanner.in_flight == 0)
            assert len(it.cache) == 0
            it.embedder.go.set()
            await it.scanner.scan(media, soon())
    await until(lambda: not spooled())


async def test_scans_over_the_queue_s_limit_are_refused_at_once() -> None:
    """Those under way go on; known pictures are answered all the same."""
    async with scanning(scan={"queue_limit": 2}) as it:
        with await media_of(plain(GREEN)) as known:
            await it.scanner.scan(known, soon())
            it.embedder.started.clear()
            it.embedder.go.clear()
            waiting = [await media_of(plain(color)) for color in (RED, BLUE)]
            tasks = [spawn(it.scanner.scan(media, soon()), name="scan") for media in waiting]
            await until(lambda: it.scanner.in_flight == 2)
            with await media_of(plain(PURPLE)) as media, pytest.raises(QueueFull):
                await it.scanner.scan(media, soon())
            assert (await it.scanner.scan(known, soon())).action is Action.FLAG
            it.embedder.go.set()
            assert {v.action for v in await asyncio.gather(*tasks)} == {Action.ALLOW}
            for media in waiting:
                media.close()
        assert it.scanner.in_flight == 0


async def test_others_are_answered_though_the_first_closed_its_media() -> None:
    """The scan reads through a descriptor of its own."""
    async with scanning(scan={"decoders": 1}) as it:
        it.embedder.go.clear()
        first, second = await media_of(plain(PURPLE)), await media_of(plain(PURPLE))
        leader = spawn(it.scanner.scan(first, soon()), name="scan")
        follower = spawn(it.scanner.scan(second, soon()), name="scan")
        await until(lambda: it.cache.counts.coalesced == 1)
        leader.cancel()
        first.close()
        it.embedder.go.set()
        assert (await follower).action is Action.BLOCK
        second.close()
        assert it.embedder.batches == [1]


async def test_pictures_of_failed_scans_are_let_go_at_once(
    spooled: Callable[[], set[str]],
) -> None:
    """Not at some collection later: under load they would fill the disk that they lie on."""
    gc.collect()
    gc.disable()
    try:
        async with scanning(scan={"timeout_seconds": 0.2, "queue_limit": 3}) as it:
            for n, failure in enumerate((RuntimeError("on purpose"), None)):
                it.embedder.error = failure
                if failure is None:
                    it.embedder.go.clear()  # it hangs
                media = [await media_of(plain((n, k, 9))) for k in range(5)] * 2
                scans = [it.scanner.scan(one, soon()) for one in media]
                outcomes = await asyncio.gather(*scans, return_exceptions=True)
                assert {isinstance(outcome, ScanError) for outcome in outcomes} == {True}
                for one in media:
                    one.close()
                del scans, outcomes, media
        await until(lambda: not spooled())
    finally:
        gc.enable()


async def test_model_that_gives_nan_never_clears() -> None:
    """Neither once nor from the cache."""
    async with scanning(FakeEmbedder(answer=lambda rows: rows * float("nan"))) as it:
        with await media_of(plain(RED)) as media:
            for _ in range(2):
                with pytest.raises(EmbedderUnavailable):
                    await it.scanner.clear(media, soon())
        assert len(it.cache) == 0


async def test_log_has_one_line_a_scan_and_no_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """The digest, which `allow` and `explain` take, what was decided, and why."""
    async with scanning() as it:
        with (
            caplog.at_level("INFO", "safety_proxy.scanner"),
            await media_of(plain(PURPLE)) as media,
        ):
            await it.scanner.scan(media, soon())
        (record,) = caplog.records
        line = record.getMessage()
        assert f"sha256={media.sha256} action=block source=policy cached=False" in line
        assert "red-and-blue: red 0.7" in line
