"""Tests of media/formats/exif.py."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safety_proxy.media.formats.exif import orientation_of


def tiff(orientation: int, order: str = "<", *, kind: int = 3) -> bytes:
    """EXIF of one other entry, then the orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    other = struct.pack(f"{order}HHIHH", 0x0100, 3, 1, 77, 0)
    entry = struct.pack(f"{order}HHIHH", 0x0112, kind, 1, orientation, 0)
    return head + struct.pack(f"{order}H", 2) + other + entry + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_found(order: str, prefix: bytes, orientation: int) -> None:
    """In either byte order, and behind a doubled head, which some programs write."""
    assert orientation_of(prefix + tiff(orientation, order)) == orientation


def test_as_pillow_writes_it() -> None:
    """Among other entries."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", 6, "program"
    assert orientation_of(exif.tobytes()) == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"garbage",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        tiff(0),
        tiff(9),
        tiff(6, kind=5),
        tiff(6)[:20],
    ],
)
def test_broken_metadata_is_upright(exif: bytes) -> None:
    """The picture is read as it is stored."""
    assert orientation_of(exif) == 1


@given(st.binary(max_size=80))
def test_any_bytes_give_an_orientation(noise: bytes) -> None:
    """1 to 8."""
    for exif in (noise, b"MM\0*" + noise, b"II*\0\x08\0\0\0" + noise):
        assert 1 <= orientation_of(exif) <= 8
