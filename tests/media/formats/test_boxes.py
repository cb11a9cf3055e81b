"""Tests of media/formats/boxes.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.media.formats.boxes import Box, boxes, first
from safety_proxy.media.window import Window
from tests.media.samples.boxes import box, numbers


def found(data: bytes, start: int = 0, end: int | None = None) -> list[tuple[bytes, bytes]]:
    """Kind and content of each box."""
    return [(one.kind, data[one.content : one.end]) for one in boxes(Window(data), start, end)]


def test_boxes_come_in_order() -> None:
    """With their content."""
    data = box(b"ftyp", b"avif") + box(b"meta") + box(b"mdat", b"abc")
    assert found(data) == [(b"ftyp", b"avif"), (b"meta", b""), (b"mdat", b"abc")]


def test_boxes_of_a_stretch() -> None:
    """Inside another, whose end they do not pass."""
    inner = box(b"aaaa", b"1") + box(b"bbbb", b"2", size=100)
    data = box(b"moov", inner) + box(b"mdat")
    assert found(data, 8, 8 + len(inner)) == [(b"aaaa", b"1"), (b"bbbb", b"2")]


def test_size_of_64_bits() -> None:
    """Follows the name."""
    data = numbers(1) + b"mdat" + numbers(0, 19) + b"abc" + box(b"free")
    assert found(data) == [(b"mdat", b"abc"), (b"free", b"")]


def test_box_up_to_the_end() -> None:
    """Has a size of 0."""
    assert found(box(b"mdat", b"abc", size=0)) == [(b"mdat", b"abc")]


@pytest.mark.parametrize("size", [2, 7])
def test_size_that_no_box_has_ends_them(size: int) -> None:
    """Nothing behind it can be found."""
    assert found(box(b"free") + box(b"mdat", size=size) + box(b"free")) == [(b"free", b"")]


def test_large_size_smaller_than_its_header_ends_them() -> None:
    """The same with 64 bits."""
    assert found(numbers(1) + b"mdat" + numbers(0, 15) + box(b"free")) == []


def test_last_box_may_be_cut_short() -> None:
    """It ends where the file does."""
    assert found(box(b"mdat", b"abcdef")[:-3]) == [(b"mdat", b"abc")]


def test_number_of_boxes_is_bounded() -> None:
    """A file of nothing but headers costs no more."""
    assert len(found(box(b"free") * 20_000)) == 10_000


def test_first_of_a_kind() -> None:
    """None if there is none."""
    data = box(b"free") + box(b"trak", b"1") + box(b"trak", b"2")
    assert first(Window(data), b"trak") == Box(b"trak", 8, 16, 17)
    assert first(Window(data), b"moov") is None


@given(st.binary(max_size=60))
def test_any_bytes_end(data: bytes) -> None:
    """Boxes move on and stay within."""
    at = 0
    for one in boxes(Window(data)):
        assert at <= one.start < one.content <= one.end <= len(data)
        at = one.start + 8
