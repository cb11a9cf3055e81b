"""One SQLite file, and the thread that talks to it."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from safety_proxy.errors import ConfigError, StoreUnavailable
from safety_proxy.tasks import in_daemon_thread

T = TypeVar("T")

_FILE = "safety-proxy.sqlite3"

# How long another process may hold the file: at the start, where a restart may overlap, and while
# requests wait, all of them behind one another.
_OPEN_SECONDS = 5.0
_BUSY_SECONDS = 1.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS proxied (
    alias TEXT PRIMARY KEY,         -- in pict-rs; chosen here, and written before pict-rs has it
    address TEXT NOT NULL,          -- canonical
    state TEXT NOT NULL CHECK (state IN ('storing', 'live', 'doomed')),
    sha256 TEXT NOT NULL,           -- of what the origin sent
    etag TEXT,
    last_modified TEXT,
    accessed_at REAL NOT NULL,      -- all times in seconds since the epoch
    checked_at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS live_address ON proxied (address) WHERE state = 'live';
CREATE INDEX IF NOT EXISTS proxied_by_access ON proxied (state, accessed_at);
CREATE TABLE IF NOT EXISTS unscanned (
    sha256 TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    marked_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    dimensions INTEGER NOT NULL     -- of each embedding; 0 while none is known
) STRICT;
-- What is small and changes, apart from what is large and never does. Ids are not used again, so
-- that a long read never takes one picture for another.
CREATE TABLE IF NOT EXISTS pictures (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256 BLOB NOT NULL,
    model INTEGER NOT NULL,         -- models.id
    sha1 BLOB,
    md5 BLOB,
    media_type TEXT,
    pdq BLOB,                       -- 33 bytes each: the hash and its quality
    places TEXT,                    -- JSON list, one for each embedding
    crops INTEGER NOT NULL,         -- how many embeddings there are
    look TEXT,                      -- how it was chosen what they are of
    first_seen REAL NOT NULL,
    last_seen REAL NOT NULL,
    policy TEXT,                    -- from here on the latest verdict, where there is one
    action TEXT,
    source TEXT,
    reasons TEXT,                   -- JSON
    decided_at REAL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS picture_by_digest ON pictures (sha256, model);
CREATE INDEX IF NOT EXISTS pictures_by_last_seen ON pictures (last_seen, crops);
CREATE TABLE IF NOT EXISTS embeddings (
    picture INTEGER PRIMARY KEY,    -- pictures.id
    model INTEGER NOT NULL,
    vectors BLOB NOT NULL           -- float16, little-endian, one embedding after another
) STRICT;
CREATE TABLE IF NOT EXISTS listed (
    sha256 TEXT PRIMARY KEY,
    action TEXT NOT NULL CHECK (action IN ('allow', 'block')),
    pdq BLOB NOT NULL,              -- what a block spreads by, 33 bytes each: hash and quality
    note TEXT NOT NULL,
    who TEXT NOT NULL,
    listed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS excluded (
    hash TEXT PRIMARY KEY,          -- an entry of a shared list that does not count here
    note TEXT NOT NULL,
    who TEXT NOT NULL,
    excluded_at REAL NOT NULL
) STRICT;
"""


class Database:
    """Runs functions on a connection, one after another, each in a transaction of its own.

    Committed is what outlives kill -9; a power cut may take the latest seconds, never the whole.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.expanduser() / _FILE
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Makes the file where there is none. Raises ConfigError if it cannot be used."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"Database {self.path}: {error}. Let the folder (store.folder) be writable; if the "
                "file is damaged, move it away and it is made anew."
            ) from error

    def _open(self) -> None:
        # What is in it is nobody else's business: addresses that users looked at.
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._switch_to_wal(self._connection)
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)

    @staticmethod
    def _switch_to_wal(connection: sqlite3.Connection) -> None:
        """SQLite's own waiting does not cover this one, which needs the file for itself."""
        give_up = time.monotonic() + _OPEN_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(0.05)
            else:
                return

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What `function` returns, all or nothing of what it wrote. Raises StoreUnavailable."""
        try:
            running = asyncio.get_running_loop().run_in_executor(
                self._thread, self._transact, function
            )
        except RuntimeError as error:  # what an executor says once it was shut down
            raise StoreUnavailable("the database is closed") from error
        # A write that its asker has left behind still ends, so that it is known what is stored; and
        # an error that nobody waits for any more is no loose end.
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(running)

    def _transact(self, function: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise StoreUnavailable("the database is closed")
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = function(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # some errors end it by themselves
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        return result

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """What `function` returns, on a connection of its own that cannot write.

        For what takes long: it has a thread of its own, and holds up neither `run` nor a stop.
        Raises StoreUnavailable.
        """

        def read() -> T:
            try:
                with closing(self._connect_to_read()) as connection:
                    return function(connection)
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{type(error).__name__}: {error}") from error

        return await in_daemon_thread(read)

    def _connect_to_read(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)

    async def aclose(self) -> None:
        """Ends what was asked for, then closes the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with closing(connection):
                pass
