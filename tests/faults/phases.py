"""A run in phases: in each, so many requests by 16 clients, and one kind of fault meanwhile."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from safety_proxy.tasks import spawn
from tests.faults import forms
from tests.faults.forms import address_of, escaped
from tests.faults.origins import TURN_SECONDS, TURNING
from tests.faults.pictures import Kind
from tests.faults.plans import BY_ADDRESS, Mix, Plan, Road, plan
from tests.faults.proxy import MODEL_FAULTS
from tests.faults.tally import Tally
from tests.faults.traffic import perform
from tests.faults.wire import ask
from tests.faults.world import TIGHT, World

CLIENTS: Final = 16

# A client that is told to come again in a moment does so a bit later.
_BACK_OFF_SECONDS: Final = 0.15

# From here on a run is long enough for a pause beyond all time limits of a download.
_LONG_RUN: Final = 3000
_LONG_PAUSE_SECONDS: Final = 11.0


class Progress:
    """How far a phase's requests are; goes on without waiting when they have all been sent."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.sent = 0
        self._moved = asyncio.Condition()

    async def step(self) -> None:
        async with self._moved:
            self.sent += 1
            self._moved.notify_all()

    async def at(self, share: float) -> None:
        """Returns when this share of the requests has been sent."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.sent >= share * self.count)


Director = Callable[[World, Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Phase:
    """share: of all requests, but at least `least`."""

    name: str
    share: float
    least: int
    mix: Mix
    direct: Director


async def run_phase(world: World, tally: Tally, phase: Phase, start: int, requests: int) -> int:
    """Sends its requests, and more until its faults have all been; the next free number."""
    count = max(phase.least, round(phase.share * requests))
    progress = Progress(count)
    directing = spawn(_directed(phase.direct, world, progress), name=f"faults of {phase.name}")
    numbers = _numbers(start, start + count, directing)

    async def client() -> None:
        for number in numbers:
            await world.proxy_up.wait()
            await progress.step()
            status = await _send(world, tally, plan(world.seed, number, phase.mix))
            if status in {0, 502, 503, 504}:
                await asyncio.sleep(_BACK_OFF_SECONDS)

    clients = [spawn(client(), name=f"client {number}") for number in range(CLIENTS)]
    try:
        await asyncio.gather(directing, *clients)
    finally:
        for task in (directing, *clients):
            task.cancel()
    return start + max(count, progress.sent)


async def _directed(direct: Director, world: World, progress: Progress) -> None:
    await direct(world, progress)


def _numbers(start: int, end: int, directing: "asyncio.Task[None]") -> Iterator[int]:
    number = start
    while number < end or not directing.done():
        yield number
        number += 1


async def _send(world: World, tally: Tally, it: Plan) -> int:
    outcome = await perform(world, it)
    tally.add(world, outcome)
    return outcome.reply.status


async def _nothing(world: World, progress: Progress) -> None:
    del world
    await progress.at(1.0)


async def _tight(world: World, progress: Progress) -> None:
    with world.broken("little room"):
        await world.restart_proxy(**TIGHT)
        await progress.at(1.0)


async def _restarts(world: World, progress: Progress) -> None:
    await progress.at(0.1)
    await world.restart_proxy()
    await progress.at(0.4)
    await world.kill_proxy()
    await progress.at(0.7)
    await world.restart_proxy()
    await progress.at(1.0)


async def _pictrs_kills(world: World, progress: Progress) -> None:
    times = 2 if progress.count < _LONG_RUN // 10 else 6
    for turn in range(times):
        await progress.at((turn + 0.5) / times)
        await world.kill_pictrs(0.7)


async def _pictrs_pauses(world: World, progress: Progress) -> None:
    pauses = [0.5, 2.0]
    if progress.count >= _LONG_RUN // 12:
        pauses = [0.3, 1.0, _LONG_PAUSE_SECONDS, 0.5, 2.0]
    for turn, seconds in enumerate(pauses):
        await progress.at((turn + 0.5) / len(pauses))
        await world.pause_pictrs(seconds)


async def _model(world: World, progress: Progress) -> None:
    rounds = 1 if progress.count < _LONG_RUN // 10 else 3
    faults = [fault for _ in range(rounds) for fault in MODEL_FAULTS]
    for turn, fault in enumerate(faults):
        await progress.at((turn + 0.5) / len(faults))
        async with world.model_fault(fault):
            await asyncio.sleep(0.6)


async def _storm(world: World, progress: Progress) -> None:
    """Anything at any time, pict-rs and the model also at once."""
    rng = random.Random(world.seed)
    times = 3 if progress.count < _LONG_RUN // 10 else 12
    for turn in range(times):
        await progress.at((turn + 0.5) / times)
        async with world.model_fault(rng.choice(MODEL_FAULTS)):
            await rng.choice((world.kill_pictrs, world.pause_pictrs))(rng.choice((0.3, 0.8)))


async def _turning(world: World, progress: Progress) -> None:
    """Addresses whose picture becomes another: asked for before, at, and after the turn."""
    for turn, behavior in enumerate(TURNING):
        address = address_of("pictures", world.origins.port, behavior, Kind.CLEAN, 900_000 + turn)
        target = f"/image/original?proxy={escaped(address)}"
        statuses = []
        for wait in (TURN_SECONDS + 0.1, 0.8, 0.0):
            reply = await ask(world.proxy.port, forms.read(target), seconds=10)
            kind = world.ledger.kind_of_body(reply.body) if reply.is_picture else str(reply.status)
            statuses.append(kind)
            await asyncio.sleep(wait)
        world.faults[f"origin turned: {behavior}, {', then '.join(statuses)}"] += 1
        expected = _AFTER_TURN[behavior]
        if statuses[2] != expected:
            world.found("addresses that show what they did before", f"{behavior}: {statuses}")
    await progress.at(1.0)


# What is shown once the origin has been asked again.
_AFTER_TURN: Final = {
    "turns-blocked": "400",
    "turns-other": "clean",
    "turns-missing": "500",
    "turns-clean": "clean",
    "turns-inside": "clean",
}

WARM: Final = Phase("warm", 0.12, 60, Mix(), _nothing)
CALM: Final = Phase("calm again", 0.13, 60, Mix(), _nothing)
BEFORE_WARM: Final[Sequence[Phase]] = (
    Phase("little room", 0.08, 50, Mix(), _tight),
    Phase("proxy stopped and killed", 0.10, 60, Mix(cut=0.05), _restarts),
)
AFTER_WARM: Final[Sequence[Phase]] = (
    Phase("odd spellings", 0.08, 80, Mix(only=(Road.SPELLING,), all_spellings=True), _nothing),
    Phase("bad origins", 0.12, 45, Mix(only=BY_ADDRESS, all_origins=True), _turning),
    Phase("clients that leave", 0.08, 30, Mix(all_cuts=True), _nothing),
    Phase("pict-rs killed", 0.08, 40, Mix(unfair=0.1, cut=0.05), _pictrs_kills),
    Phase("pict-rs paused", 0.06, 40, Mix(unfair=0.1, cut=0.05), _pictrs_pauses),
    Phase("model broken", 0.10, 60, Mix(cut=0.05), _model),
    Phase("all at once", 0.05, 40, Mix(unfair=0.3, odd_host=0.2, cut=0.2), _storm),
)
