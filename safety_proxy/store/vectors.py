"""Embeddings as they are stored: float16, and a reader that streams them all.

Half of the bytes, and of a cosine about 1e-5 is lost (tests/store/test_vectors.py). They are not
normalized again: what it would mend is as small, and every reader would pay for it.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safety_proxy.evidence import Float32Array

_STORED: Final = np.dtype("<f2")

# The length of an embedding that is none: one with a bit turned over, by far most of them.
_LENGTH_TOLERANCE: Final = 0.01

# Of stored vectors, in one chunk: it grows sixfold while it is judged.
_CHUNK_BYTES: Final = 8 * 1024 * 1024
_ROWS_AT_ONCE: Final = 64


def as_stored(embeddings: Float32Array) -> Float32Array:
    """What `from_blob` gives back of these: judge this, and the stored verdict is the same."""
    return embeddings.astype(_STORED).astype(np.float32)


def to_blob(embeddings: Float32Array) -> bytes:
    """The bytes to store of (F, D) embeddings."""
    return embeddings.astype(_STORED).tobytes()


def from_blob(blob: bytes, dimensions: int) -> Float32Array | None:
    """(F, D) float32, F >= 1; None if these bytes are no embeddings of that many dimensions."""
    if not _fits(blob, dimensions):
        return None
    embeddings = np.frombuffer(blob, _STORED).astype(np.float32).reshape(-1, dimensions)
    return embeddings if _sound(embeddings).all() else None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Embeddings of P whole pictures, N in all.

    pictures: (P,) int64, their ids. starts: (P,) int64, the first embedding of each.
    embeddings: (N, D) float32.
    """

    pictures: NDArray[np.int64]
    starts: NDArray[np.int64]
    embeddings: Float32Array

    def of(self, index: int) -> Float32Array:
        """The embeddings (F, D) of one of them."""
        end = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.embeddings)
        return self.embeddings[self.starts[index] : end]


def read_chunks(connection: sqlite3.Connection, model: str) -> Iterator[Chunk]:
    """All embeddings of a model, in the order they came; damaged ones are left out.

    Each chunk is read in a transaction of its own, so that the log can be emptied in between.
    """
    row = connection.execute(
        "SELECT id, dimensions FROM models WHERE fingerprint = ?", (model,)
    ).fetchone()
    if row is None:
        return
    number, dimensions = row
    last = 0
    while rows := _read_rows(connection, number, last):
        last = rows[-1][0]
        if (chunk := _chunk(rows, dimensions)) is not None:
            yield chunk


def _read_rows(connection: sqlite3.Connection, model: int, last: int) -> list[tuple[int, bytes]]:
    cursor = connection.execute(
        "SELECT picture, vectors FROM embeddings WHERE picture > ? AND model = ? ORDER BY picture",
        (last, model),
    )
    rows: list[tuple[int, bytes]] = []
    size = 0
    while size < _CHUNK_BYTES and (more := cursor.fetchmany(_ROWS_AT_ONCE)):
        rows += more
        size += sum(len(vectors) for _, vectors in more)
    cursor.close()
    return rows


def _chunk(rows: list[tuple[int, bytes]], dimensions: int) -> Chunk | None:
    rows = [row for row in rows if _fits(row[1], dimensions)]
    if not rows:
        return None
    stored = np.frombuffer(b"".join([vectors for _, vectors in rows]), _STORED)
    embeddings = stored.astype(np.float32).reshape(-1, dimensions)
    lengths = np.array([len(vectors) for _, vectors in rows]) // (dimensions * _STORED.itemsize)
    chunk = Chunk(
        np.array([picture for picture, _ in rows], np.int64),
        np.cumsum(lengths, dtype=np.int64) - lengths,
        embeddings,
    )
    sound = np.logical_and.reduceat(_sound(embeddings), chunk.starts)
    if sound.all():
        return chunk
    return _chunk([row for row, is_sound in zip(rows, sound, strict=True) if is_sound], dimensions)


def _fits(blob: bytes, dimensions: int) -> bool:
    return bool(blob) and dimensions > 0 and not len(blob) % (dimensions * _STORED.itemsize)


def _sound(embeddings: Float32Array) -> NDArray[np.bool_]:
    """(N,) whether each is about as long as an embedding is; NaN is as long as nothing."""
    squares = np.einsum("nd,nd->n", embeddings, embeddings)
    sound: NDArray[np.bool_] = np.abs(squares - 1) < 2 * _LENGTH_TOLERANCE
    return sound
