"""Decoding in processes of their own: whatever a file does to its decoder, the proxy goes on.

    descriptors   the file, read-only, and memory for its crops: what a decoder is handed
    wire          the one message each way, of which nothing is believed that was not expected
    pool          how many there are, whose turn it is, what becomes of those that die
    template      the process that they are forked from, as seen from here
    worker        the other side: that process, and the decoders
    sandbox, seccomp   what a decoder cannot do

Neither pebble nor concurrent.futures nor multiprocessing.Pool: all of them unpickle what a worker
sends, which hands the proxy to a worker that a file has taken over. A worker that dies also breaks
the whole executor of the second, and the third waits for it for ever.

Forked from a template, not from the proxy, whose memory holds keys, and not each started anew. On
two cores of a virtual machine that others used as well (2026-11, Python 3.11):

                                   started anew        forked from the template
    until ready                          450 ms        7 ms, of 12 ms processor time in all
    memory while idle (PSS)               42 MB        13 MB, and the template 30 MB
    a decode beside the same call in this process: 0.9 ms more where the function does nothing;
    16.5 instead of 14.5 ms for a JPEG of 90 KB, 69 to 72 instead of 66 to 69 ms for one of 12 MP
"""

import asyncio
import mmap
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from safety_proxy.crops import CropSpec
from safety_proxy.deadline import Deadline
from safety_proxy.errors import ConfigError, DecoderLost, DecodersUnavailable, ScanTimeout
from safety_proxy.logs import get_logger
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.isolation import wire
from safety_proxy.media.isolation.descriptors import CropMemory, reopen
from safety_proxy.media.isolation.pool import Pool
from safety_proxy.media.isolation.template import Template, TemplateFailed, Worker, ending

_logger = get_logger(__name__)

# A decoder may have been killed from outside, by an admin or for want of memory: its file gets one
# other. One whose other decoder ends as well is not tried again.
_ATTEMPTS: Final = 2

# No file does either to its decoder, in which memory beyond the bound is an error. None: it ended
# with its template.
_FROM_OUTSIDE: Final = {None, -signal.SIGKILL}

# How it ended is known right after the end itself has shown on its socket.
_ENDING_SECONDS: Final = 1.0


class Decoders:
    """Decodes files in processes that are kept ready for it.

    decode: a function of a module, found by its name in a fresh interpreter: (bytes of a file,
        spec, bounds) -> 1 to wire.MOST_FRAMES frames, or UndecodableImage. Any other exception is
        taken for that; whatever else it does costs its process.
    processes: files decoded at the same time.
    memory_bytes: address space that a decode may take, the mapped file included.
    cpu_seconds: processor time for one file; the whole second in which it is used up is granted.
    files_each: files that a process decodes before it is replaced. 1 keeps whatever a file does to
        its decoder from the files after it, for 12 ms of a processor each.
    """

    def __init__(
        self,
        decode: Callable[[mmap.mmap | bytes, CropSpec, Bounds], list[Frame]],
        *,
        processes: int,
        memory_bytes: int,
        cpu_seconds: float,
        files_each: int = 100,
    ) -> None:
        start = partial(
            Template.start,
            decode,
            files=files_each,
            memory_bytes=memory_bytes,
            cpu_seconds=cpu_seconds,
        )
        self._pool = Pool(start, processes=processes, files_each=files_each)
        self._cpu_seconds = cpu_seconds
        self.lost = 0

    @property
    def healthy(self) -> bool:
        """Whether a file that comes now would be decoded, as far as can be told."""
        return self._pool.healthy

    async def start(self) -> None:
        """Returns when the first process is ready, all imports done.

        Raises ConfigError if there can be none: nothing is ever decoded in the proxy instead.
        """
        if sys.platform != "linux":
            raise ConfigError(
                f"Decoders are confined by means of Linux, and this is {sys.platform}. "
                "Run the proxy on Linux, in a container or a virtual machine."
            )
        try:
            template = await self._pool.start()
        except (TemplateFailed, DecodersUnavailable) as error:
            await self.aclose()
            raise ConfigError(f"Decoder processes do not start: {error}.") from error
        if not template.seccomp:
            _logger.warning("no seccomp here: decoders may make any system call")

    async def decode(
        self, media_fd: int, size_bytes: int, spec: CropSpec, bounds: Bounds, *, deadline: Deadline
    ) -> list[Frame]:
        """The frames of a file, as the function gives them.

        media_fd: has to be open when this begins, and no longer. Waits its turn, first come first
        served. Cancelling ends the process at work on it, unless it is done with it in a moment.
        Raises UndecodableImage as the function does, DecoderLost if two processes ended on the
        file or one used up its processor time, ScanTimeout at the deadline, DecodersUnavailable;
        that too if the second process was killed from outside, which is not the file's doing.
        """
        if deadline.left <= 0:
            raise ScanTimeout("no time is left to decode")
        request = wire.Request(size_bytes, spec, bounds)
        try:
            with ExitStack() as opened:
                picture = reopen(media_fd)
                opened.callback(os.close, picture)
                async with asyncio.timeout_at(deadline.at):
                    return await self._decode(picture, request)
        except TimeoutError as error:
            raise ScanTimeout("not decoded in time") from error
        except OSError as error:
            raise DecodersUnavailable(f"cannot hand over the file: {error.strerror}") from error

    async def aclose(self) -> None:
        """Ends all processes; who waits for one gets DecodersUnavailable."""
        await self._pool.aclose()

    async def _decode(self, picture: int, request: wire.Request) -> list[Frame]:
        lost: Exception | None = None
        for attempt in range(_ATTEMPTS):
            with CropMemory(request.spec) as memory:
                worker = await self._give(request, picture, memory, again=attempt > 0)
                places = await self._answer(worker)
                if places is not None:
                    crops = await memory.read(len(places))
                    triples = zip(crops, places, strict=True)
                    return [Frame(crop, where, pdq=pdq) for crop, (where, pdq) in triples]
            lost = await self._lost(worker)
        assert lost is not None
        raise lost

    async def _give(
        self, request: wire.Request, picture: int, memory: CropMemory, *, again: bool
    ) -> Worker:
        """A process that has been given the file."""
        message = request.pack()
        while True:
            worker = await self._pool.take(first=again)
            if worker.give(message, [picture, memory.descriptor]):
                return worker
            self._pool.put_back_dead(worker)

    async def _answer(self, worker: Worker) -> list[wire.Told] | None:
        """What it says of each frame; None if it gave no answer, and so has been ended."""
        try:
            answer = await worker.answer()
            if not answer:  # before it is ended, so that one is told from the other
                await _status(worker)
        except asyncio.CancelledError:
            self._pool.see_out(worker)
            raise
        fit = wire.is_answer(answer)
        self._pool.release(worker, fit=fit)
        return wire.unpack_answer(answer) if fit else None

    async def _lost(self, worker: Worker) -> Exception:
        """What it means if no other is tried.

        Raises DecoderLost where its end was the file's doing for certain.
        """
        self.lost += 1
        status = await _status(worker)
        _logger.warning("a decoder ended on a file", ended=ending(status))
        if status == -signal.SIGXCPU:
            raise DecoderLost(f"it takes more than {self._cpu_seconds:g} s of processor time")
        if status in _FROM_OUTSIDE and not worker.killed:
            return DecodersUnavailable(
                f"two decoders were ended from outside, the second {ending(status)}: by the kernel "
                "for want of memory, or by an admin"
            )
        return DecoderLost(f"its decoder ended {ending(status)}, and so did another")


async def _status(worker: Worker) -> int | None:
    """How it ended; None if it lives, or nobody knows."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_SECONDS):
            return await asyncio.shield(worker.status)
    return None
