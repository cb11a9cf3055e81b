"""The running proxy while its decoder processes are killed, and while files do their worst."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import ClientSession

from safety_proxy.tasks import spawn
from tests.e2e.conftest import StartPictRs, StartSafetyProxy
from tests.e2e.harness import SafetyProxy, upload
from tests.e2e.samples import fresh
from tests.media import hostile
from tests.pictures import plain

UPLOADS = 1000
AT_ONCE = 8
TRIES = 8

# What the scan of a file may take, its bounds at their default, and then the answer.
BUDGET_SECONDS = 8.0
MARGIN_SECONDS = 4.0

MEBIBYTE = 1024 * 1024


def children(pid: int) -> list[int]:
    """Processes that it has started; of the proxy that is what decoders are forked from."""
    with suppress(FileNotFoundError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def decoders(proxy: SafetyProxy) -> list[int]:
    """The processes that see pictures."""
    return [decoder for template in children(proxy.pid) for decoder in children(template)]


@asynccontextmanager
async def killing(proxy: SafetyProxy) -> AsyncIterator[list[int]]:
    """Kills a decoder now and then, and once in a while what they are forked from."""
    killed: list[int] = []
    chance = random.Random(7)

    async def kill() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            victims = decoders(proxy) if chance.random() < 0.95 else children(proxy.pid)
            if victims:
                victim = chance.choice(victims)
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    killer = spawn(kill(), name="killer")
    try:
        yield killed
    finally:
        killer.cancel()
        await asyncio.wait([killer])


async def test_killing_decoders_loses_no_upload_that_a_retry_does_not_bring(
    client: ClientSession, start_pictrs: StartPictRs, start_proxy: StartSafetyProxy
) -> None:
    """By hand, at any moment, in the middle of a thousand uploads, each of another picture."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url)
    pictures = [plain((n % 250, n // 250, 99)) for n in range(UPLOADS)]
    turns = asyncio.Semaphore(AT_ONCE)
    again: list[int] = []

    async def store(body: bytes) -> int:
        status = 0
        for _ in range(TRIES):
            async with turns:
                status, _ = await upload(client, proxy.url, body)
            if status == 201:
                return status
            again.append(status)
            await asyncio.sleep(0.5)
        return status

    async with killing(proxy) as killed:
        statuses = await asyncio.gather(*map(store, pictures))
    assert set(statuses) == {201}
    assert len(killed) > 20
    assert len({entry["hex"] for entry in await pictrs.hashes()}) == UPLOADS
    assert (await proxy.stats())["decoders"]["healthy"]
    assert set(again) <= {500, 503}  # 500: pict-rs' own, under load


async def test_hostile_files_end_in_an_answer_while_others_are_served(
    client: ClientSession, start_pictrs: StartPictRs, start_proxy: StartSafetyProxy
) -> None:
    """Each within the budget; clean uploads go on, memory stays, and nothing is left over."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url, SAFETY_PROXY_SCAN__QUEUE_LIMIT="64")
    files = {name: make() for name, make in hostile.FILES.items()}
    await upload(client, proxy.url, plain((1, 2, 3)))
    before = proxy.resident_bytes()
    answers: dict[str, tuple[int, float]] = {}
    clean: list[tuple[int, float]] = []

    async def timed(body: bytes) -> tuple[int, float]:
        start = time.monotonic()
        status, _ = await upload(client, proxy.url, body)
        return status, time.monotonic() - start

    async def serve() -> None:
        for number in range(10_000):
            clean.append(await timed(fresh("allow", 500 + number)))
            await asyncio.sleep(0.2)

    serving = spawn(serve(), name="clean uploads")
    turns = asyncio.Semaphore(2)

    async def attack(name: str, body: bytes) -> None:
        async with turns:
            answers[name] = await timed(body)

    await asyncio.gather(*(attack(name, body) for name, body in files.items()))
    serving.cancel()
    await asyncio.wait([serving])
    assert len(answers) >= 100
    late = {name: it for name, it in answers.items() if it[1] > BUDGET_SECONDS + MARGIN_SECONDS}
    assert late == {}
    wrong = {name: it for name, it in answers.items() if it[0] not in {201, 400, 503}}
    assert wrong == {}
    assert len(clean) >= 8
    assert {status for status, _ in clean} <= {201, 503}
    assert sum(status == 201 for status, _ in clean) > 0.9 * len(clean)
    assert proxy.resident_bytes() - before < 64 * MEBIBYTE
    assert proxy.spooled_files() == []
    assert (await proxy.stats())["decoders"]["healthy"]
