"""`python -m tests.store.writers kill|together FOLDER COUNT`: processes that write evidence.

kill: COUNT of them, one after another, each killed at a random moment. together: four at a time,
with COUNT verdicts each. Prints as JSON what is in the database then. They are forked, since 200
interpreters would take minutes to start.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from safety_proxy.store.database import Database
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.verdict import Action, Reason, Source, Verdict
from tests.store.made import evidence_of

MOST_SECONDS = 0.04
DIMENSIONS = 64
STRIDE = 1_000_000  # numbers of pictures for each writer, more than it gets to


async def write(folder: Path, first: int, count: int) -> None:
    """Stores evidence and a verdict for each number, and reports each that is stored."""
    database = Database(folder)
    await database.open()
    store = EvidenceStore(database, keep_seconds=1e9, max_embeddings=10**9)
    for number in range(first, first + count):
        evidence = evidence_of(number, frames=1 + number % 5, dimensions=DIMENSIONS)
        await store.put(evidence)
        report(f"e{number}")
        reasons = (Reason("rule", detail="detail" * 50),)
        await store.record(
            Verdict(Action.FLAG, reasons, evidence.sha256, "model", "policy", Source.POLICY)
        )
        report(f"v{number}")
    await database.aclose()


def report(line: str) -> None:
    """Leaves this process at once, whatever becomes of it."""
    os.write(1, f"{line}\n".encode())


def start(folder: Path, first: int, count: int) -> tuple[int, int]:
    """A writer's process, and where its reports can be read."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    code = 1
    try:
        os.dup2(writing, 1)
        asyncio.run(write(folder, first, count))
        code = 0
    finally:
        os._exit(code)


def killed(folder: Path, first: int, chance: random.Random) -> set[str]:
    """What a writer reported before it was killed: at its start now and then, mostly later."""
    process, reading = start(folder, first, STRIDE)
    with os.fdopen(reading, "rb") as reports:
        lines = [reports.readline()] if chance.random() < 0.9 else []
        time.sleep(chance.uniform(0, MOST_SECONDS))
        os.kill(process, signal.SIGKILL)
        lines += reports.readlines()
    os.waitpid(process, 0)
    return {line.decode().strip() for line in lines if line.endswith(b"\n")}


def stored(connection: sqlite3.Connection, first: int, last: int) -> Iterator[str]:
    """What of these numbers is in the database, as it would be reported."""
    rows = connection.execute(
        "SELECT sha256, decided_at IS NOT NULL, vectors FROM pictures"
        " LEFT JOIN embeddings ON picture = id"
    )
    found = {sha256.hex(): (decided, vectors) for sha256, decided, vectors in rows}
    for number in range(first, last):
        evidence = evidence_of(number, frames=1 + number % 5, dimensions=DIMENSIONS)
        decided, vectors = found.get(evidence.sha256, (False, None))
        if vectors is not None and len(vectors) == evidence.embeddings.size * 2:
            yield f"e{number}"
        if decided:
            yield f"v{number}"


def kill(folder: Path, count: int) -> dict[str, Any]:
    path = folder / "safety-proxy.sqlite3"
    chance = random.Random(0)
    checks, missing, reported = [], [], 0
    for round_ in range(count):
        told = killed(folder, round_ * STRIDE, chance)
        reported += len(told)
        with closing(sqlite3.connect(path)) as connection:
            checks += [answer for (answer,) in connection.execute("PRAGMA quick_check")]
            if told:
                first = round_ * STRIDE
                there = set(stored(connection, first, first + len(told) // 2 + 1))
                missing += sorted(told - there)
    with closing(sqlite3.connect(path)) as connection:
        return {
            "checks": checks,
            "integrity": connection.execute("PRAGMA integrity_check").fetchone()[0],
            "missing": missing,
            "halves": connection.execute(
                "SELECT count(*) FROM pictures WHERE (crops > 0) != "
                "(id IN (SELECT picture FROM embeddings))"
            ).fetchone()[0],
            "reported": reported,
        }


def together(folder: Path, count: int) -> dict[str, Any]:
    processes = [start(folder, number * STRIDE, count) for number in range(4)]
    codes = []
    for process, reading in processes:
        with os.fdopen(reading, "rb") as reports:
            reports.read()
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    with closing(sqlite3.connect(folder / "safety-proxy.sqlite3")) as connection:
        return {
            "codes": codes,
            "integrity": connection.execute("PRAGMA integrity_check").fetchone()[0],
            "verdicts": connection.execute(
                "SELECT count(*) FROM pictures WHERE decided_at IS NOT NULL AND crops > 0"
            ).fetchone()[0],
        }


if __name__ == "__main__":
    name, folder_name, number_of = sys.argv[1:]
    function = {"kill": kill, "together": together}[name]
    sys.stdout.write(json.dumps(function(Path(folder_name), int(number_of))))
