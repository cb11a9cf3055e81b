"""`python -m tests.faults.run`: thousands of requests while everything breaks; docs/faults.md."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety_proxy.tasks import spawn
from tests.e2e.harness import PICTRS_ROOTS, PICTRS_VERSIONS, PictRs
from tests.faults import checks, leftovers, phases, report
from tests.faults.checks import Audit
from tests.faults.origins import Origins
from tests.faults.pictures import Ledger
from tests.faults.tally import Tally
from tests.faults.world import TIGHT, FaultyProxy, World


@dataclass
class Result:
    """All figures of a run."""

    seed: int
    world: World
    tally: Tally = field(default_factory=Tally)
    audit: Audit = field(default_factory=Audit)
    phases: list[tuple[str, int, float]] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    lookups: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


async def run(folder: Path, *, requests: int, seed: int) -> Result:
    """A whole run below this folder, which keeps the logs and the store."""
    started = time.monotonic()
    async with _world(folder, seed) as world:
        result = Result(seed, world)
        looking = spawn(result.audit.keep_looking(world), name="audit")
        number = 0
        for phase in phases.BEFORE_WARM:
            number = await _phase(result, phase, number, requests)
            await leftovers.look_for_orphans(world)
        await checks.see_recovered(world)
        number = await _phase(result, phases.WARM, number, requests)
        result.before = await checks.settled(world)
        for phase in (*phases.AFTER_WARM, phases.CALM):
            number = await _phase(result, phase, number, requests)
            await checks.see_recovered(world)
        result.after = await checks.settled(world)
        result.lookups = dict(await world.all_lookups())
        if requests >= phases.LONG_RUN:
            await leftovers.sweep(world)
        looking.cancel()
        await leftovers.look_for_orphans(world)
        await _look(result)
        checks.look_at_logs(world)
    result.seconds = time.monotonic() - started
    return result


async def _phase(result: Result, phase: phases.Phase, number: int, requests: int) -> int:
    started = time.monotonic()
    following = await phases.run_phase(result.world, result.tally, phase, number, requests)
    result.phases.append((phase.name, following - number, time.monotonic() - started))
    await _look(result)
    await checks.look_at_rest(result.world)
    sys.stderr.write(
        f"{phase.name}: {following - number} requests, {time.monotonic() - started:.1f} s\n"
    )
    return following


async def _look(result: Result) -> None:
    await result.audit.look(result.world)
    await result.audit.look_at_hashes(result.world)


@asynccontextmanager
async def _world(folder: Path, seed: int) -> AsyncIterator[World]:
    ledger = Ledger()
    async with Origins(ledger) as origins:
        pictrs = PictRs(folder / "pictrs", PICTRS__SERVER__MAX_FILE_COUNT="10")
        proxy = FaultyProxy(folder / "proxy", pictrs.url)
        world = World(seed, pictrs, proxy, origins, ledger)
        try:
            await asyncio.to_thread(pictrs.start)
            proxy.configure(**TIGHT)
            await world.start_proxy()
            yield world
        finally:
            await asyncio.to_thread(proxy.stop)
            await asyncio.to_thread(pictrs.stop)


def main() -> int:
    """Runs, prints, and returns the exit code: 0 if all is as it must be."""
    options = _options()
    binary = PICTRS_ROOTS / f"pict-rs-{PICTRS_VERSIONS[0]}" / "bin" / "pict-rs"
    if not binary.exists():
        sys.stderr.write(f"no pict-rs at {binary}: `make pict-rs` builds it\n")
        return 3
    with tempfile.TemporaryDirectory(prefix="safety-proxy-faults-") as temporary:
        folder = options.folder or Path(temporary)
        result = asyncio.run(run(folder, requests=options.requests, seed=options.seed))
    sys.stdout.write(report.text(result))
    return 1 if report.failed(result) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep logs, database and store here")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
