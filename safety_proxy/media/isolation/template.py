"""The proxy's hold on the template process, and on the decoders that it forks (see `worker`).

All sockets are Unix `SOCK_SEQPACKET` pairs: one send is one message, and the end of either side
shows on the other at once. Nothing here waits for a decoder but on the event loop.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from safety_proxy.media.isolation import wire
from safety_proxy.tasks import spawn

# Imports of all decoders, a third of a second on an idle machine.
_START_SECONDS: Final = 60.0

# In which a template whose proxy is gone kills its decoders and ends.
_END_SECONDS: Final = 5.0

_CONTROL_BYTES: Final = 4096

# -I: nothing of the environment, the user's packages or the working folder is added to the path.
_PROGRAM: Final = """
import json, sys
config = json.loads(sys.argv[1])
sys.path[:] = config["path"]
from safety_proxy.media.isolation.worker import main
main(config)
"""

_KEPT_BYTES: Final = str(32 * 1024**2)

# All that a decoder sees of the environment. One thread each: there are as many decoders as may
# work at the same time, and a template must have no thread but its own when it forks.
_ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each further one reserves 64 MiB of the address space
    # What one picture took is kept for the next: given back and taken anew, its pages cost a small
    # JPEG half as much time again (3 ms of 9). More than that is given back at once.
    "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
    "MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES,
}
_INHERITED: Final = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")


class TemplateFailed(Exception):
    """The template process did not come up; the message says why."""


class Worker:
    """One decoder: a process of its own, forked from the template."""

    def __init__(self, template: "Template", number: int, channel: socket.socket) -> None:
        self._template = template
        self._number = number
        self.channel = channel
        self.born = asyncio.get_running_loop().time()
        self.answers = 0
        self.killed = False  # by this side, while it lived
        # How it ended, once it has: an exit code, or less than 0 the signal; None if nobody knows.
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def give(self, request: bytes, descriptors: Sequence[int]) -> bool:
        """Hands it a file; False if it has ended already."""
        try:
            socket.send_fds(self.channel, [request], descriptors)
        except OSError:
            return False
        return True

    async def answer(self) -> bytes:
        """What it says to that, at most wire.MOST_BYTES and one; empty if it ends without."""
        try:
            return await asyncio.get_running_loop().sock_recv(self.channel, wire.MOST_BYTES + 1)
        except OSError:  # it ended with the request unread
            return b""

    def answer_now(self) -> bytes:
        """The same, but empty as well if it has said nothing so far."""
        try:
            return self.channel.recv(wire.MOST_BYTES + 1)
        except OSError:
            return b""

    def kill(self) -> None:
        """Ends it, whatever it does. It may have ended already."""
        self.killed = not self.status.done()
        self.channel.close()
        self._template.kill(self._number)


class Template:
    """The process that decoders are forked from. `start` makes one."""

    def __init__(self, process: Process, control: socket.socket, *, seccomp: bool) -> None:
        self._process = process
        self._control = control
        self._workers: dict[int, Worker] = {}
        self._count = 0
        self._listening = spawn(self._listen(), name="decoder template")
        self.seccomp = seccomp

    @classmethod
    async def start(
        cls, decode: Callable[..., Any], *, files: int, memory_bytes: int, cpu_seconds: float
    ) -> "Template":
        """A template whose imports are done. Raises TemplateFailed."""
        config = {
            "path": sys.path,
            "decode": f"{decode.__module__}:{decode.__qualname__}",
            "files": files,
            "memory_bytes": memory_bytes,
            "cpu_seconds": cpu_seconds,
        }
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        process = None
        try:
            with theirs:
                process = await _run({**config, "control": theirs.fileno()}, theirs)
            return cls(process, control, seccomp=await _first_words(control))
        except BaseException:
            control.close()
            if process is not None:
                await _end(process)
            raise

    def fork(self) -> Worker:
        """A decoder on its way; it says wire.READY. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._count += 1
        with theirs:
            try:
                message = json.dumps({"fork": self._count}).encode()
                socket.send_fds(self._control, [message], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        worker = self._workers[self._count] = Worker(self, self._count, ours)
        return worker

    def kill(self, number: int) -> None:
        if number not in self._workers:
            return
        try:
            self._control.send(json.dumps({"kill": number}).encode())
        except BlockingIOError:  # hundreds of messages unread: it hangs
            self.kill_all()
        except OSError:
            pass  # it has ended, and its decoders with it

    def kill_all(self) -> None:
        """Ends the template and with it all decoders, whatever they do."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Returns when the template has ended, for whatever reason."""
        await asyncio.shield(self._listening)

    async def aclose(self) -> None:
        """Ends it with all its decoders."""
        with suppress(OSError):  # it has ended by itself
            self._control.shutdown(socket.SHUT_RDWR)
        await self.ended()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while message := await loop.sock_recv(self._control, _CONTROL_BYTES):
                fields = json.loads(message)
                worker = self._workers.pop(fields["ended"])
                worker.status.set_result(fields["status"])
        except OSError:
            pass  # it ended with messages unread
        finally:
            self._control.close()
            await _end(self._process)
            for worker in self._workers.values():
                worker.status.set_result(None)
            self._workers.clear()


async def _run(config: dict[str, Any], control: socket.socket) -> Process:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        _PROGRAM,
        json.dumps(config),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,  # libraries write there what files say
        pass_fds=[control.fileno()],
        env=_ENVIRONMENT | inherited,
        start_new_session=True,
    )


async def _first_words(control: socket.socket) -> bool:
    """Whether decoders are filtered in their system calls. Raises TemplateFailed."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            message = await asyncio.get_running_loop().sock_recv(control, _CONTROL_BYTES)
    except TimeoutError as error:
        raise TemplateFailed(f"not up within {_START_SECONDS:g} s") from error
    except OSError as error:
        raise TemplateFailed("ended while it started") from error
    fields = json.loads(message or '{"failed": "ended while it started"}')
    if "failed" in fields:
        raise TemplateFailed(fields["failed"])
    return bool(fields["seccomp"])


async def _end(process: Process) -> None:
    """Waits for it, and helps after a while."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def ending(status: int | None) -> str:
    """In words, how a decoder ended."""
    if status is None:
        return "with the template"
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit code {status}"
