"""Keeps so many decoder processes ready, and lends them to one asker at a time, first come first.

    starting -> idle -> busy -> idle ...             until it has had its number of files
                          `--> left -> idle          its asker has left, and its answer came at once
    any of them -> killed, and another started

A process that dies without a file says something about all of them: where they die in a row, the
pool waits before it starts the next, and says so by `healthy`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from safety_proxy.errors import DecodersUnavailable
from safety_proxy.logs import get_logger
from safety_proxy.media.isolation import wire
from safety_proxy.media.isolation.template import Template, TemplateFailed, Worker
from safety_proxy.tasks import spawn

_logger = get_logger(__name__)

# A decoder says that it is ready within milliseconds.
_START_SECONDS: Final = 10.0

# How long a decoder has to live without a file to show that they do not die by themselves.
_PROVEN_SECONDS: Final = 1.0

# For a decoder whose asker has left to come to its end; to replace one costs 12 ms of a processor.
_GRACE_SECONDS: Final = 0.05

# Deaths in a row that are borne for each process; after more, the pool waits twice as long after
# each.
_TOLERATED: Final = 4
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 10.0


class Pool:
    """Decoder processes, `processes` of them at work at the same time.

    start_template: how to get what they are forked from; raises TemplateFailed.
    files_each: files after which a process is replaced; its successor is ready by then.
    """

    def __init__(
        self, start_template: Callable[[], Awaitable[Template]], *, processes: int, files_each: int
    ) -> None:
        self._start_template = start_template
        self._processes = processes
        self._files_each = files_each
        self._template: Template | None = None
        self._keeping: asyncio.Task[None] | None = None
        # With what each waits for: to be ready, and for the answer that nobody wants any more.
        self._starting: dict[Worker, asyncio.TimerHandle] = {}
        self._left: dict[Worker, asyncio.TimerHandle] = {}
        self._idle: deque[Worker] = deque()
        self._busy: set[Worker] = set()
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._failures = 0
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def healthy(self) -> bool:
        """Whether who asks now would get a process, as far as can be told."""
        if self._keeping is None or self._keeping.done() or self._closed:
            return False
        now = asyncio.get_running_loop().time()
        return not self._failing or any(now - it.born > _PROVEN_SECONDS for it in self._idle)

    async def start(self) -> Template:
        """Returns when the first process is ready. Raises TemplateFailed, DecodersUnavailable."""
        template = await self._start_template()
        self._keeping = spawn(self._keep(template), name="decoders")
        # It goes on until it is cancelled: should it fail, nobody may wait for what it would do.
        self._keeping.add_done_callback(lambda _: self._turn_away("no decoders are started"))
        self.put_back(await self.take())
        return template

    async def aclose(self) -> None:
        """Ends all processes; who waits for one gets DecodersUnavailable."""
        self._closed = True
        self._turn_away("shutting down")
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._pause is not None:
            self._pause.cancel()
        self._drop_unused()
        for worker in list(self._left):
            self._part_with(worker)
        if self._template is not None:
            await self._template.aclose()

    # Lending.

    async def take(self, *, first: bool = False) -> Worker:
        """A process that nobody else has; `first`: before all others who wait.

        Whoever takes it ends with `release`, `see_out` or `put_back`. Raises DecodersUnavailable.
        """
        if self._closed or not (self.healthy or self._idle):
            raise DecodersUnavailable("shutting down" if self._closed else "decoders do not start")
        asker: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(asker)
        else:
            self._waiting.append(asker)
        self._dispatch()
        try:
            return await asker
        except asyncio.CancelledError:
            if asker.cancelled():
                with suppress(ValueError):  # passed over already
                    self._waiting.remove(asker)
            elif asker.exception() is None:  # given in the very same moment
                self.put_back(asker.result())
            raise

    def release(self, worker: Worker, *, fit: bool) -> None:
        """After an answer, if it is `fit`; else the process is ended, whatever it does."""
        self._busy.remove(worker)
        if fit:
            self._failures = 0
            worker.answers += 1
        if fit and worker.answers < self._files_each and not self._closed:
            self._rest(worker)
        else:
            worker.kill()
            self._dispatch()

    def see_out(self, worker: Worker) -> None:
        """Where nobody waits for its answer any more: it goes on only if that comes right away."""
        loop = asyncio.get_running_loop()
        loop.add_reader(worker.channel, self._part_with, worker)
        self._left[worker] = loop.call_later(_GRACE_SECONDS, self._part_with, worker)

    def put_back(self, worker: Worker) -> None:
        """After no use of it."""
        self._busy.remove(worker)
        self._rest(worker)

    def put_back_dead(self, worker: Worker) -> None:
        """It had ended before it could be used."""
        self.release(worker, fit=False)
        self._count_failure()

    def _dispatch(self) -> None:
        while self._waiting and self._idle and len(self._busy) < self._processes:
            asker = self._waiting.popleft()
            if asker.done():  # its client has left in this very moment
                continue
            worker = self._idle.popleft()
            asyncio.get_running_loop().remove_reader(worker.channel)
            self._busy.add(worker)
            asker.set_result(worker)
        self._fill()

    def _turn_away(self, why: str) -> None:
        while self._waiting:
            asker = self._waiting.popleft()
            if not asker.done():
                asker.set_exception(DecodersUnavailable(why))

    def _rest(self, worker: Worker) -> None:
        self._idle.append(worker)
        asyncio.get_running_loop().add_reader(worker.channel, self._heard, worker)
        self._dispatch()

    def _part_with(self, worker: Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.channel)
        self._left.pop(worker).cancel()
        self.release(worker, fit=wire.is_answer(worker.answer_now()))

    # Keeping up their number.

    async def _keep(self, template: Template) -> None:
        while True:
            self._template = template
            self._fill()
            await template.ended()
            self._template = None
            self._drop_unused()
            _logger.error("the process that decoders are forked from has ended")
            template = await self._restart()

    async def _restart(self) -> Template:
        while True:
            self._count_failure(self._processes)
            await asyncio.sleep(self._wait_seconds())
            try:
                return await self._start_template()
            except TemplateFailed as error:
                _logger.error("decoders do not start", detail=str(error))  # noqa: TRY400 -- no bug

    def _fill(self) -> None:
        """Starts processes until enough are ready. One at its last file has its successor then."""
        if self._closed or self._template is None or self._pause is not None:
            return
        staying = sum(it.answers + 1 < self._files_each for it in self._busy)
        while len(self._idle) + len(self._starting) + staying < self._processes:
            try:
                worker = self._template.fork()
            except OSError:
                self._count_failure()
                return
            loop = asyncio.get_running_loop()
            loop.add_reader(worker.channel, self._heard, worker)
            # A template that does not fork is no use, and takes all its decoders with it.
            patience = loop.call_later(_START_SECONDS, self._template.kill_all)
            self._starting[worker] = patience

    def _heard(self, worker: Worker) -> None:
        """A process without a file says that it is ready, or ends."""
        message = worker.answer_now()
        if worker in self._starting and message == wire.READY:
            self._starting.pop(worker).cancel()
            self._idle.append(worker)
            self._dispatch()
            return
        if worker in self._starting:
            _logger.error("a decoder did not start", detail=message.decode(errors="replace"))
        if asyncio.get_running_loop().time() - worker.born > _PROVEN_SECONDS:
            self._failures = 0
        self._drop(worker)
        self._count_failure()
        self._fill()

    def _drop_unused(self) -> None:
        for worker in [*self._starting, *self._idle]:
            self._drop(worker)

    def _drop(self, worker: Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.channel)
        if worker in self._starting:
            self._starting.pop(worker).cancel()
        else:
            self._idle.remove(worker)
        worker.kill()

    # Not spinning.

    @property
    def _failing(self) -> bool:
        return self._failures > _TOLERATED * self._processes

    def _wait_seconds(self) -> float:
        over = self._failures - _TOLERATED * self._processes
        if over <= 0:
            return 0.0
        return min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0 ** min(over, 16))

    def _count_failure(self, count: int = 1) -> None:
        """So many processes ended by themselves, or did not start."""
        self._failures += count
        if not self._failing or self._closed:
            return
        if not self.healthy:
            self._turn_away("decoders do not start")
        if self._pause is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._wait_seconds(), self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._dispatch()
