"""Tests of safety_proxy/store/pictures.py: what goes into the rows comes out of them."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from safety_proxy.evidence import Pdq
from safety_proxy.store.pictures import (
    read_evidence,
    read_known,
    read_name,
    write_evidence,
    write_verdict,
)
from safety_proxy.store.vectors import as_stored
from safety_proxy.verdict import Action, ConceptScore, Reason, Source, Verdict
from tests.store.made import directions, evidence_of, filled

PICTURE = evidence_of(7, frames=3)

VERDICT = Verdict(
    Action.BLOCK,
    (
        Reason("fire-and-water", (ConceptScore("fire", 0.75, 0.5, 3),), "frame 2, left half"),
        Reason("a reason", detail="of „words“"),
    ),
    PICTURE.sha256,
    PICTURE.model,
    "0123456789ab",
    Source.POLICY,
)


async def test_evidence_comes_back_as_it_was(tmp_path: Path) -> None:
    """All of it; the embeddings as they are stored."""
    async with filled(tmp_path, [evidence_of(1), PICTURE, evidence_of(2)]) as database:
        read = await database.run(lambda c: read_evidence(c, PICTURE.sha256, PICTURE.model))
    assert read is not None
    assert np.array_equal(read.embeddings, as_stored(PICTURE.embeddings))
    for name in ("sha256", "sha1", "md5", "media_type", "model", "places", "pdq"):
        assert getattr(read, name) == getattr(PICTURE, name)


@pytest.mark.parametrize("pdq", [(), (Pdq(b"\0" * 32, 0), Pdq(b"\xff" * 32, 100))])
async def test_any_number_of_pdq_hashes_is_kept(tmp_path: Path, pdq: tuple[Pdq, ...]) -> None:
    """None of a picture too small for one; one for each frame."""
    async with filled(tmp_path, [replace(PICTURE, pdq=pdq)]) as database:
        read = await database.run(lambda c: read_evidence(c, PICTURE.sha256, PICTURE.model))
    assert read is not None
    assert read.pdq == pdq


async def test_models_are_apart(tmp_path: Path) -> None:
    """Embeddings of one say nothing about another."""
    other = replace(PICTURE, model="other", embeddings=directions(3, 8, seed=9))
    async with filled(tmp_path, [PICTURE, other]) as database:
        for evidence in (PICTURE, other):
            model = evidence.model
            read = await database.run(lambda c: read_evidence(c, PICTURE.sha256, model))  # noqa: B023 -- run at once
            assert read is not None
            assert np.array_equal(read.embeddings, as_stored(evidence.embeddings))
        assert await database.run(lambda c: read_evidence(c, PICTURE.sha256, "third")) is None


async def test_a_second_scan_replaces_the_first(tmp_path: Path) -> None:
    """As after a change of how many frames are looked at; the verdict stays."""
    again = replace(PICTURE, embeddings=directions(1, 16, seed=3), places=("frame 0",))
    async with filled(tmp_path, [PICTURE]) as database:
        await database.run(lambda c: write_verdict(c, VERDICT))
        await database.run(lambda c: write_evidence(c, again))
        read = await database.run(lambda c: read_evidence(c, PICTURE.sha256, PICTURE.model))
        known = await database.run(lambda c: read_known(c, PICTURE.sha256))
        counts = await database.run(
            lambda c: c.execute(
                "SELECT (SELECT count(*) FROM pictures), (SELECT count(*) FROM embeddings)"
            ).fetchone()
        )
    assert read is not None
    assert read.places == ("frame 0",)
    assert np.array_equal(read.embeddings, as_stored(again.embeddings))
    assert [entry.verdict for entry in known] == [VERDICT]
    assert counts == (1, 1)


@pytest.mark.parametrize("first", ["verdict", "evidence"])
async def test_the_latest_verdict_is_known_with_its_reasons(tmp_path: Path, first: str) -> None:
    """Whichever of the two is written first."""
    async with filled(tmp_path, [PICTURE] if first == "evidence" else []) as database:
        allowed = replace(VERDICT, action=Action.ALLOW, reasons=(), policy="an older one")
        await database.run(lambda c: write_verdict(c, allowed))
        await database.run(lambda c: write_verdict(c, VERDICT))
        if first == "verdict":
            await database.run(lambda c: write_evidence(c, PICTURE))
        [known] = await database.run(lambda c: read_known(c, PICTURE.sha256))
        read = await database.run(lambda c: read_evidence(c, PICTURE.sha256, PICTURE.model))
    assert known.verdict == VERDICT
    assert (known.sha256, known.model, known.media_type) == (
        PICTURE.sha256,
        PICTURE.model,
        "image/webp",
    )
    assert known.decided_at is not None
    assert known.first_seen <= known.decided_at
    assert read is not None


async def test_a_verdict_alone_is_no_evidence(tmp_path: Path) -> None:
    """A file that no picture can be read from has one, and no embeddings."""
    unreadable = replace(VERDICT, source=Source.UNREADABLE)
    async with filled(tmp_path, []) as database:
        await database.run(lambda c: write_verdict(c, unreadable))
        assert await database.run(lambda c: read_evidence(c, VERDICT.sha256, "model")) is None
        [known] = await database.run(lambda c: read_known(c, VERDICT.sha256))
    assert known.verdict == unreadable
    assert known.media_type is None


async def test_evidence_alone_has_no_verdict(tmp_path: Path) -> None:
    """As after a crash between the two."""
    async with filled(tmp_path, [PICTURE]) as database:
        [known] = await database.run(lambda c: read_known(c, PICTURE.sha256))
        assert await database.run(lambda c: read_known(c, evidence_of(8).sha256)) == ()
    assert known.verdict is None
    assert known.decided_at is None


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE embeddings SET vectors = zeroblob(96)",
        "UPDATE embeddings SET vectors = substr(vectors, 1, 64)",  # a frame less than places
        "UPDATE embeddings SET vectors = x''",
        "UPDATE pictures SET places = 'no JSON'",
        "UPDATE models SET dimensions = 7",
        "DELETE FROM embeddings",
    ],
)
async def test_damaged_evidence_is_none(tmp_path: Path, damage: str) -> None:
    """So that the picture is scanned, which puts it right."""
    async with filled(tmp_path, [PICTURE]) as database:
        await database.run(lambda c: c.execute(damage))
        assert await database.run(lambda c: read_evidence(c, PICTURE.sha256, "model")) is None
        await database.run(lambda c: write_evidence(c, PICTURE))
        assert await database.run(lambda c: read_evidence(c, PICTURE.sha256, "model")) is not None


async def test_a_picture_is_named_by_its_id(tmp_path: Path) -> None:
    """None once it was swept away; its id is not given to another."""

    def drop_last(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM pictures WHERE id = 2")
        connection.execute("DELETE FROM embeddings WHERE picture = 2")
        write_evidence(connection, evidence_of(3))

    async with filled(tmp_path, [evidence_of(1), PICTURE]) as database:
        assert await database.run(lambda c: read_name(c, 2)) == (PICTURE.sha256, PICTURE.places)
        await database.run(drop_last)
        assert await database.run(lambda c: read_name(c, 2)) is None
        assert await database.run(lambda c: read_name(c, 3)) == (
            evidence_of(3).sha256,
            ("frame 0",),
        )
