"""Tests of safety_proxy/tasks.py: background tasks are named and kept."""

import asyncio
import gc
import weakref

import pytest

from safety_proxy import tasks
from safety_proxy.tasks import SingleFlight, spawn
from tests.fakes import until


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


async def test_one_flight_serves_all_who_ask_for_a_key() -> None:
    """Others have their own; it carries the name that was given, and lands when it has ended."""
    flights: SingleFlight[str, str] = SingleFlight("a flight")
    go = asyncio.Event()
    started: list[str | None] = []

    async def start() -> str:
        task = asyncio.current_task()
        started.append(task.get_name() if task else None)
        await go.wait()
        return f"answer {len(started)}"

    asking = [spawn(flights.run(key, start), name="ask") for key in ("a", "a", "b", "a")]
    await until(lambda: len(started) == 2)
    assert ("a" in flights, "b" in flights, "c" in flights) == (True, True, False)
    go.set()
    assert await asyncio.gather(*asking) == ["answer 2"] * 4
    assert started == ["a flight"] * 2
    assert "a" not in flights
    assert "b" not in flights
    assert await flights.run("a", start) == "answer 3"


async def test_who_asks_while_a_flight_is_being_cancelled_gets_one_of_their_own() -> None:
    """The end of the old one does not take the new one away from those who come later."""
    flights: SingleFlight[str, str] = SingleFlight("a flight")
    go, end = asyncio.Event(), asyncio.Event()
    begun: list[str] = []

    async def start() -> str:
        name = f"flight {len(begun)}"
        begun.append(name)
        try:
            await go.wait()
        finally:
            await end.wait()  # as a thread that cannot be interrupted
        return name

    try:
        leaver = spawn(flights.run("a", start), name="leaves")
        await until(lambda: len(begun) == 1)
        leaver.cancel()
        await asyncio.wait([leaver])
        newcomer = spawn(flights.run("a", start), name="comes")
        await until(lambda: len(begun) == 2)
        end.set()
        await until(lambda: len(asyncio.all_tasks()) == 3)  # this, the newcomer, and its flight
        later = spawn(flights.run("a", start), name="comes later")
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(*[newcomer, later]) == ["flight 1"] * 2
    finally:
        end.set()


async def test_a_flight_that_fails_on_being_cancelled_is_no_loose_end() -> None:
    """Nobody waits for it any more, and it is not reported as an error that was never seen."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    flights: SingleFlight[str, None] = SingleFlight("a flight")
    begun = asyncio.Event()

    async def fail_when_cancelled() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("on purpose") from None

    asker = spawn(flights.run("a", fail_when_cancelled), name="ask")
    await begun.wait()
    asker.cancel()
    await until(lambda: len(asyncio.all_tasks()) == 1)
    assert asker.cancelled()
    del asker
    gc.collect()  # which is when it would be reported
    assert complaints == []
