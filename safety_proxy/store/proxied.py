"""Which picture in pict-rs stands for which foreign address.

A row is written before pict-rs is given the picture, and names the alias that it will have. So
whatever a crash interrupts is found again, and removed: `doomed` lists it.
"""

import sqlite3
import time
from dataclasses import dataclass

from safety_proxy.store.database import Database

# Far longer than any upload to pict-rs may take: what is still `storing` then was interrupted.
_STORING_SECONDS = 300.0

# How exact the time of the last access is: a read should not cost a write.
_ACCESS_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture that is shown for an address. Times are in seconds since the epoch."""

    alias: str
    address: str
    sha256: str
    etag: str | None
    last_modified: str | None
    checked_at: float


class ProxiedTable:
    """Address -> alias, in SQLite. All methods raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, address: str) -> Entry | None:
        """What is known for an address; it counts as accessed."""

        def find(connection: sqlite3.Connection) -> Entry | None:
            row = connection.execute(
                "SELECT alias, address, sha256, etag, last_modified, checked_at, accessed_at"
                " FROM proxied WHERE address = ? AND state = 'live'",
                (address,),
            ).fetchone()
            if row is None:
                return None
            now = time.time()
            if row[-1] < now - _ACCESS_SECONDS:
                connection.execute(
                    "UPDATE proxied SET accessed_at = ? WHERE alias = ?", (now, row[0])
                )
            return Entry(*row[:-1])

        return await self._database.run(find)

    async def begin(self, entry: Entry) -> None:
        """pict-rs is about to be given this picture under this alias."""
        await self._database.run(
            lambda connection: connection.execute(
                "INSERT INTO proxied VALUES (?, ?, 'storing', ?, ?, ?, ?, ?)",
                (
                    entry.alias,
                    entry.address,
                    entry.sha256,
                    entry.etag,
                    entry.last_modified,
                    time.time(),
                    entry.checked_at,
                ),
            )
        )

    async def finish(self, entry: Entry) -> None:
        """pict-rs has it: it is shown from now on, and what was shown before is doomed."""

        def finish(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE proxied SET state = 'doomed' WHERE address = ? AND state = 'live'",
                (entry.address,),
            )
            connection.execute("UPDATE proxied SET state = 'live' WHERE alias = ?", (entry.alias,))

        await self._database.run(finish)

    async def checked(self, alias: str) -> None:
        """The origin was asked, and nothing has changed."""
        await self._database.run(
            lambda connection: connection.execute(
                "UPDATE proxied SET checked_at = ? WHERE alias = ?", (time.time(), alias)
            )
        )

    async def doom(self, alias: str) -> None:
        """It is not shown any more, and is to be removed from pict-rs."""
        await self._database.run(
            lambda connection: connection.execute(
                "UPDATE proxied SET state = 'doomed' WHERE alias = ?", (alias,)
            )
        )

    async def doomed(self, *, keep_seconds: float, limit: int = 100) -> list[str]:
        """Aliases that pict-rs should not have any more, some of them, in no order.

        Replaced or dropped, interrupted while they were stored, or not accessed for so long.
        """

        def doomed(connection: sqlite3.Connection) -> list[str]:
            now = time.time()
            connection.execute(
                "UPDATE proxied SET state = 'doomed' WHERE"
                " (state = 'live' AND accessed_at < ?) OR (state = 'storing' AND accessed_at < ?)",
                (now - keep_seconds - _ACCESS_SECONDS, now - _STORING_SECONDS),
            )
            rows = connection.execute(
                "SELECT alias FROM proxied WHERE state = 'doomed' ORDER BY random() LIMIT ?",
                (limit,),
            )
            return [alias for (alias,) in rows]

        return await self._database.run(doomed)

    async def remove(self, alias: str) -> None:
        """pict-rs does not have it any more."""
        await self._database.run(
            lambda connection: connection.execute("DELETE FROM proxied WHERE alias = ?", (alias,))
        )

    async def count(self) -> int:
        """Pictures that are shown for an address."""

        def count(connection: sqlite3.Connection) -> int:
            row = connection.execute("SELECT count(*) FROM proxied WHERE state = 'live'").fetchone()
            return int(row[0])

        return await self._database.run(count)
