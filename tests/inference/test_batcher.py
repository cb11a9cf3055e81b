"""Tests of safety_proxy/inference/batcher.py: one pass for all that wait, all are answered."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from safety_proxy.crops import Float32Array, UInt8Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.inference.batcher import STUCK_SECONDS, Batcher
from safety_proxy.metrics import Metrics
from safety_proxy.tasks import spawn
from tests.fakes import FakeEmbedder, until


def crop(red: int) -> UInt8Array:
    """A crop of one shade."""
    return np.full((8, 8, 3), (red, 0, 100), np.uint8)


def crops(*reds: int) -> list[UInt8Array]:
    """Crops of these shades."""
    return [crop(red) for red in reds]


class Batched:
    """A batcher over a FakeEmbedder, and pictures sent to it while a first one is in its pass."""

    def __init__(self, batch_limit: int = 8, embedder: FakeEmbedder | None = None) -> None:
        self.embedder = embedder or FakeEmbedder()
        self.metrics = Metrics()
        self.now = 0.0
        self.batcher = Batcher(
            self.embedder,
            batch_limit=batch_limit,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    async def busy(self, *pictures: Sequence[int]) -> list[asyncio.Task[Float32Array]]:
        """The tasks of a first picture, whose pass has begun, and of these, which wait."""
        self.embedder.go.clear()
        first = spawn(self.batcher.embed(crops(1)), name="first")
        await until(self.embedder.started.is_set)
        tasks = [spawn(self.batcher.embed(crops(*reds)), name="embed") for reds in pictures]
        waiting = sum(map(len, pictures))
        await until(lambda: self.batcher.frames_waiting == waiting)
        return [first, *tasks]

    def expected(self, *reds: int) -> Float32Array:
        """What these shades embed to, each by itself."""
        return np.concatenate([FakeEmbedder().embed_images(crops(red)) for red in reds])


async def test_idle_model_starts_at_once() -> None:
    """A single picture waits for no other."""
    it = Batched()
    rows = await it.batcher.embed(crops(10, 20))
    np.testing.assert_array_equal(rows, it.expected(10, 20))
    assert it.embedder.batches == [2]
    await it.batcher.aclose()


async def test_all_that_wait_share_the_next_pass() -> None:
    """And each gets its own rows."""
    it = Batched()
    _, *tasks = await it.busy([10], [20, 21], [30])
    it.embedder.go.set()
    for task, reds in zip(tasks, ([10], [20, 21], [30]), strict=True):
        np.testing.assert_array_equal(await task, it.expected(*reds))
    assert it.embedder.batches == [1, 4]
    assert (it.metrics.batches, it.metrics.frames, it.metrics.largest_batch) == (2, 5, 4)
    await it.batcher.aclose()


async def test_pass_holds_no_more_than_the_limit() -> None:
    """A picture's frames stay together where they fit."""
    it = Batched(batch_limit=3)
    tasks = await it.busy([1, 2], [3, 4], [5], [6, 7, 8])
    it.embedder.go.set()
    await asyncio.gather(*tasks)
    assert it.embedder.batches == [1, 2, 3, 3]
    await it.batcher.aclose()


async def test_animation_over_the_limit_takes_several_passes() -> None:
    """Its rows come back in order, and the rest of the queue is not held up by it."""
    it = Batched(batch_limit=3)
    reds = list(range(0, 80, 10))
    _, long, short = await it.busy(reds, [99])
    it.embedder.go.set()
    np.testing.assert_array_equal(await long, it.expected(*reds))
    np.testing.assert_array_equal(await short, it.expected(99))
    assert it.embedder.batches == [1, 3, 3, 2, 1]
    await it.batcher.aclose()


async def test_bad_picture_costs_its_own_answer_alone() -> None:
    """The others of its batch are run again one by one."""
    it = Batched()
    it.embedder.poison = lambda it: bool(it[0, 0, 0] == 66)
    tasks = await it.busy([10], [66], [30])
    it.embedder.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, EmbedderUnavailable) for outcome in outcomes] == [
        False,
        False,
        True,
        False,
    ]
    np.testing.assert_array_equal(await tasks[3], it.expected(30))
    assert it.embedder.batches == [1, 3, 1, 1, 1]
    await it.batcher.aclose()


@pytest.mark.parametrize("error", [EmbedderUnavailable("x"), RuntimeError("x"), MemoryError("x")])
async def test_failing_model_is_told_to_every_caller_and_may_recover(error: Exception) -> None:
    """Whatever it raises; `failing` says so until a pass succeeds."""
    it = Batched()
    tasks = await it.busy([10], [20])
    it.embedder.error = error
    it.embedder.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {EmbedderUnavailable}
    assert it.batcher.failing
    it.embedder.error = None
    await it.batcher.embed(crops(10))
    assert not it.batcher.failing
    await it.batcher.aclose()


async def test_log_has_the_batch_that_failed_and_not_the_pictures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each picture's own failure goes to its caller, who logs it once."""
    it = Batched()
    it.embedder.poison = lambda it: bool(it[0, 0, 0] == 66)
    tasks = await it.busy([66], [30])
    it.embedder.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(EmbedderUnavailable):
        await it.batcher.embed(crops(66))
    (message,) = caplog.messages
    assert message == (
        "a batch failed, its pictures are run one by one "
        "pictures=2 error=EmbedderUnavailable: poisoned batch"
    )
    await it.batcher.aclose()


async def test_pass_that_does_not_end_is_told() -> None:
    """A hanging model is `stuck` until its pass ends, however it ends."""
    it = Batched(batch_limit=1)
    it.now = 1000.0
    assert not it.batcher.stuck
    tasks = await it.busy([20])
    it.now += STUCK_SECONDS
    assert not it.batcher.stuck
    it.now += 0.1
    assert it.batcher.stuck
    it.embedder.error = RuntimeError("x")
    it.embedder.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    it.now += 2 * STUCK_SECONDS
    assert not it.batcher.stuck
    assert it.batcher.failing
    await it.batcher.aclose()


async def test_each_pass_of_many_has_its_own_time() -> None:
    """A long animation, or a full queue, does not look like a hanging model."""
    it = Batched(batch_limit=1)
    seen = []

    def answer(rows: Float32Array) -> Float32Array:
        it.now += STUCK_SECONDS - 1
        seen.append(it.batcher.stuck)
        return rows

    it.embedder.answer = answer
    await it.batcher.embed(crops(1, 2, 3))
    assert seen == [False] * 3
    await it.batcher.aclose()


@pytest.mark.parametrize("rows", [0, 1, 3])
async def test_wrong_number_of_embeddings_is_a_failure(rows: int) -> None:
    """Whose row is whose could only be guessed; nobody is left waiting."""
    it = Batched()
    it.embedder.answer = lambda it: np.resize(it, (rows, 4))
    with pytest.raises(EmbedderUnavailable, match=f"{rows} embeddings for 2 crops"):
        await it.batcher.embed(crops(1, 2))
    await it.batcher.aclose()


async def test_who_leaves_while_waiting_is_not_run() -> None:
    """Its crops are dropped from the queue."""
    it = Batched()
    first, leaving, staying = await it.busy([10], [20])
    leaving.cancel()
    await asyncio.wait([leaving])
    assert it.batcher.frames_waiting == 1
    it.embedder.go.set()
    await asyncio.gather(first, staying)
    assert it.embedder.batches == [1, 1]
    await it.batcher.aclose()


async def test_who_leaves_during_the_pass_disturbs_nobody() -> None:
    """The pass ends, and the next one runs."""
    it = Batched()
    first, second = await it.busy([10])
    first.cancel()
    it.embedder.go.set()
    np.testing.assert_array_equal(await second, it.expected(10))
    await it.batcher.aclose()


async def test_who_left_is_not_tried_again_after_a_failed_batch() -> None:
    """Only callers that still wait are run one by one."""
    it = Batched()
    _, leaving, staying = await it.busy([66], [20])
    it.embedder.started.clear()
    it.embedder.poison = lambda it: bool(it[0, 0, 0] == 66)
    second, going = threading.Event(), threading.Event()

    def answer(rows: Float32Array) -> Float32Array:
        if len(it.embedder.batches) == 1:  # the first pass ends; hold the next one
            it.embedder.go = going
            it.embedder.started = second
        return rows

    it.embedder.answer = answer
    it.embedder.go.set()
    await until(second.is_set)
    leaving.cancel()
    await asyncio.wait([leaving])
    going.set()
    np.testing.assert_array_equal(await staying, it.expected(20))
    assert it.embedder.batches == [1, 2, 1]
    await it.batcher.aclose()


async def test_closing_ends_the_pass_and_fails_who_waits() -> None:
    """Nobody is left hanging."""
    it = Batched()
    first, waiting = await it.busy([10])
    closing = spawn(it.batcher.aclose(), name="close")
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), EmbedderUnavailable)
    assert not closing.done()
    it.embedder.go.set()
    await closing
    np.testing.assert_array_equal(await first, it.expected(1))


async def test_closed_batcher_fails_who_comes() -> None:
    """At once."""
    it = Batched()
    await it.batcher.embed(crops(1))
    await it.batcher.aclose()
    with pytest.raises(EmbedderUnavailable):
        await it.batcher.embed(crops(1))


async def test_model_runs_on_one_thread_of_its_own() -> None:
    """Its methods are not reentrant."""
    it = Batched(batch_limit=1)
    texts = (asyncio.to_thread(it.batcher.embed_texts, ["red"]) for _ in range(5))
    await asyncio.gather(*(it.batcher.embed(crops(n)) for n in range(5)), *texts)
    assert it.embedder.batches == [1] * 5
    assert len(it.embedder.threads) == 1
    assert it.embedder.threads.pop().startswith("model")
    await it.batcher.aclose()


class Ordered(FakeEmbedder):
    """Keeps the order of what it was given. go_on: what the first text waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.go_on = threading.Event()

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        self.seen.extend(texts)
        assert self.go_on.wait(30)
        return super().embed_texts(texts)

    def embed_images(self, crops: Sequence[UInt8Array]) -> Float32Array:
        self.seen.append("a picture")
        return super().embed_images(crops)


async def test_pictures_wait_for_the_texts_before_them_alone() -> None:
    """However many prompts a policy has that is being made ready."""
    embedder = Ordered()
    batcher = Batched(embedder=embedder).batcher

    def make_ready() -> None:
        for text in ("red", "green", "blue"):
            batcher.embed_texts([text])

    making = spawn(asyncio.to_thread(make_ready), name="make ready")
    await until(lambda: embedder.seen == ["red"])
    embedding = spawn(batcher.embed(crops(1)), name="embed")
    for _ in range(5):  # turns of the loop, in which it reaches the model's thread
        await asyncio.sleep(0)
    embedder.go_on.set()
    await asyncio.gather(making, embedding)
    assert embedder.seen == ["red", "a picture", "green", "blue"]
    await batcher.aclose()


async def test_texts_of_a_closed_batcher_are_a_failure() -> None:
    """A policy that is applied while the server stops."""
    it = Batched()
    await it.batcher.aclose()
    with pytest.raises(EmbedderUnavailable, match="shutting down"):
        await asyncio.to_thread(it.batcher.embed_texts, ["red"])
