"""Tests of safety_proxy/media/sniff.py: what a file is, from its bytes alone."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safety_proxy.media.sniff import Kind, sniff
from safety_proxy.media.window import Window
from tests.pictures import BLUE, RED, animation, encoded, plain


def ftyp(*brands: bytes) -> bytes:
    """The first box of a file of these brands."""
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body


def ebml(doc_type: bytes, size: bytes | None = None) -> bytes:
    """The head of a Matroska file."""
    body = b"\x42\x86\x81\x01\x42\x82" + (size or bytes((0x80 | len(doc_type),))) + doc_type
    return b"\x1a\x45\xdf\xa3" + bytes((0x80 | len(body),)) + body


def with_profile(image: bytes) -> bytes:
    """A PNG with 100 KB between its header and the rest."""
    chunk = struct.pack(">I", 100_000) + b"iCCP" + bytes(100_004)
    return image[:33] + chunk + image[33:]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (plain(RED), Kind.PNG),
        (animation([RED, BLUE], "PNG"), Kind.APNG),
        (with_profile(plain(RED)), Kind.PNG),
        (with_profile(animation([RED, BLUE], "PNG")), Kind.APNG),
        (plain(RED, kind="JPEG"), Kind.JPEG),
        (animation([RED, BLUE], "MPO"), Kind.JPEG),
        (plain(RED, kind="GIF"), Kind.GIF),
        (plain(RED, kind="WEBP"), Kind.WEBP),
        (encoded(Image.new("RGBA", (9, 9)), "WEBP", exif=b"Exif\0\0"), Kind.WEBP),
        (animation([RED, BLUE], "WEBP"), Kind.WEBP_ANIMATION),
        (plain(RED, kind="AVIF"), Kind.AVIF),
        (animation([RED, BLUE], "AVIF"), Kind.AVIF_SEQUENCE),
        (ftyp(b"avif", b"mif1"), Kind.AVIF),
        (ftyp(b"mif1", b"miaf", b"avif"), Kind.AVIF),
        (ftyp(b"msf1", b"avif", b"avis"), Kind.AVIF_SEQUENCE),
        (ftyp(b"heic", b"mif1"), Kind.HEIC),
        (ftyp(b"mif1", b"heic"), Kind.HEIC),
        (ftyp(b"mif1"), Kind.HEIC),
        (ftyp(b"hevc", b"msf1"), Kind.HEIC),
        (ftyp(b"isom", b"iso2", b"avc1", b"mp41"), Kind.MP4),
        (ftyp(b"mp42"), Kind.MP4),
        (ftyp(b"M4V "), Kind.MP4),
        (ftyp(b"dash"), Kind.MP4),
        (ftyp(b"qt  "), Kind.QUICKTIME),
        (b"\0\0\0\x08wide\0\0\x10\0mdat", Kind.QUICKTIME),
        (b"\0\0\0\x01mdat" + bytes(8), Kind.QUICKTIME),
        (ebml(b"webm"), Kind.WEBM),
        (ebml(b"webm", b"\x40\x04"), Kind.WEBM),
        (ebml(b"matroska"), Kind.MATROSKA),
        (ebml(b"other"), Kind.UNKNOWN),
        (b"\xff\x0a\x09\x05", Kind.JXL),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", Kind.JXL),
    ],
)
def test_kind_is_told_from_the_bytes(data: bytes, kind: Kind) -> None:
    """Brands, flags and chunks included."""
    assert sniff(data) is kind
    assert sniff(Window(b"xyz" + data, 3)) is kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<?xml version='1.0'?><svg/>",
        b"<!DOCTYPE html><html></html>",
        b"%PDF-1.7",
        b"just text, and a lot of it",
        b"8BPS\0\x01",
        b"PK\x03\x04",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"\0\0\0\0\0\0\0\x18",
        b"\0\0\0\x02free",
        b"\0\0\0\x18ftyp",
        b"RIFF\x24\0\0\0WAVEfmt ",
        *(plain(RED, kind=kind) for kind in ("BMP", "TIFF", "ICO", "PPM", "TGA", "PDF", "DDS")),
    ],
)
def test_what_pictrs_does_not_take_is_unknown(data: bytes) -> None:
    """Text, active content, and other pictures."""
    assert sniff(data) is Kind.UNKNOWN


def test_animation_that_is_announced_too_late_is_none() -> None:
    """A browser does not look behind the first pixels."""
    data = animation([RED, BLUE], "PNG")
    at = data.index(b"acTL") - 4
    control, rest = data[at : at + 20], data[:at] + data[at + 20 :]
    assert sniff(rest[:-12] + control + rest[-12:]) is Kind.PNG


def test_videos_are_known_as_such() -> None:
    """All that ffprobe calls mp4 or webm, which is what pict-rs goes by."""
    assert {kind for kind in Kind if kind.is_video} == {
        Kind.MP4,
        Kind.QUICKTIME,
        Kind.WEBM,
        Kind.MATROSKA,
    }


STARTS = [b"", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftyp"]


@given(st.sampled_from(STARTS), st.binary(max_size=60))
def test_sniff_never_raises(start: bytes, rest: bytes) -> None:
    """Whatever follows a signature."""
    assert sniff(start + rest) in Kind


def test_chunks_without_end_are_left_after_a_while() -> None:
    """A megabyte of empty chunks costs no more than a hundred thousand."""
    data = plain(RED)[:33] + (bytes(4) + b"zzZz" + bytes(4)) * 100_001 + b"\0\0\0\x08acTL"
    assert sniff(data) is Kind.PNG
