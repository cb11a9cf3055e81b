"""Tests of media/isolation/pool.py: who gets a process, and what becomes of those that die."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import numpy as np
import pytest

from safety_proxy.errors import DecodersUnavailable
from safety_proxy.media.bounds import Frame
from safety_proxy.media.isolation import pool as pool_module
from safety_proxy.media.isolation import wire
from safety_proxy.media.isolation.pool import Pool
from safety_proxy.media.isolation.template import Template, TemplateFailed, Worker
from safety_proxy.tasks import spawn

ANSWER = wire.pack_frames([Frame(np.zeros((0, 0, 3), np.uint8), "whole picture")])


class FakeTemplate:
    """Forks decoders that are the other ends of sockets, in the hands of the test."""

    def __init__(self, *, first_words: bytes = wire.READY) -> None:
        self.first_words = first_words
        self.forked: list[Worker] = []
        self.theirs: list[socket.socket] = []
        self.killed: list[int] = []
        self.refuses = False
        self._ended = asyncio.Event()

    def fork(self) -> Worker:
        if self.refuses:
            raise BrokenPipeError
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        worker = Worker(cast("Template", self), len(self.forked), ours)
        self.forked.append(worker)
        self.theirs.append(theirs)
        if self.first_words:
            theirs.send(self.first_words)
        return worker

    def kill(self, number: int) -> None:
        self.killed.append(number)
        self.theirs[number].close()

    def kill_all(self) -> None:
        for theirs in self.theirs:
            theirs.close()
        self._ended.set()

    async def ended(self) -> None:
        await self._ended.wait()

    async def aclose(self) -> None:
        self.kill_all()

    def end_of(self, worker: Worker) -> socket.socket:
        """The decoder's end of its socket."""
        return self.theirs[self.forked.index(worker)]


class Source:
    """Where a pool gets templates from: in order, the last one for ever."""

    def __init__(self, *templates: FakeTemplate | Exception) -> None:
        self.asked = 0
        self._templates = templates

    async def __call__(self) -> Template:
        self.asked += 1
        template = self._templates[min(self.asked, len(self._templates)) - 1]
        if isinstance(template, Exception):
            raise template
        return cast("Template", template)


@asynccontextmanager
async def pool_of(
    template: FakeTemplate, *more: FakeTemplate | Exception, processes: int = 2, files_each: int = 3
) -> AsyncIterator[Pool]:
    """Started, and closed in the end."""
    pool = Pool(Source(template, *more), processes=processes, files_each=files_each)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.aclose()
        for it in (template, *more):
            if isinstance(it, FakeTemplate):
                it.kill_all()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait in order of the real ones."""
    monkeypatch.setattr(pool_module, "_FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(pool_module, "_LONGEST_WAIT_SECONDS", 0.1)


async def settled() -> None:
    """Whatever is ready to happen has happened."""
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)


async def test_so_many_are_ready_and_each_goes_to_one() -> None:
    """Who asks for more waits until one is back, first come first served; a retry comes first."""
    template = FakeTemplate()
    async with pool_of(template) as pool:
        await settled()
        assert len(template.forked) == 2
        first, second = await pool.take(), await pool.take()
        assert first is not second
        order: list[str] = []

        async def ask(name: str, *, again: bool = False) -> None:
            worker = await pool.take(first=again)
            order.append(name)
            pool.put_back(worker)

        asking = [spawn(ask("a"), name="a"), spawn(ask("b"), name="b")]
        await settled()
        asking.append(spawn(ask("again", again=True), name="again"))
        await settled()
        assert order == []
        pool.put_back(second)
        await asyncio.wait(asking)
        assert order == ["again", "a", "b"]
        pool.put_back(first)


async def test_process_is_used_so_often_and_its_successor_is_ready_by_then() -> None:
    """It is started when the last file begins, and not before."""
    template = FakeTemplate()
    async with pool_of(template, processes=1, files_each=2) as pool:
        worker = await pool.take()
        pool.release(worker, fit=True)
        assert await pool.take() is worker
        await settled()
        assert len(template.forked) == 2
        pool.release(worker, fit=True)
        assert template.killed == [0]
        successor = await pool.take()
        assert successor is template.forked[1]
        pool.put_back(successor)


async def test_unfit_process_is_killed_and_replaced() -> None:
    """That says nothing about the others."""
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        for _ in range(30):
            pool.release(await pool.take(), fit=False)
            assert pool.healthy
        assert template.killed == list(range(30))


async def test_idle_process_that_dies_is_replaced() -> None:
    """Nobody gets it, or at worst notices at once."""
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        await settled()
        template.theirs[0].close()
        worker = await pool.take()  # before the end could show
        assert not worker.give(b"{}", [])
        pool.put_back_dead(worker)
        await settled()
        template.theirs[1].close()
        await settled()
        worker = await pool.take()
        assert worker is template.forked[2]
        assert worker.give(b"{}", [])
        pool.put_back(worker)


@pytest.mark.parametrize(("answer", "killed"), [(ANSWER, []), (b"garbage", [0]), (None, [0])])
async def test_process_that_was_left_goes_on_after_an_answer_in_time(
    answer: bytes | None, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says nothing, or something else, is killed."""
    monkeypatch.setattr(pool_module, "_GRACE_SECONDS", 0.2)
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        worker = await pool.take()
        pool.see_out(worker)
        if answer is not None:
            template.end_of(worker).send(answer)
        after = await pool.take()
        assert (after is worker) == (not killed)
        assert template.killed == killed
        pool.put_back(after)


async def test_asker_that_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    """Nothing is lost between the two."""
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        worker = await pool.take()
        leaving = spawn(pool.take(), name="leaving")
        staying = spawn(pool.take(), name="staying")
        await settled()
        pool.put_back(worker)  # to `leaving`, which has not run yet
        leaving.cancel()
        assert await staying is worker
        passed_over = spawn(pool.take(), name="passed over")
        await settled()
        passed_over.cancel()
        pool.put_back(worker)
        assert await pool.take() is worker
        pool.put_back(worker)


async def test_deaths_in_a_row_make_the_pool_wait(caplog: pytest.LogCaptureFixture) -> None:
    """It does not spin, turns away who asks, says so, and finds back by itself."""
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        template.first_words = b"OSError: no room"
        waiting_for = await pool.take()
        asker = spawn(pool.take(), name="asker")
        await settled()
        with caplog.at_level(logging.ERROR):
            pool.release(waiting_for, fit=False)
            with pytest.raises(DecodersUnavailable, match="do not start"):
                await asker
            assert not pool.healthy
            with pytest.raises(DecodersUnavailable, match="do not start"):
                await pool.take()
            await asyncio.sleep(0.5)
        assert 6 <= len(template.forked) < 20
        assert "OSError: no room" in caplog.text
        template.first_words = wire.READY
        await asyncio.sleep(0.2)
        worker = await pool.take()  # some are there, if not proven
        pool.release(worker, fit=True)
        assert pool.healthy


async def test_process_that_lives_is_proof_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file comes that would prove it."""
    monkeypatch.setattr(pool_module, "_PROVEN_SECONDS", 0.1)
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        await settled()
        template.first_words = b"no"
        template.theirs[0].close()
        await asyncio.sleep(0.3)
        assert not pool.healthy
        template.first_words = wire.READY
        await asyncio.sleep(0.4)
        assert pool.healthy
        template.theirs[-1].close()  # killed by hand, long after
        await settled()
        assert pool._failures == 1


async def test_template_that_cannot_fork_counts_as_deaths() -> None:
    """Such as for want of descriptors."""
    template = FakeTemplate()
    async with pool_of(template, processes=1) as pool:
        worker = await pool.take()
        template.refuses = True
        pool.release(worker, fit=False)
        for _ in range(10):
            pool._dispatch()
        assert not pool.healthy
        template.refuses = False
        await asyncio.sleep(0.3)
        pool.put_back(await pool.take())


async def test_template_that_does_not_fork_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs: another takes its place."""
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0.05)
    hanging, next_one = FakeTemplate(), FakeTemplate()
    async with pool_of(hanging, next_one, processes=1) as pool:
        worker = await pool.take()
        hanging.first_words = b""
        pool.release(worker, fit=False)
        worker = await pool.take()
        assert worker in next_one.forked
        pool.put_back(worker)


async def test_template_that_ends_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """Is started anew, with waits in between, and so is one that does not come up."""
    source = Source(FakeTemplate(), TemplateFailed("no memory"))
    pool = Pool(source, processes=1, files_each=1)
    template = await pool.start()
    with caplog.at_level(logging.ERROR):
        template.kill_all()
        await asyncio.sleep(0.5)
    assert 5 <= source.asked < 20
    assert not pool.healthy
    assert "detail=no memory" in caplog.text
    with pytest.raises(DecodersUnavailable):
        await pool.take()
    await pool.aclose()


async def test_start_fails_as_the_template_or_its_decoders_do() -> None:
    """And leaves a pool that can be closed."""
    pool = Pool(Source(TemplateFailed("no memory")), processes=1, files_each=1)
    with pytest.raises(TemplateFailed, match="no memory"):
        await pool.start()
    await pool.aclose()
    template = FakeTemplate(first_words=b"OSError: no room")
    pool = Pool(Source(template), processes=1, files_each=1)
    with pytest.raises(DecodersUnavailable):
        await pool.start()
    await pool.aclose()
    template.kill_all()


async def test_closing_ends_every_process_whatever_it_does() -> None:
    """Busy, left, idle or starting; who waits is told."""
    template = FakeTemplate()
    async with pool_of(template, processes=3) as pool:
        busy, left, _ = [await pool.take() for _ in range(3)]
        pool.put_back(_)
        pool.see_out(left)
        asking = [spawn(pool.take(), name="asker") for _ in range(3)]
        await settled()
        await pool.aclose()
        results = await asyncio.gather(*asking, return_exceptions=True)
        told = [it for it in results if isinstance(it, DecodersUnavailable)]
        assert len(told) == 2
        for worker in {busy, *(it for it in results if isinstance(it, Worker))}:
            pool.release(worker, fit=True)
        assert not pool._idle
        assert not pool._left
        assert not pool._busy
        assert sorted(template.killed) == list(range(len(template.forked)))
