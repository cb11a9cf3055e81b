"""Tests of safety_proxy/media/fingerprint.py: what names a file beside its sha256."""

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest

from safety_proxy.media.bounds import Frame
from safety_proxy.media.fingerprint import _MEDIA_TYPES, Fingerprint, fingerprint
from safety_proxy.media.sniff import Kind
from safety_proxy.media.spool import Media
from tests.pictures import BLUE, RED, animation, plain


def frame(color: int, where: str = "") -> Frame:
    return Frame(np.full((4, 4, 3), color, np.uint8), where)


def named(folder: Path, body: bytes, *frames: Frame) -> Fingerprint:
    file = folder / "file"
    file.write_bytes(body)
    with Media.from_path(file) as media:
        return fingerprint(media.hold(), frames)


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    """As lists of others have them, over more than one block."""
    body = plain(RED) + bytes(3_000_000)
    it = named(tmp_path, body, frame(1))
    assert it.sha1 == hashlib.sha1(body, usedforsecurity=False).hexdigest()
    assert it.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (plain(RED), "image/png"),
        (plain(RED, kind="JPEG"), "image/jpeg"),
        (plain(RED, kind="WEBP"), "image/webp"),
        (animation([RED, BLUE]), "image/gif"),
        (animation([RED, BLUE], "PNG"), "image/apng"),
        (b"no picture", "application/octet-stream"),
        (b"x", "application/octet-stream"),
    ],
)
def test_the_type_is_that_of_the_bytes(tmp_path: Path, body: bytes, media_type: str) -> None:
    """Whatever its name says."""
    assert named(tmp_path, body).media_type == media_type


def test_every_kind_has_a_type() -> None:
    """One that is missing would fail the scan of such a file."""
    assert set(_MEDIA_TYPES) == set(Kind)


def test_the_look_is_that_of_crops_and_places_alone(tmp_path: Path) -> None:
    """One bit of one crop, another order, number or place makes another."""
    looks = [
        [frame(1)],
        [frame(2)],
        [frame(1, "frame 1")],
        [frame(1), frame(2)],
        [frame(2), frame(1)],
        [frame(1), frame(1)],
        [],
    ]
    shown = [named(tmp_path, plain(RED), *frames).shown for frames in looks]
    assert len(set(shown)) == len(looks)
    assert shown == [named(tmp_path, plain(BLUE), *frames).shown for frames in looks]


def test_a_media_that_was_closed_meanwhile_is_read_all_the_same(tmp_path: Path) -> None:
    """Its client may leave while this goes on in a thread."""
    file = tmp_path / "file"
    file.write_bytes(plain(RED))

    async def left() -> Fingerprint:
        with await asyncio.to_thread(Media.from_path, file) as media:
            held = media.hold()
        return await asyncio.to_thread(fingerprint, held, [frame(1)])

    assert asyncio.run(left()) == named(tmp_path, plain(RED), frame(1))
