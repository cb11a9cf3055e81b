"""Tests of safety_proxy/store/database.py: all or nothing, whoever breaks off and when."""

import asyncio
import gc
import os
import shutil
import signal
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from safety_proxy.errors import Busy, ConfigError, StoreUnavailable
from safety_proxy.store.database import Database
from safety_proxy.tasks import spawn
from tests.fakes import until

NOBODY = 65534

# A process that writes pairs of rows, each pair in one transaction, and prints each one that is
# stored. Its arguments: the folder, what to mark its rows with, how many pairs.
WRITER = """
import asyncio, sys
from pathlib import Path
from safety_proxy.store.database import Database

async def main(folder, mark, count):
    database = Database(Path(folder))
    await database.open()

    def write(connection):
        for half in "ab":
            row = (f"{mark}-{n}-{half}", "reason" * 100, 0.0)
            connection.execute("INSERT INTO unscanned VALUES (?, ?, ?)", row)

    for n in range(int(count)):
        await database.run(write)
        print(f"{mark}-{n}", flush=True)
    await database.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An open one in a folder of its own."""
    database = Database(tmp_path / "state")
    await database.open()
    yield database
    with suppress(RuntimeError):  # a test has closed it
        await database.aclose()


def put(name: str) -> Callable[[sqlite3.Connection], None]:
    """Stores one row."""

    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO unscanned VALUES (?, 'reason', 0)", (name,))

    return insert


def names(connection: sqlite3.Connection) -> list[str]:
    """The rows that are stored."""
    rows = connection.execute("SELECT sha256 FROM unscanned ORDER BY sha256")
    return [name for (name,) in rows]


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """While somebody else writes to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def start_writer(folder: Path, mark: str, count: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WRITER,
        str(folder),
        mark,
        str(count),
        stdout=asyncio.subprocess.PIPE,
    )


async def test_it_is_made_with_its_folder_for_nobody_else(tmp_path: Path) -> None:
    """Folders above it are made as well; the addresses in it are nobody else's business."""
    database = Database(tmp_path / "not" / "yet" / "there")
    await database.open()
    assert database.path == tmp_path / "not" / "yet" / "there" / "safety-proxy.sqlite3"
    assert stat.S_IMODE(database.path.parent.stat().st_mode) == 0o700
    await database.run(put("a"))
    await database.aclose()
    assert [path.name for path in database.path.parent.iterdir()] == [database.path.name]


async def test_the_folder_may_be_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` is whose process it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Database(Path("~/state")).path == tmp_path / "state" / "safety-proxy.sqlite3"


async def test_readers_do_not_wait_for_writers(database: Database) -> None:
    """A write-ahead log, so that an admin may look into the file while the proxy runs."""
    assert await database.run(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    await database.run(put("a"))
    with (
        locked(database.path),
        closing(sqlite3.connect(f"file:{database.path}?mode=ro", uri=True, timeout=0)) as reader,
    ):
        assert names(reader) == ["a"]


async def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    """Opening what exists leaves it as it is."""
    for name in ("a", "b"):
        database = Database(tmp_path)
        await database.open()
        await database.run(put(name))
        await database.aclose()
    assert names_in(Database(tmp_path).path) == ["a", "b"]


def names_in(path: Path) -> list[str]:
    """The rows of a file that nobody has open, which is whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return names(connection)


async def test_what_the_function_returns_comes_back(database: Database) -> None:
    """From a thread of its own, always the same one: the loop goes on meanwhile."""
    threads = {await database.run(lambda _: threading.current_thread().name) for _ in range(5)}
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


async def test_an_error_of_the_function_undoes_what_it_wrote(database: Database) -> None:
    """It reaches the asker as it is, and the next transaction starts afresh."""

    def fail(connection: sqlite3.Connection) -> None:
        put("lost")(connection)
        raise ValueError("on purpose")

    await database.run(put("before"))
    with pytest.raises(ValueError, match="on purpose"):
        await database.run(fail)
    await database.run(put("after"))
    assert await database.run(names) == ["after", "before"]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("nonsense", "OperationalError"),
        ("SELECT * FROM nowhere", "OperationalError"),
        ("INSERT INTO unscanned VALUES ('before', 'twice', 0)", "IntegrityError"),
        ("INSERT INTO unscanned VALUES ('x', 'y', 'no number')", "IntegrityError"),
    ],
)
async def test_an_error_of_sqlite_is_one_of_the_store(
    database: Database, sql: str, kind: str
) -> None:
    """It says what happened, for the log; nothing of the transaction stays."""

    def fail(connection: sqlite3.Connection) -> None:
        put("lost")(connection)
        connection.execute(sql)

    await database.run(put("before"))
    with pytest.raises(StoreUnavailable, match=kind) as raised:
        await database.run(fail)
    assert isinstance(raised.value, Busy)  # the client may try again
    assert (raised.value.status, raised.value.reason) == (503, "store")
    assert raised.value.public_message == Busy().public_message
    await database.run(put("after"))
    assert await database.run(names) == ["after", "before"]


async def test_a_full_disk_loses_the_latest_write_and_nothing_else(database: Database) -> None:
    """While it is full, writes fail; once there is room again, they do not."""
    await database.run(put("before"))

    def write_much(connection: sqlite3.Connection) -> None:
        for n in range(50):
            put(f"{n}" * 4096)(connection)

    def allow_pages(count: int) -> None:
        connection = database._connection
        assert connection is not None
        connection.execute(f"PRAGMA max_page_count = {count}")

    await database.run(lambda _: allow_pages(1))  # which means: none more than there are
    with pytest.raises(StoreUnavailable, match="full"):
        await database.run(write_much)
    assert await database.run(names) == ["before"]
    await database.run(lambda _: allow_pages(2**31))
    await database.run(put("after"))
    assert await database.run(names) == ["after", "before"]


async def test_a_commit_that_fails_does_not_block_the_next(database: Database) -> None:
    """Its transaction is undone, like that of a function that failed."""
    connection = database._connection
    assert connection is not None
    connection.execute("PRAGMA foreign_keys = ON")

    def break_a_promise(connection: sqlite3.Connection) -> None:
        connection.execute(
            "CREATE TABLE promise (sha256 TEXT"
            " REFERENCES unscanned (sha256) DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.execute("INSERT INTO promise VALUES ('nowhere')")  # found out when it commits

    with pytest.raises(StoreUnavailable, match="IntegrityError"):
        await database.run(break_a_promise)
    await database.run(put("after"))
    assert await database.run(names) == ["after"]


@pytest.mark.parametrize("where", ["the file", "the folder", "a folder above", "a folder there"])
async def test_what_stands_in_the_way_is_a_wrong_setting(tmp_path: Path, where: str) -> None:
    """The message says which file it is about and what to do."""
    database = Database(tmp_path / "above" / "state")
    if where == "a folder there":
        database.path.mkdir(parents=True)
    else:
        path = {"the file": database.path, "the folder": database.path.parent}.get(
            where, tmp_path / "above"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no database, and long enough to tell. " * 100)
    with pytest.raises(ConfigError) as raised:
        await database.open()
    assert str(database.path) in str(raised.value)
    assert "store.folder" in str(raised.value)
    assert "writable" in str(raised.value)
    assert "move it away" in str(raised.value)
    await database.aclose()


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom modes of files hold back."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.fixture
def not_writable() -> Iterator[Path]:
    """A folder whose files can be read and not written by users without privileges."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("there", [True, False])
async def test_a_folder_that_cannot_be_written_is_a_wrong_setting(
    not_writable: Path, tmp_path: Path, *, there: bool
) -> None:
    """Whether or not there is a database in it already, as after a start as another user."""
    if there:
        database = Database(tmp_path)
        await database.open()
        await database.run(put("a"))
        await database.aclose()
        put_into(not_writable, database.path)
    database = Database(not_writable)
    with without_privileges(), pytest.raises(ConfigError, match="writable") as raised:
        await database.open()
    await database.aclose()
    assert str(database.path) in str(raised.value)


def put_into(folder: Path, file: Path) -> None:
    """Lays a copy of it there that cannot be written either."""
    folder.chmod(0o755)
    Path(shutil.copy(file, folder)).chmod(0o444)
    folder.chmod(0o555)


async def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """It is told of at the start, and nothing is written over it."""
    database = Database(tmp_path)
    await database.open()
    await database.run(put("a"))
    await database.aclose()
    damaged = b"\0" * 4096 + database.path.read_bytes()[4096:]
    database.path.write_bytes(damaged)
    database = Database(tmp_path)
    with pytest.raises(ConfigError, match="move it away"):
        await database.open()
    await database.aclose()
    assert database.path.read_bytes() == damaged


async def test_a_write_waits_for_another_process(database: Database) -> None:
    """A restart that overlaps costs no request."""
    with locked(database.path) as other:
        writing = spawn(database.run(put("a")), name="write")
        await asyncio.wait([writing], timeout=0.3)
        assert not writing.done()
        other.execute("ROLLBACK")
        await writing
    assert await database.run(names) == ["a"]


async def test_a_transaction_that_reads_first_may_write_as_well(database: Database) -> None:
    """Though another process writes meanwhile, over which one begun for reading would trip."""

    def read_and_write(connection: sqlite3.Connection) -> list[str]:
        seen = names(connection)
        put("b")(connection)
        return seen

    with locked(database.path) as other:
        writing = spawn(database.run(read_and_write), name="write")
        await asyncio.wait([writing], timeout=0.3)
        put("a")(other)
        other.execute("COMMIT")
        assert await writing == ["a"]
    assert await database.run(names) == ["a", "b"]


async def test_a_file_that_stays_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the wait, and only as long as it is locked."""
    monkeypatch.setattr("safety_proxy.store.database._BUSY_SECONDS", 0.1)
    database = Database(tmp_path)
    await database.open()
    with locked(database.path):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="locked"):
                await database.run(put("a"))
    await database.run(put("a"))
    assert await database.run(names) == ["a"]
    await database.aclose()


async def test_two_may_use_one_file(tmp_path: Path) -> None:
    """Each sees what the other has stored, and neither is refused."""
    first, second = Database(tmp_path), Database(tmp_path)
    await asyncio.gather(first.open(), second.open())
    writes = [(first if n % 2 else second).run(put(f"{n:03}")) for n in range(100)]
    await asyncio.gather(*writes)
    expected = [f"{n:03}" for n in range(100)]
    assert await first.run(names) == await second.run(names) == expected
    await first.aclose()
    assert await second.run(names) == expected
    await second.aclose()


async def test_opening_waits_for_who_is_just_making_the_file(tmp_path: Path) -> None:
    """Two that start on an empty folder both start."""
    database = Database(tmp_path)
    with locked(database.path) as other:
        opening = spawn(database.open(), name="open")
        await asyncio.wait([opening], timeout=0.3)
        early = opening.done()
        other.execute("ROLLBACK")
        try:
            await opening
        finally:
            await database.aclose()
    assert not early


async def test_processes_that_write_side_by_side_lose_nothing(database: Database) -> None:
    """Four of them, and none is refused."""
    folder = database.path.parent
    writers = [await start_writer(folder, f"{n}", 50) for n in range(4)]
    for writer in writers:
        await writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 4
    assert len(await database.run(names)) == 4 * 50 * 2


async def test_before_it_is_open_it_is_unavailable(tmp_path: Path) -> None:
    """Not an error that nobody expects."""
    database = Database(tmp_path)
    with pytest.raises(StoreUnavailable):
        await database.run(names)
    await database.aclose()


async def test_after_it_was_closed_it_is_unavailable(database: Database) -> None:
    """Whoever is late, while the program stops, is told so by the error that all expect."""
    await database.aclose()
    with pytest.raises(StoreUnavailable):
        await database.run(names)


async def test_closing_ends_what_was_asked_for(database: Database) -> None:
    """In its order, and whether or not anybody waits."""
    writes = [spawn(database.run(put(f"{n}")), name="write") for n in range(5)]
    await asyncio.sleep(0)  # they have asked
    await database.aclose()
    await asyncio.gather(*writes)
    assert names_in(database.path) == ["0", "1", "2", "3", "4"]


async def test_a_write_ends_though_its_asker_was_cancelled(database: Database) -> None:
    """So what is stored never depends on when a client left."""
    started, go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        put("first half")(connection)
        started.set()
        assert go.wait(30)
        put("second half")(connection)

    asker = spawn(database.run(slow), name="write")
    waiting = spawn(database.run(put("behind it")), name="write")
    await until(started.is_set)
    asker.cancel()
    waiting.cancel()
    await asyncio.wait([asker, waiting])
    assert asker.cancelled()
    assert waiting.cancelled()
    go.set()
    assert await database.run(names) == ["behind it", "first half", "second half"]


async def test_an_error_that_nobody_waits_for_is_no_loose_end(database: Database) -> None:
    """Its asker has left: it is not reported as one that was never seen."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    started, go = threading.Event(), threading.Event()

    def fail(connection: sqlite3.Connection) -> None:
        started.set()
        assert go.wait(30)
        connection.execute("nonsense")

    asker = spawn(database.run(fail), name="write")
    await until(started.is_set)
    asker.cancel()
    await asyncio.wait([asker])
    go.set()
    assert await database.run(names) == []
    del asker
    await asyncio.sleep(0)
    gc.collect()  # which is when it would be reported
    assert complaints == []


async def test_a_kill_in_the_middle_of_writes_leaves_a_whole_database(tmp_path: Path) -> None:
    """Whatever was told to be stored is there, and no half of anything."""
    told: set[str] = set()
    for n in range(20):
        writer = await start_writer(tmp_path, f"{n}", 100_000)
        assert writer.stdout is not None
        for _ in range(1 + n * 3):
            told.add((await writer.stdout.readline()).decode().strip())
        writer.send_signal(signal.SIGKILL)
        rest, _ = await writer.communicate()
        told |= {line.decode() for line in rest.splitlines(keepends=False) if line}
        assert writer.returncode == -signal.SIGKILL
    stored = names_in(Database(tmp_path).path)
    pairs = {name.removesuffix("-a") for name in stored if name.endswith("-a")}
    assert pairs == {name.removesuffix("-b") for name in stored if name.endswith("-b")}
    assert told <= pairs
    assert len(told) >= 20


def names_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("folder", ["plain", "odd?mode=rwc#100%25 é"])
async def test_a_long_read_holds_up_nobody(tmp_path: Path, folder: str) -> None:
    """It has a connection and a thread of its own, whatever the folder's name means elsewhere."""
    database = Database(tmp_path / folder)
    await database.open()
    await database.run(put("before"))
    started, go = threading.Event(), threading.Event()

    def read(connection: sqlite3.Connection) -> list[str]:
        started.set()
        assert go.wait(30)
        return names(connection)

    reading = spawn(database.read(read), name="read")
    await until(started.is_set)
    await database.run(put("meanwhile"))
    go.set()
    assert await reading == ["before", "meanwhile"]
    await database.aclose()
    assert names_of(tmp_path) == [folder]


async def test_who_reads_cannot_write(database: Database) -> None:
    """The connection is not one for that."""
    with pytest.raises(StoreUnavailable, match="readonly"):
        await database.read(put("a"))
    assert await database.run(names) == []


async def test_reading_what_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """And makes nothing."""
    database = Database(tmp_path)
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await database.read(names)
    assert names_of(tmp_path) == []


async def test_an_error_of_a_read_reaches_the_asker(database: Database) -> None:
    """As it is, where it is none of SQLite's."""

    def fail(connection: sqlite3.Connection) -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        await database.read(fail)
