"""Tests of safety_proxy/store/vectors.py: what float16 costs, and reading all there is."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from safety_proxy.evidence import Float32Array
from safety_proxy.store import vectors
from safety_proxy.store.vectors import Chunk, as_stored, from_blob, read_rows, to_blob
from tests.store.made import directions, evidence_of, filled

# What docs/evidence.md promises of a cosine: always (half of float16's last bit), and for the sizes
# of models that judge in earnest, in which the errors of single numbers even out.
EPSILON = 2.0**-11
EPSILON_WIDE = 1e-4


@pytest.mark.parametrize("dimensions", [4, 64, 512, 768, 1152])
def test_a_cosine_from_stored_embeddings_is_nearly_the_fresh_one(dimensions: int) -> None:
    """At every distance, also where a picture is its prompt, for the sizes that models have."""
    prompts = directions(50, dimensions, seed=1)
    noise = directions(2000, dimensions, seed=2)
    nearness = np.linspace(0, 20, 2000, dtype=np.float32)[:, None]
    fresh = noise + nearness * prompts[np.arange(2000) % 50]
    fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
    stored = from_blob(to_blob(fresh), dimensions)
    assert stored is not None
    error = np.abs(stored @ prompts.T - fresh @ prompts.T).max()
    assert 0 < error < (EPSILON if dimensions < 512 else EPSILON_WIDE)


def test_as_stored_is_what_comes_back() -> None:
    """Exactly: whoever judges it comes to the same verdict now and from the store."""
    fresh = directions(7, 48)
    stored = from_blob(to_blob(fresh), 48)
    assert stored is not None
    assert stored.dtype == np.float32
    assert stored.shape == (7, 48)
    assert np.array_equal(stored, as_stored(fresh))
    assert np.array_equal(as_stored(stored), stored)
    assert not np.array_equal(stored, fresh)
    assert len(to_blob(fresh)) == 7 * 48 * 2


def test_every_float16_that_an_embedding_can_hold_is_read_as_it_is() -> None:
    """Of all there are, the subnormal and both zeros among them; the others are damage."""
    every = np.arange(2**16, dtype=np.uint16).view("<f2")
    read = vectors._widened(every.tobytes(), 2**8).reshape(-1)
    finite = np.isfinite(every)
    with np.errstate(invalid="ignore"):
        expected = every.astype(np.float32)
    assert np.array_equal(read[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert (np.abs(read[~finite]) > 65535).all()


def damage(embedding: Float32Array, value: float) -> bytes:
    damaged = embedding.copy()
    damaged[0, 3] = value
    return to_blob(damaged)


@pytest.mark.parametrize(
    "broken",
    [
        lambda row: b"",
        lambda row: to_blob(row)[:-1],
        lambda row: to_blob(row)[:-2],
        lambda row: to_blob(row) + b"\0\0",
        lambda row: bytes(len(to_blob(row))),
        lambda row: damage(row, np.nan),
        lambda row: damage(row, np.inf),
        lambda row: damage(row, 1.5),
    ],
)
def test_damaged_embeddings_are_none(broken: Callable[[Float32Array], bytes]) -> None:
    """NaN is below every threshold: a stored one must not let a picture in."""
    row = directions(1, 32)
    assert from_blob(to_blob(row), 32) is not None
    assert from_blob(broken(row), 32) is None


def test_no_dimensions_are_none() -> None:
    """As of a model that only verdicts are recorded of."""
    assert from_blob(b"\0\0", 0) is None


def read_chunks(connection: sqlite3.Connection, model: str) -> Iterator[Chunk]:
    """All that is not damaged."""
    decoded = (rows.decode() for rows in read_rows(connection, model))
    return (chunk for chunk in decoded if chunk is not None)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pictures in each chunk."""
    monkeypatch.setattr(vectors, "_CHUNK_BYTES", 2000)
    monkeypatch.setattr(vectors, "_ROWS_AT_ONCE", 3)


async def test_all_embeddings_of_one_model_come_once_and_in_order(
    tmp_path: Path, small_chunks: None
) -> None:
    """Pictures of one frame and of several, whole, and of no other model."""
    mine = [evidence_of(n, frames=1 + n % 4, model="mine") for n in range(100)]
    others = [evidence_of(n, model="other", dimensions=8) for n in range(100)]
    mixed = [evidence for pair in zip(mine, others, strict=True) for evidence in pair]
    async with filled(tmp_path, mixed) as database:
        chunks = await database.read(lambda connection: list(read_chunks(connection, "mine")))
    assert len(chunks) > 3
    read = [chunk.of(n) for chunk in chunks for n in range(len(chunk.pictures))]
    assert len(read) == 100
    for rows, evidence in zip(read, mine, strict=True):
        assert np.array_equal(rows, as_stored(evidence.embeddings))
    for chunk in chunks:
        assert chunk.starts[0] == 0
        assert chunk.embeddings.dtype == np.float32
        assert len(chunk.embeddings) * 16 * 2 < 2000 + 3 * 4 * 16 * 2


async def test_of_an_unknown_model_there_are_none(tmp_path: Path) -> None:
    """Nor of one that has only verdicts."""
    async with filled(tmp_path, [evidence_of(1)]) as database:
        assert await database.read(lambda c: list(read_chunks(c, "never seen"))) == []


async def test_damaged_ones_are_left_out(tmp_path: Path, small_chunks: None) -> None:
    """The others of the same chunk are there."""
    kept = [n for n in range(12) if n not in {2, 3, 7, 11}]

    def break_some(connection: sqlite3.Connection) -> None:
        blobs = {3: b"\0" * 32, 4: b"odd", 8: b"", 12: b"\xff" * 32}  # ids begin at 1
        for picture, blob in blobs.items():
            connection.execute(
                "UPDATE embeddings SET vectors = ? WHERE picture = ?", (blob, picture)
            )

    pictures = [evidence_of(n) for n in range(12)]
    async with filled(tmp_path, pictures) as database:
        await database.run(break_some)
        chunks = await database.read(lambda connection: list(read_chunks(connection, "model")))
    assert [int(p) - 1 for chunk in chunks for p in chunk.pictures] == kept
    rows = np.concatenate([chunk.embeddings for chunk in chunks])
    assert np.array_equal(rows, np.concatenate([as_stored(pictures[n].embeddings) for n in kept]))


async def test_a_chunk_that_is_all_damaged_does_not_end_the_reading(
    tmp_path: Path, small_chunks: None
) -> None:
    """What comes behind it is read."""
    async with filled(tmp_path, [evidence_of(n) for n in range(200)]) as database:
        await database.run(
            lambda c: c.execute("UPDATE embeddings SET vectors = x'0000' WHERE picture < 190")
        )
        chunks = await database.read(lambda connection: list(read_chunks(connection, "model")))
    assert sum(len(chunk.pictures) for chunk in chunks) == 11


async def test_writers_go_on_while_all_is_read(tmp_path: Path, small_chunks: None) -> None:
    """What is written meanwhile is read as well; nothing is held between chunks."""
    async with filled(tmp_path, [evidence_of(n) for n in range(100)]) as database:
        writer = sqlite3.connect(database.path, timeout=0, check_same_thread=False)

        def read(connection: sqlite3.Connection) -> int:
            count = 0
            for chunk in read_chunks(connection, "model"):
                count += len(chunk.pictures)
                if not count - len(chunk.pictures):
                    writer.execute("UPDATE embeddings SET picture = 1000 WHERE picture = 90")
                    writer.commit()
                    # Fails with "busy" while anybody reads what is in the log.
                    assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            return count

        assert await database.read(read) == 100
        writer.close()
