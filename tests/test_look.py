"""Tests of safety_proxy/look.py: what is seen of a file, with the bounds of the settings."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from safety_proxy.crops import CropSpec
from safety_proxy.deadline import Deadline
from safety_proxy.errors import ScanTimeout, UndecodableImage
from safety_proxy.evidence import Pdq
from safety_proxy.inference.batcher import Batcher
from safety_proxy.look import Look, Viewer
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.fingerprint import Fingerprint
from safety_proxy.metrics import Metrics
from safety_proxy.settings import Settings
from safety_proxy.store.vectors import as_stored
from tests.fakes import FakeEmbedder, InProcessDecoders
from tests.pictures import BLUE, RED, animation, plain
from tests.test_scanner import media_of, soon

SPEC = CropSpec(8, 8)


@asynccontextmanager
async def viewing(
    decoding: Callable[..., list[Frame]] | None = None, **sections: dict[str, Any]
) -> AsyncIterator[tuple[Viewer, Metrics]]:
    """A viewer; `sections` are settings."""
    metrics, decoders = Metrics(), InProcessDecoders()
    decoders.decoding = decoding or decoders.decoding
    yield Viewer(Settings.model_validate(sections), decoders, metrics), metrics
    await decoders.aclose()


async def look_at(viewer: Viewer, body: bytes, deadline: Deadline | None = None) -> Look:
    with await media_of(body) as media:
        return await viewer.look(media.hold(), media.sha256, SPEC, deadline or soon())


async def test_a_look_names_the_file_and_has_its_frames() -> None:
    """Those that are to be shown to the model; the time is counted."""
    body = animation([RED, BLUE])
    async with viewing() as (viewer, metrics):
        look = await look_at(viewer, body)
    assert look.sha256 == hashlib.sha256(body).hexdigest()
    assert look.named.sha1 == hashlib.sha1(body, usedforsecurity=False).hexdigest()
    assert look.named.media_type == "image/gif"
    assert [tuple(frame.crop[0, 0]) for frame in look.frames] == [RED, BLUE]
    assert metrics.latencies()["decode"].count == 1


async def test_the_settings_are_the_bounds() -> None:
    """Each of them reaches the decoder."""
    given: list[Bounds] = []

    def decode(data: bytes, spec: CropSpec, bounds: Bounds) -> list[Frame]:
        given.append(bounds)
        return [Frame(np.zeros((8, 8, 3), np.uint8), "")]

    limits = {
        "max_frame_pixels": 101,
        "max_total_pixels": 102,
        "max_frames": 103,
        "max_gap_seconds": 1.5,
    }
    async with viewing(
        decode, limits=limits, scan={"hidden": "refuse"}, lists={"turned": True}
    ) as (viewer, _):
        await look_at(viewer, plain(RED))
    assert given == [Bounds(101, 102, 103, gap_seconds=1.5, hidden="refuse", turned=True)]


async def test_other_bounds_or_another_release_are_another_look() -> None:
    """A restart is not."""
    sections: list[dict[str, Any]] = [
        {},
        {"limits": {"max_frames": 7}},
        {"limits": {"max_gap_seconds": 7}},
        {"scan": {"hidden": "refuse"}},
        {"lists": {"turned": True}},
    ]
    versions = []
    for settings in [*sections, *sections]:
        async with viewing(**settings) as (viewer, _):
            versions.append(viewer.version)
    assert len(set(versions)) == len(sections)
    assert versions[: len(sections)] == versions[len(sections) :]


@pytest.mark.parametrize("body", [b"", b"no picture"])
async def test_what_cannot_be_read_has_no_look(body: bytes) -> None:
    """Nor has what would end too late; its bytes have a name all the same, where there are any."""
    async with viewing() as (viewer, _):
        with pytest.raises(UndecodableImage):
            await look_at(viewer, body)
        with pytest.raises(ScanTimeout):
            await look_at(viewer, plain(RED), Deadline.after(-1))
        if body:
            with await media_of(body) as media:
                named = await viewer.name(media.hold())
            assert named.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest()


async def test_frames_are_embedded_together() -> None:
    """In one pass, in their order."""
    embedder = FakeEmbedder()
    async with viewing() as (viewer, metrics):
        look = await look_at(viewer, animation([RED, BLUE]))
        batcher = Batcher(embedder, batch_limit=32, metrics=metrics)
        rows = await viewer.embed(look.frames, batcher)
        await batcher.aclose()
    assert embedder.batches == [2]
    assert rows.argmax(axis=1).tolist() == [0, 2]
    assert metrics.latencies()["embed"].count == 1


def test_evidence_is_what_will_be_stored() -> None:
    """Embeddings of float16, a place for each, and each PDQ hash once, in the order of frames."""
    crop = np.zeros((8, 8, 3), np.uint8)
    first, second = Pdq(b"\1" * 32, 100), Pdq(b"\2" * 32, 50)
    look = Look(
        "a" * 64,
        Fingerprint("b" * 40, "c" * 32, "image/gif", "shown"),
        [Frame(crop, "frame 0", pdq=(second, first)), Frame(crop, "frame 1", pdq=(first,))],
        "version",
    )
    rows = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    evidence = look.evidence("model", rows)
    assert (evidence.sha256, evidence.sha1, evidence.md5) == ("a" * 64, "b" * 40, "c" * 32)
    assert (evidence.model, evidence.media_type) == ("model", "image/gif")
    assert evidence.look == "version"
    assert evidence.places == ("frame 0", "frame 1")
    assert evidence.pdq == look.pdq == (second, first)
    assert np.array_equal(evidence.embeddings, as_stored(rows))
    assert not np.array_equal(evidence.embeddings, rows)
