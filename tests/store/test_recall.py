"""Tests of safety_proxy/store/recall.py: evidence helps a scan, and never holds one up."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence
from safety_proxy.store import recall as module
from safety_proxy.store.database import Database
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.recall import Recall
from safety_proxy.store.vectors import as_stored
from safety_proxy.verdict import Action, Source, Verdict
from tests.fakes import until
from tests.store.made import evidence_of


def verdict_of(evidence: Evidence) -> Verdict:
    return Verdict(Action.ALLOW, (), evidence.sha256, evidence.model, "policy", Source.POLICY)


@dataclass
class Kept:
    """A recall, and its store."""

    recall: Recall
    store: EvidenceStore
    database: Database
    tried: list[str] = field(default_factory=list)


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    database = Database(tmp_path)
    await database.open()
    store = EvidenceStore(database, keep_seconds=3600, max_embeddings=1000)
    recall = Recall(store)
    yield Kept(recall, store, database)
    await recall.aclose()
    await database.aclose()


async def test_what_is_kept_is_known_after_a_stop(kept: Kept) -> None:
    """All that waited is written, in order; a verdict alone leaves the evidence as it was."""
    known = [evidence_of(number) for number in range(50)]
    for evidence in known:
        kept.recall.keep(verdict_of(evidence), evidence)
        kept.recall.keep(verdict_of(evidence))
    await kept.recall.aclose()
    for evidence in known:
        found = await Recall(kept.store).get(evidence.sha256, "model")
        assert found is not None
        assert np.array_equal(found.embeddings, as_stored(evidence.embeddings))
        assert found.pdq == evidence.pdq
        assert (await kept.store.known(evidence.sha256))[0].verdict is not None
    assert await kept.recall.get(known[0].sha256, "another model") is None


async def test_a_locked_file_costs_one_wait(kept: Kept) -> None:
    """Not one for each picture: a stop would take minutes, and so would all that others ask."""
    with closing(sqlite3.connect(kept.database.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for number in range(20):
            kept.recall.keep(verdict_of(evidence_of(number)), evidence_of(number))
        start = time.monotonic()
        await kept.recall.aclose()
        assert time.monotonic() - start < 10  # one of a second, where 20 would take 20
        other.execute("ROLLBACK")
    assert await kept.store.get(evidence_of(0).sha256, "model") is None


async def test_after_a_failure_nobody_waits_for_a_while(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to read nor to write; then it is tried again."""
    evidence = evidence_of(1)
    await kept.store.put(evidence)
    get = kept.store.get

    async def fail(sha256: str, model: str) -> Evidence | None:
        kept.tried.append(sha256)
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(kept.store, "get", fail)
    for _ in range(3):
        assert await kept.recall.get(evidence.sha256, "model") is None
    assert len(kept.tried) == 1
    kept.recall.keep(verdict_of(evidence_of(2)), evidence_of(2))
    await kept.recall.aclose()
    assert await get(evidence_of(2).sha256, "model") is None
    monkeypatch.setattr(kept.store, "get", get)
    monkeypatch.setattr(kept.recall, "_silent_until", 0.0)
    assert await kept.recall.get(evidence.sha256, "model") is not None


async def test_a_store_that_does_not_answer_is_not_waited_for(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan itself is the better way then."""

    async def hang(sha256: str, model: str) -> Evidence | None:
        await asyncio.Event().wait()
        raise AssertionError(sha256, model)

    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(kept.store, "get", hang)
    assert await kept.recall.get("a" * 64, "model") is None
    assert kept.recall._is_silent


async def test_what_waits_is_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a store that is slower than the scans, the rest is not kept; scans go on."""
    go, put = asyncio.Event(), kept.store.put

    async def slow(evidence: Evidence) -> None:
        kept.tried.append(evidence.sha256)
        await go.wait()
        await put(evidence)

    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    monkeypatch.setattr(kept.store, "put", slow)
    kept.recall.keep(verdict_of(evidence_of(0)), evidence_of(0))
    await until(lambda: len(kept.tried) == 1)
    for number in range(1, 10):
        kept.recall.keep(verdict_of(evidence_of(number)), evidence_of(number))
    go.set()
    await kept.recall.aclose()
    assert kept.tried == [evidence_of(number).sha256 for number in range(4)]


async def test_what_has_been_seen_is_not_forgotten(kept: Kept) -> None:
    """Though its verdict was at hand, and the store was not asked for it."""
    await kept.store.put(evidence_of(1))
    kept.recall.seen(evidence_of(1).sha256, "model")
    assert list(kept.store._seen) == [(evidence_of(1).sha256, "model")]
