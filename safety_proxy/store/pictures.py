"""The rows that evidence and verdicts are kept in: to them, and back from them.

For the thread and within the transaction that the connection is used in. All times are in seconds
since the epoch.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from safety_proxy.evidence import Evidence, Float32Array, Pdq
from safety_proxy.store.vectors import from_blob, to_blob
from safety_proxy.verdict import Action, ConceptScore, Reason, Source, Verdict

_PDQ_BYTES: Final = 32

_INSERT = """
INSERT INTO pictures
    (sha256, model, sha1, md5, media_type, pdq, places, crops, look, first_seen, last_seen)
VALUES (:sha256, :model, :sha1, :md5, :media_type, :pdq, :places, :crops, :look, :now, :now)
ON CONFLICT (sha256, model) DO UPDATE SET
    sha1 = excluded.sha1, md5 = excluded.md5, media_type = excluded.media_type, pdq = excluded.pdq,
    places = excluded.places, crops = excluded.crops, look = excluded.look,
    last_seen = excluded.last_seen
RETURNING id
"""
_FIND = """
SELECT sha1, md5, media_type, pdq, places, look, vectors, dimensions
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


def read_evidence(connection: sqlite3.Connection, sha256: str, model: str) -> Evidence | None:
    """What is known of these bytes under this model; None also if it is damaged."""
    row = connection.execute(_FIND, (bytes.fromhex(sha256), model)).fetchone()
    if row is None:
        return None
    sha1, md5, media_type, pdq, places, look, vectors, dimensions = row
    embeddings, where = from_blob(vectors, dimensions), _places(places)
    if embeddings is None or len(embeddings) != len(where):
        return None
    return Evidence(
        sha256=sha256,
        sha1=sha1.hex(),
        md5=md5.hex(),
        media_type=media_type,
        model=model,
        embeddings=embeddings,
        places=where,
        pdq=_pdq_from_blob(pdq),
        look=look or "",
    )


def read_name(connection: sqlite3.Connection, picture: int) -> tuple[str, tuple[str, ...]] | None:
    """The sha256 of a picture and the places of its embeddings; None if it was swept away."""
    row = connection.execute(
        "SELECT sha256, places FROM pictures WHERE id = ?", (picture,)
    ).fetchone()
    return row and (row[0].hex(), _places(row[1]))


def _places(stored: str) -> tuple[str, ...]:
    """The places of a picture's embeddings; none where they are damaged."""
    try:
        return tuple(json.loads(stored))
    except (ValueError, TypeError):
        return ()


def write_evidence(connection: sqlite3.Connection, evidence: Evidence) -> None:
    """Keeps it, in place of what was known of the same bytes under the same model."""
    model = _model_id(connection, evidence.model, evidence.embeddings)
    row = {
        "sha256": bytes.fromhex(evidence.sha256),
        "model": model,
        "sha1": bytes.fromhex(evidence.sha1),
        "md5": bytes.fromhex(evidence.md5),
        "media_type": evidence.media_type,
        "pdq": b"".join(pdq.bits + bytes([pdq.quality]) for pdq in evidence.pdq),
        "places": _compact(evidence.places),
        "crops": len(evidence.places),
        "look": evidence.look,
        "now": time.time(),
    }
    [(picture,)] = connection.execute(_INSERT, row).fetchall()
    connection.execute(
        "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)",
        (picture, model, to_blob(evidence.embeddings)),
    )


def write_verdict(connection: sqlite3.Connection, verdict: Verdict) -> None:
    """Keeps it, in place of the last one on the same bytes by the same model."""
    row = {
        "sha256": bytes.fromhex(verdict.sha256),
        "model": _model_id(connection, verdict.model),
        "policy": verdict.policy,
        "action": verdict.action.value,
        "source": verdict.source.value,
        "reasons": _compact([asdict(reason) for reason in verdict.reasons]),
        "now": time.time(),
    }
    connection.execute(_RECORD, row)


def read_known(connection: sqlite3.Connection, sha256: str) -> tuple[Known, ...]:
    """What is recorded of these bytes, under each model, the latest seen first."""
    rows = connection.execute(_KNOWN, (bytes.fromhex(sha256),)).fetchall()
    return tuple(_known(sha256, *row) for row in rows)


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
    if policy is not None and action is not None and source is not None:
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
