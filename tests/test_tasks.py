"""Tests of safety_proxy/tasks.py: background tasks are named and kept."""

import asyncio
import gc
import weakref

import pytest

from safety_proxy import tasks
from safety_proxy.tasks import spawn


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    """The collector does not take it, though all that would wake it hangs on it alone."""
    ended = []

    async def wait_for_what_only_it_knows() -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        woken.append(weakref.ref(wake))
        await wake
        ended.append(True)

    woken: list[weakref.ref[asyncio.Future[None]]] = []
    spawn(wait_for_what_only_it_knows(), name="lonely")
    await asyncio.sleep(0)
    gc.collect()
    wake = woken[0]()
    assert wake is not None
    wake.set_result(None)
    await asyncio.sleep(0)
    assert ended == [True]


async def test_a_task_has_its_name_and_its_result() -> None:
    """The name is what a debugger and a warning show."""

    async def answer() -> int:
        return 42

    task = spawn(answer(), name="the answer")
    assert task.get_name() == "the answer"
    assert await task == 42


async def test_a_task_is_forgotten_when_it_has_ended() -> None:
    """Well or badly or cancelled."""

    async def fail() -> None:
        raise ValueError("on purpose")

    failed = spawn(fail(), name="fails")
    slept = spawn(asyncio.sleep(0), name="ends")
    cancelled = spawn(asyncio.sleep(60), name="is cancelled")
    assert {failed, slept, cancelled} <= tasks._running
    cancelled.cancel()
    await asyncio.wait([failed, slept, cancelled])
    with pytest.raises(ValueError, match="on purpose"):
        await failed
    assert not {failed, slept, cancelled} & tasks._running
