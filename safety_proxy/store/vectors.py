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

# Of a sign-extended float16, moved 13 bits up: the sign, and 15 bits of exponent and fraction.
_SIGN_AND_VALUE: Final = np.array(0x8FFFE000, np.uint32).view(np.int32)

# The length of an embedding that is none: one with a bit turned over, by far most of them.
_LENGTH_TOLERANCE: Final = 0.01

# Of stored vectors, at a time: they grow tenfold while they are judged.
_CHUNK_BYTES: Final = 1024 * 1024
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
    embeddings = _widened(blob, dimensions)
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


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of the table, each a picture's id and its embeddings of so many dimensions."""

    rows: list[tuple[int, bytes]]
    dimensions: int

    def decode(self) -> Chunk | None:
        """All in them that is not damaged; None where everything is."""
        rows = [row for row in self.rows if _fits(row[1], self.dimensions)]
        if not rows:
            return None
        embeddings = _widened(b"".join([vectors for _, vectors in rows]), self.dimensions)
        counts = np.array([len(vectors) for _, vectors in rows]) // (
            self.dimensions * _STORED.itemsize
        )
        starts = np.cumsum(counts, dtype=np.int64) - counts
        sound = np.logical_and.reduceat(_sound(embeddings), starts)
        if not sound.all():
            kept = [row for row, is_sound in zip(rows, sound, strict=True) if is_sound]
            return Rows(kept, self.dimensions).decode()
        return Chunk(np.array([picture for picture, _ in rows], np.int64), starts, embeddings)


def read_rows(connection: sqlite3.Connection, model: str) -> Iterator[Rows]:
    """All embeddings of a model, in the order they came, some megabytes at a time.

    Each in a transaction of its own, so that the log can be emptied in between.
    """
    row = connection.execute(
        "SELECT id, dimensions FROM models WHERE fingerprint = ?", (model,)
    ).fetchone()
    if row is None:
        return
    number, dimensions = row
    last = 0
    while rows := _read_some(connection, number, last):
        last = rows[-1][0]
        yield Rows(rows, dimensions)


def _read_some(connection: sqlite3.Connection, model: int, last: int) -> list[tuple[int, bytes]]:
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


def _fits(blob: bytes, dimensions: int) -> bool:
    return bool(blob) and dimensions > 0 and not len(blob) % (dimensions * _STORED.itemsize)


def _widened(blob: bytes, dimensions: int) -> Float32Array:
    """(F, D) float32, for finite values exactly as `astype` has it, in a fifth of the time.

    float32 has 13 more bits of fraction, and an exponent that is larger by 112; a product with a
    power of two moves that, and makes subnormal numbers normal. What is not finite becomes larger
    than 65535, and is no sound embedding either.
    """
    wide = np.frombuffer(blob, "<i2").astype(np.int32)
    wide <<= 13
    wide &= _SIGN_AND_VALUE
    embeddings = wide.view(np.float32).reshape(-1, dimensions)
    embeddings *= np.float32(2.0**112)
    return embeddings


def _sound(embeddings: Float32Array) -> NDArray[np.bool_]:
    """(N,) whether each is about as long as an embedding is; NaN is as long as nothing."""
    squares = np.einsum("nd,nd->n", embeddings, embeddings)
    sound: NDArray[np.bool_] = np.abs(squares - 1) < 2 * _LENGTH_TOLERANCE
    return sound
