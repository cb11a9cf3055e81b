"""Pictures that were let in unseen, because `scan.on_failure` says so, until they are scanned."""

import time

from safety_proxy.store.database import Database


class Unscanned:
    """Digests of such pictures, in SQLite and in memory. Its methods raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._digests: set[str] = set()

    def __len__(self) -> int:
        return len(self._digests)

    async def load(self) -> None:
        """Reads what earlier runs have marked."""
        rows = await self._database.run(
            lambda connection: connection.execute("SELECT sha256 FROM unscanned").fetchall()
        )
        self._digests = {sha256 for (sha256,) in rows}

    async def mark(self, sha256: str, reason: str) -> None:
        """These bytes were let in, and nobody has looked at them."""
        self._digests.add(sha256)
        await self._database.run(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO unscanned VALUES (?, ?, ?)", (sha256, reason, time.time())
            )
        )

    async def clear(self, sha256: str) -> None:
        """These bytes have been looked at now, with whatever outcome."""
        if sha256 in self._digests:
            self._digests.discard(sha256)
            await self._database.run(
                lambda connection: connection.execute(
                    "DELETE FROM unscanned WHERE sha256 = ?", (sha256,)
                )
            )
