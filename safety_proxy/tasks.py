"""Starting tasks and threads, the one way."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

T = TypeVar("T")

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


def _forget(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
