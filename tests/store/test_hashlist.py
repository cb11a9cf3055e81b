"""Tests of safety_proxy/store/hashlist.py: digests that need no model, the test picture's first."""

import hashlib
import io

import pytest
from PIL import Image

from safety_proxy.store.hashlist import TEST_PICTURE_LIST, BlockList
from safety_proxy.store.hashlist import test_picture as harmless_picture


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    "entries",
    [None, {}, {digest(b"other"): "a list"}, {digest(harmless_picture()): "a list of theirs"}],
)
def test_the_test_picture_is_always_listed(entries: dict[str, str] | None) -> None:
    """By the digest of the very file that is handed out, and under its own name."""
    assert BlockList(entries).match(digest(harmless_picture())) == TEST_PICTURE_LIST


def test_the_test_picture_is_one_that_anybody_can_upload() -> None:
    """A small PNG, that pict-rs itself would take."""
    body = harmless_picture()
    with Image.open(io.BytesIO(body)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) >= 64
    assert len(body) < 100_000


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_look_alike_is_not_listed(place: int) -> None:
    """One byte changed, or one added, is another file."""
    body = bytearray(harmless_picture())
    body[place] ^= 1
    assert BlockList().match(digest(bytes(body))) is None
    assert BlockList().match(digest(harmless_picture() + b"\0")) is None


def test_an_entry_names_its_list() -> None:
    """For the log; what is not listed has no name."""
    block_list = BlockList({digest(b"listed"): "a list"})
    assert block_list.match(digest(b"listed")) == "a list"
    assert block_list.match(digest(b"not listed")) is None


def test_a_list_does_not_change_with_what_it_was_made_of() -> None:
    """Its entries are its own."""
    entries = {digest(b"a"): "a list"}
    block_list = BlockList(entries)
    entries.clear()
    assert block_list.match(digest(b"a")) == "a list"
