"""A run in phases: in each, so many requests by 16 clients, and one kind of fault meanwhile."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from safety_proxy.tasks import spawn
from tests.faults import forms, leftovers
from tests.faults.behaviors import TURN_SECONDS, TURNING
from tests.faults.checks import see_recovered
from tests.faults.forms import address_of, escaped
from tests.faults.pictures import Kind
from tests.faults.plans import BY_ADDRESS, Mix, Plan, Road, plan
from tests.faults.proxy import MODEL_FAULTS
from tests.faults.tally import Tally
from tests.faults.traffic import perform
from tests.faults.wire import ask
from tests.faults.world import World

CLIENTS: Final = 16

# A client that is told to come again in a moment does so a bit later.
_BACK_OFF_SECONDS: Final = 0.15

# From here on a run is long enough for a pause beyond all time limits of a download.
LONG_RUN: Final = 3000
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


Director = Callable[[World, Progress], Coroutine[Any, Any, None]]


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
    directing = spawn(phase.direct(world, progress), name=f"faults of {phase.name}")
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
        await progress.at(1.0)


async def _restarts(world: World, progress: Progress) -> None:
    with world.broken("little room"):  # until the restart
        await progress.at(0.1)
        await world.restart_proxy()
    await see_recovered(world, beside_clients=True)
    await progress.at(0.4)
    with _imports_under_way(world):
        await leftovers.kill(world)
    await see_recovered(world, beside_clients=True)
    await progress.at(0.7)
    if progress.count >= LONG_RUN // 10:
        await world.restart_proxy()
        await see_recovered(world, beside_clients=True)
    await progress.at(1.0)


@contextmanager
def _imports_under_way(world: World) -> Iterator[None]:
    """Proxied pictures that pict-rs is being given, whatever else is: a kill leaves some behind."""
    port = world.origins.port
    asking = [
        spawn(
            _shown(world, address_of("pictures", port, "slow", Kind.CLEAN, _TURNING_NUMBER + it)),
            name="import under way",
        )
        for it in range(1, 4)
    ]
    try:
        yield
    finally:
        for task in asking:
            task.cancel()


async def _pictrs_kills(world: World, progress: Progress) -> None:
    times = 2 if progress.count < LONG_RUN // 10 else 6
    for turn in range(times):
        await progress.at((turn + 0.5) / times)
        await world.kill_pictrs(0.7)


async def _pictrs_pauses(world: World, progress: Progress) -> None:
    pauses = [0.5, 2.0]
    if progress.count >= LONG_RUN // 12:
        pauses = [0.3, 1.0, _LONG_PAUSE_SECONDS, 0.5, 2.0]
    for turn, seconds in enumerate(pauses):
        await progress.at((turn + 0.5) / len(pauses))
        await world.pause_pictrs(seconds)


async def _model(world: World, progress: Progress) -> None:
    rounds = 1 if progress.count < LONG_RUN // 10 else 3
    faults = [fault for _ in range(rounds) for fault in MODEL_FAULTS]
    for turn, fault in enumerate(faults):
        await progress.at((turn + 0.5) / len(faults))
        async with world.model_fault(fault):
            await asyncio.gather(_send_blocked(world, turn), asyncio.sleep(0.4))


async def _send_blocked(world: World, turn: int) -> None:
    """Pictures that a model with a fault must not let in, whatever else is sent meanwhile."""
    numbers = (_BLOCKED_NUMBER + turn * _BLOCKED_AT_ONCE + it for it in range(_BLOCKED_AT_ONCE))
    bodies = [world.ledger.take(Kind.BLOCKED, number) for number in numbers]
    requests = [forms.upload(forms.form([forms.part(body)])) for body in bodies]
    replies = await asyncio.gather(*(ask(world.proxy.port, it, seconds=30) for it in requests))
    for reply in replies:
        if reply.is_success:
            world.found("blocked pictures accepted", f"while the model was broken: {reply.status}")


async def _storm(world: World, progress: Progress) -> None:
    """Anything at any time, pict-rs and the model also at once."""
    rng = random.Random(world.seed)
    times = 2 if progress.count < LONG_RUN // 10 else 12
    for turn in range(times):
        await progress.at((turn + 0.5) / times)
        async with world.model_fault(rng.choice(MODEL_FAULTS)):
            await rng.choice((world.kill_pictrs, world.pause_pictrs))(rng.choice((0.3, 0.8)))


async def _turning(world: World, progress: Progress) -> None:
    """Addresses whose picture becomes another: asked for before the turn, and after it."""
    await asyncio.gather(_turn_inward(world), *(_turn(world, it) for it in TURNING))
    await progress.at(1.0)


async def _turn(world: World, behavior: str) -> None:
    port = world.origins.port
    address = address_of("pictures", port, behavior, Kind.CLEAN, _TURNING_NUMBER)
    before = await _shown(world, address)
    await asyncio.sleep(TURN_SECONDS)
    after, end = before, time.monotonic() + _TURN_WITHIN_SECONDS
    while after != _AFTER_TURN[behavior] and time.monotonic() < end:
        await asyncio.sleep(0.3)
        after = await _shown(world, address)
    world.faults[f"origin {behavior}: {before}, then {after}"] += 1
    if after != _AFTER_TURN[behavior]:
        world.found("addresses that show what they did before", f"{behavior}: {before}, {after}")


async def _turn_inward(world: World) -> None:
    """A name that leads inside once the origin is to be asked again: what was stored is kept."""
    address = address_of("turned-again", world.origins.port, "plain", Kind.CLEAN, _TURNING_NUMBER)
    for _ in range(3):
        await _shown(world, address)
        await asyncio.sleep(0.7)


async def _shown(world: World, address: str) -> str:
    """Kind and digest of the picture that a proxied address shows, or the status."""
    target = f"/image/original?proxy={escaped(address)}"
    reply = await ask(world.proxy.port, forms.read(target), seconds=10)
    return world.ledger.kind_of_body(reply.body) if reply.is_picture else str(reply.status)


# What is shown once the origin has been asked again. `turns-inside` keeps what it had.
_AFTER_TURN: Final = {
    "turns-blocked": "400",
    "turns-other": "clean",
    "turns-missing": "500",
    "turns-clean": "clean",
    "turns-inside": "clean",
}

# Numbers that no client takes.
_TURNING_NUMBER: Final = 600_000_000
_BLOCKED_NUMBER: Final = 700_000_000
_BLOCKED_AT_ONCE: Final = 4
_TURN_WITHIN_SECONDS: Final = 8.0

WARM: Final = Phase("warm", 0.12, 40, Mix(), _nothing)
CALM: Final = Phase("calm again", 0.13, 40, Mix(), _nothing)

# The first one with the settings TIGHT, and until the restart in the second.
BEFORE_WARM: Final[Sequence[Phase]] = (
    Phase("little room", 0.08, 40, Mix(), _tight),
    Phase("proxy stopped and killed", 0.10, 50, Mix(cut=0.05), _restarts),
)
AFTER_WARM: Final[Sequence[Phase]] = (
    Phase("odd spellings", 0.08, 80, Mix(only=(Road.SPELLING,), all_spellings=True), _nothing),
    Phase("bad origins", 0.12, 45, Mix(only=BY_ADDRESS, all_origins=True), _turning),
    Phase("clients that leave", 0.08, 30, Mix(all_cuts=True), _nothing),
    Phase("pict-rs killed", 0.08, 30, Mix(unfair=0.1, cut=0.05), _pictrs_kills),
    Phase("pict-rs paused", 0.06, 30, Mix(unfair=0.1, cut=0.05), _pictrs_pauses),
    Phase("model broken", 0.10, 50, Mix(cut=0.05), _model),
    Phase("all at once", 0.05, 30, Mix(unfair=0.3, odd_host=0.2, cut=0.2), _storm),
)
