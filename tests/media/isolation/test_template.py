"""Tests of media/isolation/template.py: the process that decoders are forked from."""

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from safety_proxy.crops import CropSpec
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.isolation import template as template_module
from safety_proxy.media.isolation import wire
from safety_proxy.media.isolation.descriptors import CropMemory, reopen
from safety_proxy.media.isolation.template import Template, TemplateFailed, Worker, ending
from tests.media import misbehavior
from tests.media.isolation.test_processes import (
    in_session,
    open_files,
    until,
    until_nothing_is_left_of,
)

SPEC = CropSpec(24, 32)


@asynccontextmanager
async def started() -> AsyncIterator[Template]:
    before = open_files()
    template = await Template.start(misbehavior.decode, files=2, memory_bytes=2**29, cpu_seconds=20)
    try:
        yield template
    finally:
        await template.aclose()
        await template.aclose()  # once more does no harm
        await until_nothing_is_left_of(template._process.pid)
        assert open_files() == before


async def ready(worker: Worker) -> Worker:
    assert await worker.answer() == wire.READY
    return worker


async def told(worker: Worker, content: str) -> bytes:
    """The answer to a file of this content."""
    with tempfile.TemporaryFile(buffering=0) as file, CropMemory(SPEC) as memory:
        file.write(content.encode())
        picture = reopen(file.fileno())
        request = wire.Request(len(content.encode()), SPEC, Bounds()).pack()
        assert worker.give(request, [picture, memory.descriptor])
        os.close(picture)
        answer = await worker.answer()
        if wire.is_answer(answer) and answer.startswith(b'{"frames"'):
            (crop,) = await memory.read(1)
            assert np.array_equal(crop, misbehavior.pattern(content.partition(" ")[2], SPEC))
        return answer


async def test_decoder_answers_so_many_files_and_ends() -> None:
    """By itself, with exit code 0."""
    async with started() as template:
        worker = await ready(template.fork())
        assert worker.answer_now() == b""
        assert wire.unpack_answer(await told(worker, "crop a")) == [("a", ())]
        assert wire.unpack_answer(await told(worker, "crop b")) == [("b", ())]
        assert await worker.status == 0
        assert await worker.answer() == b""
        assert worker.answer_now() == b""
        assert not worker.give(b"{}", [])
        worker.kill()


async def test_decoder_is_killed_whatever_it_does_and_its_end_is_told() -> None:
    """One that is idle, one that spins, and one that has ended already."""
    async with started() as template:
        idle, busy, dead = [await ready(template.fork()) for _ in range(3)]
        assert await told(dead, "exit 3") == b""
        assert await dead.status == 3
        with tempfile.TemporaryFile(buffering=0) as file, CropMemory(SPEC) as memory:
            file.write(b"handle-signals")
            request = wire.Request(14, SPEC, Bounds()).pack()
            assert busy.give(request, [file.fileno(), memory.descriptor])
        for worker in (idle, busy, dead):
            worker.kill()
        assert await idle.status in {0, -signal.SIGKILL}  # the end of its socket may come first
        assert await busy.status == -signal.SIGKILL
        await until(lambda: len(in_session(template._process.pid)) == 1)


async def test_decoder_that_is_left_alone_ends() -> None:
    """When the proxy closes its socket, without being killed."""
    async with started() as template:
        worker = await ready(template.fork())
        worker.channel.close()
        assert await worker.status == 0


async def test_template_has_one_thread_and_no_descriptor_of_ours() -> None:
    """It forks: a lock held by another thread would be held for ever in each decoder."""
    with tempfile.TemporaryFile() as ours:
        os.set_inheritable(ours.fileno(), True)
        async with started() as template:
            folder = Path(f"/proc/{template._process.pid}")
            assert len(list((folder / "task").iterdir())) == 1
            # Three standard streams, the control socket and the two ends of a pipe.
            await until(lambda: len(list((folder / "fd").iterdir())) == 6)
            worker = await ready(template.fork())
            await until(lambda: len(list((folder / "fd").iterdir())) == 6)
            worker.kill()


async def test_end_of_the_template_is_the_end_of_all() -> None:
    """It shows on every decoder, and is not an exit code of theirs."""
    async with started() as template:
        worker = await ready(template.fork())
        template.kill_all()
        await template.ended()
        template.kill_all()
        assert await worker.status is None
        assert await worker.answer() == b""
        worker.kill()
        with pytest.raises(OSError, match="Bad file descriptor"):
            template.fork()
        await until(lambda: in_session(template._process.pid) == set())


async def test_template_that_takes_no_messages_is_ended() -> None:
    """It hangs, and nothing of it could be killed by asking."""
    async with started() as template:
        worker = await ready(template.fork())
        os.kill(template._process.pid, signal.SIGSTOP)
        with suppress(BlockingIOError):
            while True:
                template._control.send(b"{}")
        template.kill(1)
        await template.ended()
        assert await worker.status is None
        worker.kill()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit", "ended while it started"),
        ("import os; os.abort()", "ended while it started"),
        ("import time; time.sleep(60)", "not up within 0.5 s"),
    ],
)
async def test_template_that_does_not_come_up(
    program: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is told why, and leaves nothing."""
    monkeypatch.setattr(template_module, "_PROGRAM", program)
    monkeypatch.setattr(template_module, "_END_SECONDS", 0.1)
    if "sleep" in program:
        monkeypatch.setattr(template_module, "_START_SECONDS", 0.5)
    before = open_files()
    with pytest.raises(TemplateFailed, match=why):
        await Template.start(misbehavior.decode, files=1, memory_bytes=2**29, cpu_seconds=1)
    assert open_files() == before


async def test_start_that_is_cancelled_leaves_nothing() -> None:
    """Neither process nor descriptor."""
    before = open_files()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await Template.start(misbehavior.decode, files=1, memory_bytes=2**29, cpu_seconds=1)
    assert open_files() == before


async def test_no_room_for_another_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an OSError, and closes what was opened."""
    async with started() as template:

        def full(*_: object) -> None:
            raise BlockingIOError

        before = open_files()
        with monkeypatch.context() as patched:
            patched.setattr(socket, "send_fds", full)
            with pytest.raises(BlockingIOError):
                template.fork()
        assert open_files() == before


def test_endings_in_words() -> None:
    """For the log, and for whoever is told that a file cannot be read."""
    assert ending(None) == "with the template"
    assert ending(0) == "with exit code 0"
    assert ending(-signal.SIGSEGV) == "by SIGSEGV"
