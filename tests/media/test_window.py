"""Tests of safety_proxy/media/window.py: parts of a file, and files of parts."""

import io
import mmap
import re
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.media.window import Spliced, Window

DATA = bytes(range(100))


def test_window_counts_from_its_start() -> None:
    """In all that it offers."""
    window = Window(DATA, 10, 50)
    assert len(window) == 40
    assert window[0:3] == DATA[10:13]
    assert window[38:99] == DATA[48:50]
    assert window.byte(1) == 11
    assert window.number(0, 2) == 10 * 256 + 11
    assert window.number(0, 2, little=True) == 11 * 256 + 10
    assert window.search(re.compile(b"\x14"), 2) == 10
    assert window.search(re.compile(b"\x05")) is None
    assert window.search(re.compile(b"\x3c")) is None
    assert window.bytes() == DATA[10:50]


@pytest.mark.parametrize(("start", "end"), [(0, 200), (90, 10), (300, 400), (-5, 5)])
def test_window_is_never_larger_than_its_data(start: int, end: int) -> None:
    """Whatever a file's numbers say."""
    window = Window(DATA, start, end)
    assert len(window) == len(window.bytes()) <= 100
    part = window.part(max(0, start), end)
    assert len(part) == len(part.bytes()) <= len(window)


def test_part_of_a_part() -> None:
    """Counts from its own start, and ends where the whole does."""
    part = Window(DATA, 10, 50).part(5, 20).part(10, 99)
    assert part.bytes() == DATA[25:30]


@pytest.mark.parametrize("offset", [-1, 40, 1000])
def test_byte_past_the_end(offset: int) -> None:
    """Is an error, on either side."""
    with pytest.raises(IndexError):
        Window(DATA, 10, 50).byte(offset)


def test_number_past_the_end() -> None:
    """Is an error, and not a smaller number."""
    with pytest.raises(EOFError):
        Window(DATA, 10, 50).number(38, 4)


def test_whole_is_copied_only_if_it_is_a_part() -> None:
    """The bytes themselves come back, where they are all."""
    assert Window(DATA).whole() is DATA
    assert Window(DATA, 1).whole() == DATA[1:]


def test_map_can_be_closed_after_it_was_read() -> None:
    """Nothing holds on to it."""
    with tempfile.TemporaryFile() as file:
        file.write(DATA)
        file.flush()
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        window = Window(view).part(10)
        spliced = Spliced([window, b"x", window.part(3)])
        assert spliced.read() == DATA[10:] + b"x" + DATA[13:]
        assert window.search(re.compile(b"\x20")) == 22
        view.close()


@given(
    st.lists(st.binary(max_size=5), max_size=6),
    st.lists(st.tuples(st.sampled_from("rst"), st.integers(-3, 40)), max_size=12),
)
def test_spliced_reads_like_a_file_of_the_same_bytes(
    pieces: list[bytes], steps: list[tuple[str, int]]
) -> None:
    """In any order of reads and seeks."""
    spliced = Spliced([Window(b"-" + piece, 1) for piece in pieces])
    plain = io.BytesIO(b"".join(pieces))
    size = len(plain.getvalue())
    for step, number in steps:
        if step == "r":
            assert spliced.read(number) == plain.read(number)
        elif step == "s":
            place = min(max(number, 0), size)
            assert spliced.seek(number) == plain.seek(place)
        assert spliced.tell() == plain.tell()


def test_seek_from_the_end_and_from_here() -> None:
    """As decoders do."""
    spliced = Spliced([b"abc", b"defg"])
    assert spliced.seek(-2, io.SEEK_END) == 5
    assert spliced.seek(-1, io.SEEK_CUR) == 4
    assert spliced.read(2) == b"ef"
    assert spliced.seekable()
    spliced.close()
