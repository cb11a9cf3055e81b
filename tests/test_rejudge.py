"""Tests of safety_proxy/rejudge.py: two policies over all that is known, and nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from sqlite3 import connect

import numpy as np
import pytest
from numpy.typing import NDArray

from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence, Float32Array
from safety_proxy.policy.forms import Float64Array
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import parse_policy
from safety_proxy.rejudge import compare
from safety_proxy.store import vectors
from safety_proxy.store.database import Database
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.vectors import as_stored
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Action
from tests.fakes import until
from tests.store.made import evidence_of, filled

AXES = ("fire", "water", "earth", "air")
ALLOW, FLAG, BLOCK = Action


def embed_texts(texts: Sequence[str]) -> Float32Array:
    """Each text is the axis of the word in it."""
    return np.array([[float(axis in text) for axis in AXES] for text in texts], np.float32)


def judge_of(*rules: tuple[str, float, str]) -> Judge:
    """For each (concept, threshold, action) a rule that has the concept's name."""
    concepts = "".join(
        f'[concepts.{concept}]\nprompts = ["{concept}"]\nthreshold = {threshold}\n'
        for concept, threshold, _ in rules
    )
    listed = "".join(
        f'[[rules]]\nname = "too much {concept}"\naction = "{action}"\nall = ["{concept}"]\n'
        for concept, _, action in rules
    )
    policy = parse_policy(f'name = "test"\nscore = "cosine"\n{concepts}{listed}', where="test")
    return Judge(policy, embed_texts, logit_scale=100.0, logit_bias=None)


OLD = judge_of(("fire", 0.8, "block"), ("water", 0.8, "flag"))
NEW = judge_of(("fire", 0.95, "block"), ("water", 0.8, "block"), ("air", 0.9, "flag"))


def picture(number: int, *frames: tuple[float, float, float, float]) -> Evidence:
    rows = np.array(frames, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return evidence_of(number, embeddings=rows)


PICTURES = [
    picture(0, (1, 0, 0, 0)),  # blocked by both
    picture(1, (9, 4, 0, 0)),  # 0.914 fire: blocked by the old one alone
    picture(2, (0, 0, 1, 0)),  # allowed by both
    picture(3, (0, 0, 1, 0), (0, 1, 0.1, 0)),  # its second frame: flagged, then blocked
    picture(4, (0, 0, 0, 1), (0, 0, 1, 0)),  # its first frame: allowed, then flagged
    picture(5, (1, 1, 1, 1)),  # allowed by both
]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """One that holds PICTURES, and the same ones as another model sees them."""
    others = [replace(one, model="other", embeddings=one.embeddings[::-1]) for one in PICTURES]
    async with filled(tmp_path, [*PICTURES, *others, picture(6, (1, 0, 0, 0))]) as database:
        await database.run(lambda c: c.execute("DELETE FROM embeddings WHERE picture = 13"))
        yield database


async def test_every_known_picture_is_counted_by_what_becomes_of_it(database: Database) -> None:
    """Those that stay as well; of one model alone."""
    diff = await compare(database, "model", (OLD, NEW), 20)
    assert diff.pictures == 6
    assert diff.counts == {
        (ALLOW, ALLOW): 2,
        (ALLOW, FLAG): 1,
        (FLAG, BLOCK): 1,
        (BLOCK, ALLOW): 1,
        (BLOCK, BLOCK): 1,
    }
    assert diff.changes == 3


async def test_what_changes_is_named_with_the_reasons_of_both(database: Database) -> None:
    """With the frame that decided, as in the log."""
    diff = await compare(database, "model", (OLD, NEW), 20)
    by_name = {change.sha256: change for change in diff.changed}
    assert set(by_name) == {PICTURES[n].sha256 for n in (1, 3, 4)}
    milder, stricter = by_name[PICTURES[1].sha256], by_name[PICTURES[3].sha256]
    assert (milder.old.action, milder.new.action) == (BLOCK, ALLOW)
    assert [str(r) for r in milder.old.reasons] == ["too much fire in frame 0: fire 0.914>=0.800"]
    assert milder.new.reasons == ()
    assert (stricter.old.action, stricter.new.action) == (FLAG, BLOCK)
    assert [r.where for r in (*stricter.old.reasons, *stricter.new.reasons)] == ["frame 1"] * 2


async def test_a_policy_differs_nowhere_from_itself(database: Database) -> None:
    """All are known, and none changes."""
    diff = await compare(database, "model", (OLD, OLD), 20)
    assert (diff.pictures, diff.changes, diff.changed) == (6, 0, ())


async def test_of_an_unknown_model_nothing_is_known(database: Database) -> None:
    """As at the first start with a new one."""
    diff = await compare(database, "never seen", (OLD, NEW), 20)
    assert (diff.pictures, diff.counts, diff.changed) == (0, {}, ())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Some pictures in each chunk."""
    monkeypatch.setattr(vectors, "_CHUNK_BYTES", 200)
    monkeypatch.setattr(vectors, "_ROWS_AT_ONCE", 7)
    return iter(())


@pytest.mark.parametrize("limit", [0, 1, 3, 500])
async def test_of_each_kind_of_change_the_first_few_are_named(
    tmp_path: Path, small_chunks: None, limit: int
) -> None:
    """One kind does not hide another, however many there are of it and wherever they lie."""
    frames = [PICTURES[n % 6].embeddings for n in range(600)]
    pictures = [evidence_of(n, embeddings=rows) for n, rows in enumerate(frames)]
    async with filled(tmp_path, pictures) as database:
        diff = await compare(database, "model", (OLD, NEW), limit)
    assert diff.pictures == 600
    assert diff.changes == 300
    expected = [pictures[n].sha256 for n in range(600) if n % 6 in {1, 3, 4} and n // 6 < limit]
    assert sorted(change.sha256 for change in diff.changed) == sorted(expected)


async def test_it_agrees_with_the_judge_on_each_stored_picture(
    tmp_path: Path, small_chunks: None
) -> None:
    """Random ones: the counts are those of one judgment after another."""
    pictures = [evidence_of(n, frames=1 + n % 3, dimensions=4) for n in range(500)]
    judges = judge_of(("fire", 0.5, "flag"), ("water", 0.9, "block")), NEW
    async with filled(tmp_path, pictures) as database:
        diff = await compare(database, "model", judges, 0)
    counts: dict[tuple[Action, Action], int] = {}
    for one in pictures:
        old, new = (j.judge(as_stored(one.embeddings), one.places).action for j in judges)
        counts[old, new] = counts.get((old, new), 0) + 1
    assert diff.counts == counts
    assert len(counts) > 5


async def test_a_verdict_from_stored_evidence_is_the_fresh_one(tmp_path: Path) -> None:
    """Exactly, scores and all, of what float16 leaves; of the rest but the last digits are lost."""
    judge = judge_of(("fire", 0.5, "flag"), ("water", 0.9, "block"))
    pictures = [evidence_of(n, frames=1 + n % 3, dimensions=4) for n in range(300)]
    async with filled(tmp_path, pictures) as database:
        store = EvidenceStore(database, keep_seconds=1e9, max_embeddings=1000)
        for one in pictures:
            stored = await store.get(one.sha256, one.model)
            assert stored is not None
            judged = judge.judge(stored.embeddings, stored.places)
            assert judged == judge.judge(as_stored(one.embeddings), one.places)
            fresh = judge.judge(one.embeddings, one.places)
            for a, b in zip(judged.scores, fresh.scores, strict=True):
                assert a.score == pytest.approx(b.score, abs=2.0**-11)
            near = any(abs(s.score - s.threshold) < 2.0**-11 for s in fresh.scores)
            assert near or judged.action is fresh.action


async def test_damaged_pictures_are_left_out(database: Database) -> None:
    """In their embeddings, not counted; in their places, not named."""
    await database.run(
        lambda c: c.execute("UPDATE embeddings SET vectors = zeroblob(8) WHERE picture = 1")
    )
    await database.run(lambda c: c.execute("UPDATE pictures SET places = '[' WHERE id = 2"))
    diff = await compare(database, "model", (OLD, NEW), 20)
    assert (diff.pictures, diff.changes) == (5, 3)
    assert {change.sha256 for change in diff.changed} == {PICTURES[n].sha256 for n in (3, 4)}


async def test_the_loop_and_the_database_go_on_meanwhile(database: Database) -> None:
    """A judge that takes its time holds up nobody else."""
    started, go = threading.Event(), threading.Event()

    class Slow(Judge):
        def severest(self, prompts: Float64Array) -> NDArray[np.int8]:
            started.set()
            assert go.wait(30)
            return super().severest(prompts)

    slow = Slow(NEW.policy, embed_texts, logit_scale=100.0, logit_bias=None)
    comparing = spawn(compare(database, "model", (OLD, slow), 20), name="compare")
    await until(started.is_set)
    await database.run(lambda c: c.execute("DELETE FROM unscanned"))
    assert not comparing.done()
    go.set()
    assert (await comparing).changes == 3


async def test_a_cancelled_comparison_ends_early(tmp_path: Path, small_chunks: None) -> None:
    """Its threads do not read on for nobody."""
    judged, go = [], threading.Event()

    class Counting(Judge):
        def severest(self, prompts: Float64Array) -> NDArray[np.int8]:
            judged.append(len(prompts))
            assert go.wait(30)
            return super().severest(prompts)

    counting = Counting(NEW.policy, embed_texts, logit_scale=100.0, logit_bias=None)
    before = set(threading.enumerate())
    async with filled(tmp_path, [evidence_of(n, dimensions=4) for n in range(2000)]) as database:
        comparing = spawn(compare(database, "model", (counting, NEW), 20), name="compare")
        await until(lambda: len(judged) > 0)
        comparing.cancel()
        await asyncio.wait([comparing])
        go.set()
        await until(lambda: not {t for t in set(threading.enumerate()) - before if t.daemon})
    assert sum(judged) < 1000


async def test_a_database_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    """The error that all expect, from a thread of its own too."""
    database = Database(tmp_path / "nowhere")
    with pytest.raises(StoreUnavailable, match="unable to open"):
        await compare(database, "model", (OLD, NEW), 20)


async def test_nothing_is_written(database: Database) -> None:
    """Not even by a connection that could."""
    with closing(connect(database.path)) as connection:
        before = list(connection.iterdump())
        await compare(database, "model", (OLD, NEW), 20)
        assert list(connection.iterdump()) == before
    with pytest.raises(StoreUnavailable, match="readonly"):
        await database.read(lambda c: c.execute("DELETE FROM pictures"))
