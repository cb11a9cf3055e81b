"""Files -> what the policy says of each: looked at in parallel, counted in order.

A file that gives no verdict is counted and named, and ends nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from safety_proxy.errors import ScanError, UndecodableImage
from safety_proxy.evaluation.sources import Found, Source, Unopened
from safety_proxy.evaluation.tally import Looked, Survey, Tally
from safety_proxy.media.spool import Media
from safety_proxy.policy.judge import Judge
from safety_proxy.tasks import spawn

# Looks under way at once: enough to fill a batch of the model while others are decoded.
LOOKS: Final = 32


class Looker(Protocol):
    """Whoever can look at a picture; the server's own way, so that both see the same."""

    async def look(self, media: Media) -> Looked:
        """What is to be seen. Raises UndecodableImage or ScanError of this one picture."""


async def survey(
    source: Source,
    looker: Looker,
    judge: Judge,
    *,
    furthest: bool = False,
    on_file: Callable[[], None] = lambda: None,
) -> Survey:
    """What `judge` says of each distinct file of the source.

    furthest: see Tally. on_file: called once for every file, when it has been counted.
    """
    tally = Tally(judge, furthest=furthest)
    files = iter(source)
    under_way: deque[tuple[Found, asyncio.Task[Looked]]] = deque()

    async def take() -> None:
        await _count(tally, *under_way[0])
        under_way.popleft()
        on_file()

    try:
        while (file := await asyncio.to_thread(next, files, None)) is not None:
            if isinstance(file, Unopened):
                tally.add_unreadable(file)
                on_file()
            elif not tally.is_new(file.media.sha256):
                file.media.close()
                on_file()
            else:
                under_way.append((file, spawn(looker.look(file.media), name="look")))
            if len(under_way) >= LOOKS:
                await take()
        while under_way:
            await take()
    finally:
        for file, task in under_way:
            task.cancel()
            file.media.close()
    return tally.survey()


async def _count(tally: Tally, file: Found, task: asyncio.Task[Looked]) -> None:
    try:
        # A millisecond of judging each, which the next looks must not wait for.
        await asyncio.to_thread(tally.add, file.name, file.group, await task)
    except UndecodableImage as error:
        tally.add_unreadable(Unopened(file.name, str(error)))
    except ScanError as error:
        tally.add_failed(Unopened(file.name, str(error)))
    file.media.close()
