"""Evidence that is made up, and databases that hold it."""

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from safety_proxy.evidence import Evidence, Float32Array, Pdq
from safety_proxy.store.database import Database
from safety_proxy.store.pictures import write_evidence


def directions(count: int, dimensions: int, *, seed: int = 0) -> Float32Array:
    """(count, dimensions) random directions, L2-normalized; always the same."""
    rows = np.random.default_rng(seed).standard_normal((count, dimensions), np.float32)
    normalized: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalized


def evidence_of(
    number: int,
    *,
    frames: int = 1,
    model: str = "model",
    dimensions: int = 16,
    embeddings: Float32Array | None = None,
) -> Evidence:
    """Of the picture with this number; its embeddings follow from it, unless given."""
    name = f"{number}".encode()
    if embeddings is None:
        embeddings = directions(frames, dimensions, seed=number)
    return Evidence(
        sha256=hashlib.sha256(name).hexdigest(),
        sha1=hashlib.sha1(name, usedforsecurity=False).hexdigest(),
        md5=hashlib.md5(name, usedforsecurity=False).hexdigest(),
        media_type="image/webp",
        model=model,
        embeddings=embeddings,
        places=tuple(f"frame {n}" for n in range(len(embeddings))),
        pdq=(Pdq(hashlib.sha256(name).digest(), number % 101),),
    )


@asynccontextmanager
async def filled(folder: Path, evidence: Iterable[Evidence]) -> AsyncIterator[Database]:
    """An open database that holds it."""
    database = Database(folder)
    await database.open()

    def fill(connection: sqlite3.Connection) -> None:
        for one in evidence:
            write_evidence(connection, one)

    await database.run(fill)
    yield database
    await database.aclose()
