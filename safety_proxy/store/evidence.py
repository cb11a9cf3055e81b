"""What scans found out, kept over restarts: a known picture is judged anew without its bytes.

By sha256 and model: the embeddings (float16), the other hashes, and the latest verdict. Bounded by
age and by the number of embeddings; docs/evidence.md says what that means on the disk.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence, Float32Array, Pdq
from safety_proxy.logs import get_logger
from safety_proxy.store.database import Database
from safety_proxy.store.vectors import from_blob, to_blob
from safety_proxy.verdict import Action, ConceptScore, Reason, Source, Verdict

_logger = get_logger(__name__)

_DAY_SECONDS: Final = 86_400.0

# How exact the time of the last look is: a read should not cost a write.
_SEEN_SECONDS: Final = 3600.0
_SEEN_LIMIT: Final = 10_000

# Pictures in one transaction of a sweep: about 10 ms, in which nobody else writes.
_CHUNK: Final = 200

_PAUSE_SECONDS: Final = 60.0
_PDQ_BYTES: Final = 32

_INSERT = """
INSERT INTO pictures
    (sha256, model, sha1, md5, media_type, pdq, places, crops, first_seen, last_seen)
VALUES (:sha256, :model, :sha1, :md5, :media_type, :pdq, :places, :crops, :now, :now)
ON CONFLICT (sha256, model) DO UPDATE SET
    sha1 = excluded.sha1, md5 = excluded.md5, media_type = excluded.media_type, pdq = excluded.pdq,
    places = excluded.places, crops = excluded.crops, last_seen = excluded.last_seen
RETURNING id
"""
_FIND = """
SELECT sha1, md5, media_type, pdq, places, vectors, dimensions
FROM models JOIN pictures ON pictures.model = models.id JOIN embeddings ON picture = pictures.id
WHERE sha256 = ? AND fingerprint = ?
"""
_RECORD = """
INSERT INTO pictures
    (sha256, model, crops, first_seen, last_seen, policy, action, source, reasons, decided_at)
VALUES (:sha256, :model, 0, :now, :now, :policy, :action, :source, :reasons, :now)
ON CONFLICT (sha256, model) DO UPDATE SET
    policy = excluded.policy, action = excluded.action, source = excluded.source,
    reasons = excluded.reasons, decided_at = excluded.decided_at
"""
_KNOWN = """
SELECT fingerprint, media_type, first_seen, last_seen, policy, action, source, reasons, decided_at
FROM pictures JOIN models ON models.id = pictures.model WHERE sha256 = ? ORDER BY last_seen DESC
"""
_TOUCH = """
UPDATE pictures SET last_seen = :now WHERE sha256 = :sha256 AND last_seen < :before
AND model = (SELECT id FROM models WHERE fingerprint = :fingerprint)
"""


@dataclass(frozen=True, slots=True)
class Known:
    """What is recorded of a picture under one model. Times are in seconds since the epoch.

    verdict: the latest, and `decided_at` its time; None while there is none.
    """

    sha256: str
    model: str
    media_type: str | None
    first_seen: float
    last_seen: float
    verdict: Verdict | None
    decided_at: float | None


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
        row = await self.database.run(
            lambda connection: connection.execute(_FIND, (bytes.fromhex(sha256), model)).fetchone()
        )
        if row is None:
            return None
        sha1, md5, media_type, pdq, places, vectors, dimensions = row
        embeddings, where = from_blob(vectors, dimensions), tuple(json.loads(places))
        if embeddings is None or len(embeddings) != len(where):
            _logger.warning("damaged evidence is left out", sha256=sha256[:16])
            return None
        self.seen(sha256, model)
        hashes = {"sha256": sha256, "sha1": sha1.hex(), "md5": md5.hex()}
        return Evidence(
            **hashes,
            media_type=media_type,
            model=model,
            embeddings=embeddings,
            places=where,
            pdq=_pdq_from_blob(pdq),
        )

    async def put(self, evidence: Evidence) -> None:
        """Keeps it, in place of what was known of the same bytes under the same model."""
        row = {
            "sha256": bytes.fromhex(evidence.sha256),
            "sha1": bytes.fromhex(evidence.sha1),
            "md5": bytes.fromhex(evidence.md5),
            "media_type": evidence.media_type,
            "pdq": b"".join(pdq.bits + bytes([pdq.quality]) for pdq in evidence.pdq),
            "places": _compact(evidence.places),
            "crops": len(evidence.places),
            "now": time.time(),
        }

        def put(connection: sqlite3.Connection) -> None:
            model = _model_id(connection, evidence.model, evidence.embeddings)
            [(picture,)] = connection.execute(_INSERT, row | {"model": model}).fetchall()
            connection.execute(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)",
                (picture, model, to_blob(evidence.embeddings)),
            )

        await self.database.run(put)

    async def record(self, verdict: Verdict) -> None:
        """Keeps the latest verdict on these bytes by this model, for whoever asks why."""
        row = {
            "sha256": bytes.fromhex(verdict.sha256),
            "policy": verdict.policy,
            "action": verdict.action.value,
            "source": verdict.source.value,
            "reasons": _compact([asdict(reason) for reason in verdict.reasons]),
            "now": time.time(),
        }
        await self.database.run(
            lambda connection: connection.execute(
                _RECORD, row | {"model": _model_id(connection, verdict.model)}
            )
        )

    async def known(self, sha256: str) -> tuple[Known, ...]:
        """What is recorded of these bytes, under each model, the latest seen first."""
        rows = await self.database.run(
            lambda connection: connection.execute(_KNOWN, (bytes.fromhex(sha256),)).fetchall()
        )
        return tuple(_known(sha256, *row) for row in rows)

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
            await self.database.run(
                lambda connection, chunk=chunk: connection.executemany(_TOUCH, chunk)
            )

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
            pictures, crops = await self.database.run(
                lambda connection, oldest=oldest, excess=excess: _remove(connection, oldest, excess)
            )
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


def _model_id(
    connection: sqlite3.Connection, fingerprint: str, embeddings: Float32Array | None = None
) -> int:
    dimensions = 0 if embeddings is None else embeddings.shape[1]
    row = connection.execute(
        "SELECT id, dimensions FROM models WHERE fingerprint = ?", (fingerprint,)
    ).fetchone()
    if row is not None and (row[1] == dimensions or not dimensions):
        return int(row[0])
    [(number,)] = connection.execute(
        "INSERT INTO models (fingerprint, dimensions) VALUES (?, ?) ON CONFLICT (fingerprint)"
        " DO UPDATE SET dimensions = excluded.dimensions RETURNING id",
        (fingerprint, dimensions),
    ).fetchall()
    return int(number)


def _remove(connection: sqlite3.Connection, oldest: float, excess: int) -> tuple[int, int]:
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


def _known(  # noqa: PLR0913, PLR0917 -- the columns of _KNOWN
    sha256: str,
    model: str,
    media_type: str | None,
    first_seen: float,
    last_seen: float,
    policy: str | None,
    action: str | None,
    source: str | None,
    reasons: str | None,
    decided_at: float | None,
) -> Known:
    verdict = None
    if policy is not None:
        verdict = Verdict(
            Action(action),
            tuple(map(_reason, json.loads(reasons or "[]"))),
            sha256,
            model,
            policy,
            Source(source),
        )
    return Known(sha256, model, media_type, first_seen, last_seen, verdict, decided_at)


def _reason(stored: dict[str, Any]) -> Reason:
    concepts = tuple(ConceptScore(**concept) for concept in stored.pop("concepts"))
    return Reason(concepts=concepts, **stored)


def _compact(value: Sequence[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _pdq_from_blob(blob: bytes) -> tuple[Pdq, ...]:
    size = _PDQ_BYTES + 1
    return tuple(
        Pdq(blob[start : start + _PDQ_BYTES], blob[start + _PDQ_BYTES])
        for start in range(0, len(blob), size)
    )
