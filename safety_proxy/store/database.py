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

    async def aclose(self) -> None:
        """Ends what was asked for, then closes the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with closing(connection):
                pass
