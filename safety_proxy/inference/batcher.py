"""One forward pass for all that wait: work-conserving, never waiting for a batch to fill."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

import numpy as np

from safety_proxy.crops import Float32Array, UInt8Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.inference.embedder import Embedder
from safety_proxy.logs import get_logger
from safety_proxy.metrics import Metrics
from safety_proxy.tasks import spawn

T = TypeVar("T")

_logger = get_logger(__name__)

# As long as Lemmy waits for anything of pict-rs: a pass that takes longer answers nobody.
STUCK_SECONDS: Final = 30.0


# Cosine of a picture's embeddings in two passes: 0.999 and more in half precision, with whatever
# neighbours; what a broken device gives is far from it.
_UNCHANGED: Final = 0.98


@dataclass(frozen=True, slots=True)
class Control:
    """A picture, and the embedding that it had when the model was known to work."""

    crop: UInt8Array
    embedding: Float32Array


@dataclass(eq=False, slots=True)
class _Job:
    """The crops of one picture; they stay together in one batch where they fit."""

    crops: Sequence[UInt8Array]
    done: asyncio.Future[Float32Array]


class Batcher:
    """Embeddings from an embedder that runs on a thread of its own.

    While one forward pass runs, whoever arrives waits; the next pass takes all of them, up to
    `batch_limit` crops. An idle model therefore starts at once, and a busy one fills its batches.
    A batch that fails is run again picture by picture, so that one bad input costs one answer.

    control: shown to the model in every pass, once it is set. A device that is broken may go on to
    answer, with the same or with anything for whatever it is shown; nothing of a pass is believed
    in which this picture does not come out as it did. It costs most where there is time: a pass for
    one picture has two, a full one has one more.
    What a picture's own pass fails with is for its caller to log.

    clock: seconds that only rise.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        batch_limit: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._batch_limit = batch_limit
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._pump: asyncio.Task[None] | None = None
        self._pass_since: float | None = None
        self.failing = False
        self.control: Control | None = None

    @property
    def stuck(self) -> bool:
        """Whether the forward pass under way has taken more than STUCK_SECONDS."""
        return self._pass_since is not None and self._clock() - self._pass_since > STUCK_SECONDS

    @property
    def frames_waiting(self) -> int:
        return sum(len(job.crops) for job in self._waiting)

    async def embed(self, crops: Sequence[UInt8Array]) -> Float32Array:
        """Embeddings (N, D) of N crops. Raises EmbedderUnavailable. Cancelling drops the crops."""
        job = _Job(crops, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._pump is None or self._pump.done():
            self._pump = spawn(self._run(), name="batcher")
        try:
            return await job.done
        finally:
            if job in self._waiting:
                self._waiting.remove(job)
            del job  # which holds the error whose frames would hold it

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        """Embeddings (P, D) of P texts. Blocks, so not for the event loop.

        The model does one thing at a time, so this runs between two passes: whoever has many texts
        hands them over a few at a time, and pictures wait for those alone.
        Raises EmbedderUnavailable.
        """
        try:
            embedding = self._thread.submit(self._embedder.embed_texts, texts)
        except RuntimeError as error:  # the thread is shut down
            raise EmbedderUnavailable("shutting down") from error
        return embedding.result()

    async def aclose(self) -> None:
        """Waits for the pass under way; who still waits gets EmbedderUnavailable."""
        for job in self._waiting:
            _fail(job, EmbedderUnavailable("shutting down"))
        self._waiting.clear()
        if self._pump is not None:
            await asyncio.wait([self._pump])
        self._thread.shutdown(wait=False)  # nothing runs on it any more

    async def _run(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            try:
                await self._answer(batch)
            except EmbedderUnavailable as error:
                if len(batch) == 1:
                    self._give_up(batch[0], error)
                else:
                    _logger.warning(
                        "a batch failed, its pictures are run one by one",
                        pictures=len(batch),
                        error=error,
                    )
                    await self._answer_singly(batch)

    def _next_batch(self) -> list[_Job]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].crops)
        while self._waiting and size + len(self._waiting[0].crops) <= self._batch_limit:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].crops)
        return batch

    async def _answer(self, batch: list[_Job]) -> None:
        crops = [crop for job in batch for crop in job.crops]
        rows = iter(await self._forward(crops))
        for job in batch:
            result = list(islice(rows, len(job.crops)))
            if not job.done.done():  # its client may have left
                job.done.set_result(np.stack(result))
        self.failing = False

    async def _answer_singly(self, batch: list[_Job]) -> None:
        for job in batch:
            if job.done.done():
                continue
            try:
                await self._answer([job])
            except EmbedderUnavailable as error:
                self._give_up(job, error)

    def _give_up(self, job: _Job, error: EmbedderUnavailable) -> None:
        self.failing = True
        _fail(job, EmbedderUnavailable(str(error)))  # a new one: its frames hold the whole batch

    async def _forward(self, crops: list[UInt8Array]) -> list[Float32Array]:
        """Rows for all crops; more than the limit (one long animation) take several passes."""
        rows: list[Float32Array] = []
        for start in range(0, len(crops), self._batch_limit):
            chunk = crops[start : start + self._batch_limit]
            rows.extend(await self._checked_pass(chunk))
            self._metrics.batch(len(chunk))
        return rows

    async def _checked_pass(self, crops: list[UInt8Array]) -> list[Float32Array]:
        """The rows of one pass, the control picture's left out. Raises EmbedderUnavailable."""
        control = self.control
        shown = [*crops, control.crop] if control else crops
        self._pass_since = self._clock()
        try:
            with self._metrics.stage("forward_pass"):
                rows = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._embedder.embed_images, shown
                )
        except EmbedderUnavailable:
            raise
        except Exception as error:
            # Boundary: whatever the model does, the callers are answered.
            raise EmbedderUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            self._pass_since = None
        if len(rows) != len(shown):  # whose row is whose could only be guessed
            raise EmbedderUnavailable(f"{len(rows)} embeddings for {len(shown)} crops")
        # Written so that NaN, which compares as False, does not pass either.
        if control and not float(rows[-1] @ control.embedding) >= _UNCHANGED:
            raise EmbedderUnavailable("a known picture has another embedding than it had")
        return list(rows[: len(crops)])


def _fail(job: _Job, error: EmbedderUnavailable) -> None:
    if not job.done.done():
        job.done.set_exception(error)
