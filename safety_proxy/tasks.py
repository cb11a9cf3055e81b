"""Starting tasks and threads, the one way, and sharing one task among many that ask for it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """A named task that is kept until it ends; the loop itself holds tasks only weakly."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_forget)
    return task


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """What `function` returns or raises, from a thread that does not keep the process alive.

    For what may hang for minutes and cannot be interrupted. Cancelling leaves the thread to itself.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(cast("T", value))

    def run() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = function(), None
        except BaseException as error:  # noqa: BLE001 -- handed to whoever waits
            outcome = None, error
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="daemon", daemon=True).start()
    return await result


@dataclass(slots=True)
class _Flight(Generic[T]):
    """A task under way, and how many wait for it."""

    task: asyncio.Task[T]
    waiting: int = 0


class SingleFlight(Generic[K, T]):
    """One task for any number of simultaneous askers for one key."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._flights: dict[K, _Flight[T]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    async def run(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `start` comes to.

        start: called only for the first asker, in a task of its own, so that the others still get
        their answer when the first one leaves. It is cancelled when the last one has left.
        Raises what `start` raises, to every asker; the next asker starts anew.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(spawn(self._fly(key, start), name=self._name))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._land(key, flight.task)
                # Nobody is left to hear of an error that the cancelling brings about.
                flight.task.add_done_callback(lambda task: task.cancelled() or task.exception())
                flight.task.cancel()
            # An error's frames must not lead back to it: whatever else they hold, a picture among
            # it, would live on until the next collection.
            del flight

    async def _fly(self, key: K, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await start()
        finally:
            self._land(key, asyncio.current_task())

    def _land(self, key: K, task: asyncio.Task[Any] | None) -> None:
        """Newcomers must not join what has ended or is being cancelled."""
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


def _forget(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
