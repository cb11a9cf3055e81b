"""`python benchmarks/rejudge.py [PICTURES ...]`: judging all known pictures by two policies.

Fills a database with synthetic embeddings, then compares the shipped policy with a stricter one,
as `safety-proxy policy diff` does, in a loop that runs meanwhile: how long it takes, how late the
loop's other work becomes, and how much memory it wants. Random embeddings cost what real ones do.
"""

import argparse
import asyncio
import hashlib
import os
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from safety_proxy.evidence import Evidence, Float32Array, Pdq
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import default_policy
from safety_proxy.rejudge import Diff, compare
from safety_proxy.store.database import Database
from safety_proxy.store.pictures import write_evidence
from safety_proxy.tasks import spawn

MODEL = "synthetic/fp32"
DIMENSIONS = 512
LOGIT_SCALE = 100.0

# How near some pictures come to some prompt, as a share of their length.
NEARNESS = 0.3
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
TICK_SECONDS = 0.002
AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Measured:
    """seconds, cpu_seconds: of the comparison. lags: how late the loop was at each tick.

    megabytes: by how much the memory's peak rose.
    """

    diff: Diff
    seconds: float
    cpu_seconds: float
    lags: list[float]
    megabytes: float
    file_megabytes: float


def embed_texts(texts: Sequence[str]) -> Float32Array:
    """A random direction for each text, always the same."""
    seeds = (int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts)
    rows = [np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds]
    return normalized(np.array(rows, np.float32))


def normalized(rows: Float32Array) -> Float32Array:
    result: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def build_judge(severity: float) -> Judge:
    """Of the default policy, at a severity."""
    policy = default_policy(MODEL, severity=severity)
    return Judge(policy, embed_texts, logit_scale=LOGIT_SCALE, logit_bias=None)


async def fill(database: Database, pictures: int) -> None:
    """Stores so many pictures of one frame, each near to two prompts of the policy."""
    rng = np.random.default_rng(0)
    policy = default_policy(MODEL)
    texts = [prompt.text for concept in policy.concepts.values() for prompt in concept.prompts]
    prompts = embed_texts(
        [template.replace("{}", t) for t in texts for template in policy.templates]
    )
    for start in range(0, pictures, AT_ONCE):
        count = min(AT_ONCE, pictures - start)
        noise = normalized(rng.standard_normal((count, DIMENSIONS), np.float32))
        near = prompts[rng.integers(0, len(prompts), (count, 2))].sum(axis=1)
        nearness = NEARNESS * rng.random((count, 1), np.float32)
        await store(database, start, normalized(noise + nearness * near))


async def store(database: Database, start: int, embeddings: Float32Array) -> None:
    def write(connection: sqlite3.Connection) -> None:
        for number, embedding in enumerate(embeddings, start):
            name = number.to_bytes(8, "big")
            sha256 = hashlib.sha256(name).hexdigest()
            write_evidence(
                connection,
                Evidence(
                    sha256=sha256,
                    sha1=sha256[:40],
                    md5=sha256[:32],
                    media_type="image/webp",
                    model=MODEL,
                    embeddings=embedding[None],
                    places=("frame 0",),
                    pdq=(Pdq(bytes.fromhex(sha256), 100),),
                ),
            )

    await database.run(write)


async def lags_of(stop: asyncio.Event) -> list[float]:
    """How late the loop comes to a timer, again and again until `stop`; in seconds."""
    lags = []
    while not stop.is_set():
        due = time.perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lags.append(time.perf_counter() - due)
    return lags


async def measure(database: Database, judges: tuple[Judge, Judge]) -> Measured:
    stop = asyncio.Event()
    ticking = spawn(lags_of(stop), name="ticks")
    before, start, cpu = peak_megabytes(), time.perf_counter(), time.process_time()
    diff = await compare(database, MODEL, judges, 20)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    more = peak_megabytes() - before
    stop.set()
    size = database.path.stat().st_size / 2**20
    return Measured(diff, seconds, cpu, await ticking, more, size)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def run(folder: Path, pictures: int, rounds: int) -> list[Measured]:
    """One database, compared several times; the first round also warms the page cache."""
    database = Database(folder)
    await database.open()
    there = await database.run(
        lambda c: c.execute("SELECT coalesce(max(picture), 0) FROM embeddings").fetchone()[0]
    )
    if not there:
        await fill(database, pictures)
    judges = build_judge(0.0), build_judge(0.5)
    measured = [await measure(database, judges) for _ in range(rounds)]
    await database.aclose()
    return measured


def main() -> None:
    if BLAS_THREADS not in os.environ:
        os.environ[BLAS_THREADS] = "1"  # as `serve` does; read once, when numpy is imported
        os.execv(sys.executable, [sys.executable, *sys.argv])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Keep the databases there, for the next time")
    arguments = parser.parse_args()
    table = Table(title=f"{DIMENSIONS} dimensions, one frame each, {sys.platform}")
    for heading in ("pictures", "changes", "file MB", "seconds", "CPU seconds"):
        table.add_column(heading, justify="right")
    for heading in ("lag p99 ms", "lag max ms", "more MB"):
        table.add_column(heading, justify="right")
    for pictures in arguments.pictures:
        with tempfile.TemporaryDirectory(prefix="rejudge-") as temporary:
            folder = (arguments.folder or Path(temporary)) / str(pictures)
            measured = asyncio.run(run(folder, pictures, arguments.rounds))
        for one in measured:
            table.add_row(
                f"{one.diff.pictures:,}",
                f"{one.diff.changes:,}",
                f"{one.file_megabytes:.0f}",
                f"{one.seconds:.2f}",
                f"{one.cpu_seconds:.2f}",
                f"{np.percentile(one.lags, 99) * 1000:.1f}",
                f"{max(one.lags) * 1000:.1f}",
                f"{one.megabytes:.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
