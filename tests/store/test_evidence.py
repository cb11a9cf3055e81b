"""Tests of safety_proxy/store/evidence.py: known after a restart, bounded, and never half there."""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence
from safety_proxy.store import database as database_module
from safety_proxy.store import evidence as evidence_module
from safety_proxy.store.database import Database
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.vectors import as_stored
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action, Reason, Source, Verdict
from tests.store.made import evidence_of

ROOT = Path(__file__).resolve().parents[2]
KILLS = 200
DAY = 86_400.0
PICTURE = evidence_of(1, frames=2)


def verdict_of(evidence: Evidence, policy: str = "0123456789ab") -> Verdict:
    reasons = (Reason("rule", where="frame 1", detail="detail"),)
    return Verdict(Action.FLAG, reasons, evidence.sha256, evidence.model, policy, Source.POLICY)


@dataclass
class Clock:
    """What the store takes for the time."""

    now: float = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Days pass in no time."""
    clock = Clock()
    monkeypatch.setattr("safety_proxy.store.evidence.time", clock)
    monkeypatch.setattr("safety_proxy.store.pictures.time", clock)
    return clock


@asynccontextmanager
async def opened(
    folder: Path, *, keep_seconds: float = 90 * DAY, max_embeddings: int = 1000
) -> AsyncIterator[EvidenceStore]:
    """An open store; closed as at the end of the program."""
    database = Database(folder)
    await database.open()
    store = EvidenceStore(database, keep_seconds=keep_seconds, max_embeddings=max_embeddings)
    yield store
    await store.aclose()
    await database.aclose()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EvidenceStore]:
    """An open one in a folder of its own."""
    async with opened(tmp_path) as store:
        yield store


async def stored(store: EvidenceStore) -> list[str]:
    """The digests of all pictures whose embeddings are there, oldest look first."""
    rows = await store.database.run(
        lambda connection: connection.execute(
            "SELECT sha256 FROM pictures JOIN embeddings ON picture = id ORDER BY last_seen, id"
        ).fetchall()
    )
    return [sha256.hex() for (sha256,) in rows]


async def test_what_was_put_is_known_after_a_restart(tmp_path: Path) -> None:
    """Embeddings, hashes and verdict: all that a judgment needs."""
    async with opened(tmp_path) as store:
        assert await store.get(PICTURE.sha256, PICTURE.model) is None
        await store.put(PICTURE)
        await store.record(verdict_of(PICTURE))
    async with opened(tmp_path) as store:
        found = await store.get(PICTURE.sha256, PICTURE.model)
        [known] = await store.known(PICTURE.sha256)
    assert found is not None
    assert np.array_equal(found.embeddings, as_stored(PICTURE.embeddings))
    assert found.places == PICTURE.places
    assert known.verdict == verdict_of(PICTURE)


async def test_an_older_file_gets_the_new_tables(tmp_path: Path) -> None:
    """What is in it stays."""
    async with opened(tmp_path) as store:
        path = store.database.path
    with closing(sqlite3.connect(path)) as connection:
        for table in ("models", "pictures", "embeddings"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("INSERT INTO unscanned VALUES ('a', 'reason', 0)")
        connection.commit()
    async with opened(tmp_path) as store:
        await store.put(PICTURE)
        assert await stored(store) == [PICTURE.sha256]
        [(kept,)] = await store.database.run(
            lambda c: c.execute("SELECT sha256 FROM unscanned").fetchall()
        )
    assert kept == "a"


async def test_what_nobody_asked_for_is_dropped_in_time(tmp_path: Path, clock: Clock) -> None:
    """Being found counts as being asked for, and so does `seen`; a verdict alone goes as well."""
    async with opened(tmp_path, keep_seconds=10 * DAY) as store:
        for n in range(4):
            await store.put(evidence_of(n))
        await store.record(verdict_of(evidence_of(9)))
        clock.now += 6 * DAY
        await store.get(evidence_of(1).sha256, "model")
        store.seen(evidence_of(2).sha256, "model")
        store.seen(evidence_of(3).sha256, "another model")
        await store.flush()
        clock.now += 6 * DAY
        assert await store.sweep() == 3
        assert await stored(store) == [evidence_of(1).sha256, evidence_of(2).sha256]
        assert await store.known(evidence_of(9).sha256) == ()
        assert await store.sweep() == 0


async def test_what_was_seen_last_is_written_when_the_store_closes(
    tmp_path: Path, clock: Clock
) -> None:
    """A restart forgets no look."""
    async with opened(tmp_path, keep_seconds=10 * DAY) as store:
        await store.put(PICTURE)
        clock.now += 9 * DAY
        store.seen(PICTURE.sha256, PICTURE.model)
    async with opened(tmp_path, keep_seconds=10 * DAY) as store:
        clock.now += 9 * DAY
        assert await store.sweep() == 0
        clock.now += 2 * DAY
        assert await store.sweep() == 1


async def test_looks_cost_no_write_within_the_hour(store: EvidenceStore, clock: Clock) -> None:
    """However often a picture is asked for."""
    await store.put(PICTURE)

    async def last_seen() -> float:
        [known] = await store.known(PICTURE.sha256)
        return known.last_seen

    before = clock.now
    clock.now += 3599
    for _ in range(100):
        store.seen(PICTURE.sha256, PICTURE.model)
    await store.flush()
    assert await last_seen() == before
    clock.now += 2
    store.seen(PICTURE.sha256, PICTURE.model)
    assert await last_seen() == before
    await store.flush()
    assert await last_seen() == clock.now


async def test_looks_are_bounded_in_memory(
    store: EvidenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that cannot be written for days must not fill the memory."""
    monkeypatch.setattr(evidence_module, "_SEEN_LIMIT", 10)
    for n in range(50):
        store.seen(evidence_of(n).sha256, "model")
    assert len(store._seen) == 10


@pytest.mark.parametrize("chunk", [1, 3, 200])
async def test_the_longest_unseen_go_first_when_there_is_too_much(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Counted are embeddings: an animation takes the room of its frames."""
    monkeypatch.setattr(evidence_module, "_CHUNK", chunk)
    async with opened(tmp_path, max_embeddings=20) as store:
        for n in range(10):
            clock.now += 1
            await store.put(evidence_of(n, frames=4))
        clock.now += 4000
        store.seen(evidence_of(0).sha256, "model")
        await store.flush()
        assert await store.sweep() == 5
        kept = [*range(6, 10), 0]
        assert await stored(store) == [evidence_of(n).sha256 for n in kept]
        assert await store.sweep() == 0


async def test_verdicts_alone_are_bounded_too(tmp_path: Path, clock: Clock) -> None:
    """Files that nothing can be read from cost a row each."""
    async with opened(tmp_path, max_embeddings=5) as store:
        for n in range(12):
            clock.now += 1
            await store.record(verdict_of(evidence_of(n)))
        assert await store.sweep() == 7
        assert len(await store.known(evidence_of(11).sha256)) == 1


async def test_a_sweep_lets_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its short transactions."""
    monkeypatch.setattr(evidence_module, "_CHUNK", 1)
    async with opened(tmp_path, max_embeddings=0) as store:
        for n in range(30):
            await store.put(evidence_of(n))
        sweeping = spawn(store.sweep(), name="sweep")
        while await store.database.run(
            lambda c: c.execute("SELECT count(*) FROM pictures").fetchone() == (30,)
        ):
            assert not sweeping.done()
        await store.record(verdict_of(evidence_of(50)))
        early = not sweeping.done()
        await sweeping
        assert early


async def test_it_is_swept_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a time in which the database could not be written."""
    monkeypatch.setattr(evidence_module, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.05)
    async with opened(tmp_path, max_embeddings=0) as store:
        keeping = spawn(store.keep_forever(), name="keep")
        for n in range(2):
            await store.put(evidence_of(n))
            while await stored(store):  # noqa: ASYNC110 -- set by the database alone
                await asyncio.sleep(0.01)
            with locked(store.database.path):
                await asyncio.sleep(0.2)
        assert not keeping.done()
        keeping.cancel()
        await asyncio.wait([keeping])


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While somebody else writes to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


Use = Callable[[EvidenceStore], Coroutine[Any, Any, Any]]

READS: dict[str, Use] = {
    "get": lambda store: store.get(PICTURE.sha256, PICTURE.model),
    "known": lambda store: store.known(PICTURE.sha256),
}
WRITES: dict[str, Use] = {
    "put": lambda store: store.put(evidence_of(2, frames=500)),
    "record": lambda store: store.record(verdict_of(evidence_of(3), "policy" * 20_000)),
}


@pytest.mark.parametrize("use", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
async def test_a_locked_database_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use
) -> None:
    """Only as long as it is locked."""
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.05)
    async with opened(tmp_path) as store:
        with locked(store.database.path), pytest.raises(StoreUnavailable, match="locked"):
            await use(store)
        await use(store)


@pytest.mark.parametrize("use", WRITES.values(), ids=WRITES)
async def test_a_full_disk_takes_nothing_new_and_reading_goes_on(
    store: EvidenceStore, use: Use
) -> None:
    """Known pictures stay known, and nothing is half there."""

    def allow_pages(count: int) -> Callable[[sqlite3.Connection], object]:
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {count}")

    await store.put(PICTURE)
    await store.database.run(allow_pages(1))  # which means: none more than there are
    with pytest.raises(StoreUnavailable, match="full"):
        await use(store)
    assert await store.get(PICTURE.sha256, PICTURE.model) is not None
    assert await stored(store) == [PICTURE.sha256]
    await store.database.run(allow_pages(2**30))
    await use(store)


@pytest.mark.parametrize("use", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
async def test_a_read_only_database_is_unavailable(store: EvidenceStore, use: Use) -> None:
    """As of a file system that an error has made so."""
    await store.put(PICTURE)
    connection = store.database._connection
    assert connection is not None
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="readonly"):
        await use(store)
    connection.execute("PRAGMA query_only = OFF")
    await use(store)


@pytest.mark.parametrize("use", [*READS.values(), *WRITES.values()], ids=[*READS, *WRITES])
async def test_a_corrupt_database_is_unavailable(tmp_path: Path, use: Use) -> None:
    """Pages that are none any more, under a file whose head still looks like one."""
    async with opened(tmp_path) as store:
        for n in range(50):
            await store.put(evidence_of(n))
        path = store.database.path
    async with opened(tmp_path) as store:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(StoreUnavailable, match=r"malformed|corrupt"):
            await use(store)


async def test_a_closed_database_is_unavailable(tmp_path: Path) -> None:
    """Whoever is late, while the program stops; closing twice is no error."""
    async with opened(tmp_path) as store:
        pass
    with pytest.raises(StoreUnavailable):
        await store.get(PICTURE.sha256, PICTURE.model)
    store.seen(PICTURE.sha256, PICTURE.model)
    await store.aclose()


@pytest.mark.timeout(300)
async def test_kills_in_the_middle_of_writes_leave_a_whole_database(tmp_path: Path) -> None:
    """Two hundred of them: it opens after each, and holds all that was reported as stored."""
    outcome = await writers("kill", tmp_path, KILLS)
    assert outcome["checks"] == ["ok"] * KILLS
    assert outcome["integrity"] == "ok"
    assert outcome["missing"] == []
    assert outcome["halves"] == 0
    assert outcome["reported"] > 5 * KILLS


async def test_processes_that_write_side_by_side_lose_nothing(tmp_path: Path) -> None:
    """Four of them, 5,000 verdicts, and none is refused."""
    outcome = await writers("together", tmp_path, 1250)
    assert outcome == {"codes": [0, 0, 0, 0], "integrity": "ok", "verdicts": 5000}


async def writers(what: str, folder: Path, count: int) -> dict[str, Any]:
    """What `writers.py` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.store.writers",
        what,
        str(folder),
        str(count),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    outcome: dict[str, Any] = json.loads(printed)
    return outcome
