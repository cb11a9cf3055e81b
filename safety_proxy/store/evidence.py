"""What scans found out, kept over restarts: a known picture is judged anew without its bytes.

By sha256 and model: the embeddings (float16), the other hashes, and the latest verdict. Bounded by
age and by the number of embeddings; docs/evidence.md says what that means on the disk.
"""

import asyncio
import sqlite3
import time
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final

from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence
from safety_proxy.logs import get_logger
from safety_proxy.store.database import Database
from safety_proxy.store.pictures import (
    Known,
    read_evidence,
    read_known,
    write_evidence,
    write_verdict,
)
from safety_proxy.verdict import Verdict

_logger = get_logger(__name__)

# How exact the time of the last look is: a read should not cost a write.
_SEEN_SECONDS: Final = 3600.0
_SEEN_LIMIT: Final = 10_000

# Pictures in one transaction of a sweep: about 10 ms, in which nobody else writes.
_CHUNK: Final = 200

_PAUSE_SECONDS: Final = 60.0

_TOUCH = """
UPDATE pictures SET last_seen = :now WHERE sha256 = :sha256 AND last_seen < :before
AND model = (SELECT id FROM models WHERE fingerprint = :fingerprint)
"""


class EvidenceStore:
    """Evidence in SQLite. Its methods raise StoreUnavailable; whoever asks then goes on without.

    keep_seconds: how long a picture is kept that nobody has asked for again.
    max_embeddings: kept at most; a still picture has one, an animation one for each looked-at
    frame. A sweep each minute sees to both.
    """

    def __init__(self, database: Database, *, keep_seconds: float, max_embeddings: int) -> None:
        self.database = database
        self._keep_seconds = keep_seconds
        self._max_embeddings = max_embeddings
        self._seen: dict[tuple[str, str], float] = {}

    async def get(self, sha256: str, model: str) -> Evidence | None:
        """What is known of these bytes under this model; it counts as seen.

        The embeddings are as `vectors.as_stored` makes them. Damaged ones are none: the next scan
        puts them right.
        """
        found = await self.database.run(lambda connection: read_evidence(connection, sha256, model))
        if found is not None:
            self.seen(sha256, model)
        return found

    async def put(self, evidence: Evidence) -> None:
        """Keeps it, in place of what was known of the same bytes under the same model."""
        await self.database.run(lambda connection: write_evidence(connection, evidence))

    async def record(self, verdict: Verdict) -> None:
        """Keeps the latest verdict on these bytes by this model, for whoever asks why."""
        await self.database.run(lambda connection: write_verdict(connection, verdict))

    async def known(self, sha256: str) -> tuple[Known, ...]:
        """What is recorded of these bytes, under each model, the latest seen first."""
        return await self.database.run(lambda connection: read_known(connection, sha256))

    def seen(self, sha256: str, model: str) -> None:
        """Somebody asked for this picture. Costs no write now, and none within the hour."""
        if len(self._seen) < _SEEN_LIMIT:
            self._seen[sha256, model] = time.time()

    async def flush(self) -> None:
        """Writes down what was `seen`; what cannot be written is forgotten."""
        seen, self._seen = self._seen, {}
        marks = (
            {
                "sha256": bytes.fromhex(sha256),
                "fingerprint": model,
                "now": now,
                "before": now - _SEEN_SECONDS,
            }
            for (sha256, model), now in seen.items()
        )
        while chunk := list(islice(marks, _CHUNK)):
            await self.database.run(partial(_touch, chunk))

    async def sweep(self) -> int:
        """Removes what is too old, and the longest unseen while there is too much; how many.

        In short transactions, so that whoever else writes waits for one of them at most.
        """
        total: int = await self.database.read(
            lambda connection: connection.execute(
                "SELECT coalesce(sum(max(crops, 1)), 0) FROM pictures"
            ).fetchone()[0]
        )
        excess, removed = total - self._max_embeddings, 0
        while True:
            oldest = time.time() - self._keep_seconds
            pictures, crops = await self.database.run(partial(_remove, oldest, excess))
            if not pictures:
                return removed
            excess, removed = excess - crops, removed + pictures

    async def keep_forever(self) -> None:
        """Flushes and sweeps now and then, until it is cancelled."""
        while True:
            try:
                await self.flush()
                await self.sweep()
            except StoreUnavailable as error:
                _logger.warning("the evidence cannot be swept yet", detail=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def aclose(self) -> None:
        """Writes down what was seen last."""
        with suppress(StoreUnavailable):
            await self.flush()


def _touch(marks: list[dict[str, Any]], connection: sqlite3.Connection) -> None:
    connection.executemany(_TOUCH, marks)


def _remove(oldest: float, excess: int, connection: sqlite3.Connection) -> tuple[int, int]:
    """Removes one chunk; how many pictures and how many embeddings (1 where there is none)."""
    rows = connection.execute(
        "SELECT id, last_seen, max(crops, 1) FROM pictures ORDER BY last_seen LIMIT ?", (_CHUNK,)
    ).fetchall()
    removed = crops = 0
    for picture, last_seen, count in rows:
        if last_seen >= oldest and crops >= excess:
            break
        connection.execute("DELETE FROM embeddings WHERE picture = ?", (picture,))
        connection.execute("DELETE FROM pictures WHERE id = ?", (picture,))
        removed, crops = removed + 1, crops + count
    return removed, crops
