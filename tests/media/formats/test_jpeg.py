"""Tests of media/formats/jpeg.py."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.formats.jpeg import read_jpeg
from safety_proxy.media.readers import prepare_decoders
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, color_of, hits, near, places
from tests.media.samples.bad_stills import many_scans, segment
from tests.media.samples.stills import with_swapped_profile
from tests.media.samples.tools import scene
from tests.pictures import PURPLE, RED, encoded, plain

PHOTO = encoded(scene(), "JPEG")
THUMBNAIL = encoded(scene(PURPLE, size=(80, 60)), "JPEG")


@pytest.fixture(autouse=True)
def _decoders() -> None:
    prepare_decoders()


def rests_of(body: bytes) -> list[Rest]:
    """What else the file holds."""
    return read_jpeg(Window(body), SPEC, Bounds(salt="a"))[1]


def named(rests: list[Rest], where: str) -> list[bytes]:
    """The bytes of those of this name."""
    return [rest.window.bytes() for rest in rests if rest.where == where]


def code_of(body: bytes, bounds: Bounds | None = None) -> str:
    """What the file is refused with."""
    with pytest.raises(UndecodableImage) as refused:
        read_jpeg(Window(body), SPEC, bounds or Bounds(salt="a"))
    return refused.value.code


def with_segments(*segments: bytes) -> bytes:
    """The photo with further segments."""
    return PHOTO[:2] + b"".join(segments) + PHOTO[2:]


def test_plain_file_holds_nothing_else_of_note() -> None:
    """Its frames, its JFIF header, and an empty tail."""
    frames, rests = read_jpeg(Window(b"xy" + PHOTO, 2), SPEC, Bounds(salt="a"), where="a", few=True)
    assert places(frames) == ["a", "a, whole picture"]
    assert [rest.where for rest in rests] == ["JFIF thumbnail", "after the end"]
    assert len(rests[-1].window) == 0
    assert rests[-1].is_tail


def test_large_one_is_decoded_smaller_and_looks_the_same() -> None:
    """A level or two apart from a full decode."""
    image = scene(size=(1500, 1100))
    body = encoded(image, "JPEG", quality=95)
    crop = read_jpeg(Window(body), CropSpec(64, 64), Bounds())[0][0].crop.astype(int)
    width = round(64 * 1500 / 1100)
    left = (width - 64) // 2
    whole = image.resize((width, 64), Image.Resampling.BICUBIC).crop((left, 0, left + 64, 64))
    difference = np.abs(crop - np.asarray(whole).astype(int))
    assert difference.mean() < 2.5


@pytest.mark.parametrize(
    ("marker", "head", "where"),
    [
        (0xE1, b"Exif\0\0", "EXIF thumbnail"),
        (0xE0, b"JFXX\0\x10", "JFIF thumbnail"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0", "metadata"),
        (0xED, b"Photoshop 3.0\0", "metadata"),
        (0xEE, b"Adobe\0d\0\0\0\0\0", "metadata"),
        (0xEF, b"", "metadata"),
        (0xFE, b"a comment", "metadata"),
        (0xDC, b"", "metadata"),
    ],
)
def test_every_segment_with_room_is_looked_into(marker: int, head: bytes, where: str) -> None:
    """Also those of which the decoder makes something."""
    body = with_segments(segment(marker, head + THUMBNAIL))
    assert head + THUMBNAIL in named(rests_of(body), where)


@pytest.mark.parametrize(
    ("marker", "head"),
    [
        (0xE1, b"Exif\0\0"),
        (0xE2, b"ICC_PROFILE\0\1\2"),
        (0xE2, b"FPXR\0\0\2\0\0\0\0\0\0"),
        (0xEB, b"JP\0\1\0\0\0\1\0\0\1\0jumb"),
        (0xED, b"Photoshop 3.0\0"),
        (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 40),
    ],
)
def test_what_goes_on_in_the_next_segment_is_joined(marker: int, head: bytes) -> None:
    """Without the head that each of them has."""
    parts = (THUMBNAIL[:700], THUMBNAIL[700:])
    body = with_segments(*(segment(marker, head + part) for part in parts))
    assert THUMBNAIL in named(rests_of(body), "metadata")


def test_metadata_does_not_reach_the_decoder() -> None:
    """A list of further pictures that leads nowhere changes nothing."""
    body = with_segments(segment(0xE2, b"MPF\0MM\0*" + b"\xff" * 200))
    frames, rests = read_jpeg(Window(body), SPEC, Bounds())
    assert places(frames) == ["", "whole picture"]
    assert rests[-1].where == "second picture"


def test_tail_is_what_follows_the_end_mark() -> None:
    """All of it."""
    assert rests_of(PHOTO + b"rest")[-1].window.bytes() == b"rest"


def test_picture_between_scan_and_end_mark_is_within_the_data() -> None:
    """As where the end mark is missing and another file follows."""
    body = PHOTO[:-2] + THUMBNAIL
    rests = rests_of(body)
    (data,) = named(rests, "within the data")
    assert data.endswith(THUMBNAIL)
    png = encoded(scene(PURPLE))
    (data,) = named(rests_of(PHOTO[:-2] + png + PHOTO[-2:]), "within the data")
    assert data.endswith(png + PHOTO[-2:])


@pytest.mark.parametrize("cut", [2, 40, 400])
def test_file_that_breaks_off_gives_what_it_has(cut: int) -> None:
    """Without its end mark there is no tail."""
    frames, rests = read_jpeg(Window(encoded(scene(PURPLE), "JPEG")[:-cut]), SPEC, Bounds())
    assert hits(frames)
    assert not any(rest.is_tail for rest in rests)


def test_file_that_breaks_off_before_its_data_is_damaged() -> None:
    """A gray area would be no picture of it."""
    data = PHOTO.index(b"\xff\xda")
    assert code_of(PHOTO[: data + 14]) == "damaged"


def test_gray_picture_is_a_picture() -> None:
    """Of which nothing is missing, or the end mark alone if it is of another gray."""
    gray = encoded(Image.new("RGB", (64, 64), (128, 128, 128)), "JPEG")
    assert read_jpeg(Window(gray), SPEC, Bounds())[0]
    light = encoded(Image.new("RGB", (64, 64), (190, 190, 190)), "JPEG")
    assert read_jpeg(Window(light[:-2]), SPEC, Bounds())[0]


def bad_component(body: bytes) -> bytes:
    """A scan of a component that the picture has not."""
    at = body.index(b"\xff\xda") + 5
    return body[:at] + b"\x09" + body[at + 1 :]


def without_tables(body: bytes) -> bytes:
    """Nothing to decode it with."""
    return body.replace(b"\xff\xdb", b"\xff\xed")


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("damage", [bad_component, without_tables])
def test_whole_file_of_which_nothing_can_be_decoded_is_damaged(
    mode: str, damage: Callable[[bytes], bytes]
) -> None:
    """The decoder says nothing, and leaves all pixels black."""
    assert code_of(damage(encoded(scene().convert(mode), "JPEG"))) == "damaged"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("level", [0, 1, 2, 255])
@pytest.mark.parametrize("side", [1, 8])
def test_picture_of_one_color_is_a_picture(mode: str, level: int, side: int) -> None:
    """Also a black one."""
    body = encoded(Image.new(mode, (side, side), (level,) * len(mode)), "JPEG", quality=100)
    frames, _ = read_jpeg(Window(body), SPEC, Bounds())
    expected = 255 - level if mode == "CMYK" else level
    assert near(color_of(frames[0]), (expected,) * 3)


def test_number_of_scans_is_bounded() -> None:
    """By itself, and by what all of them cost: the usual ten over a large picture are allowed."""
    assert code_of(many_scans(100, 16)) == "too-large"
    assert read_jpeg(Window(many_scans(80, 16)), SPEC, Bounds())[0]
    assert code_of(many_scans(40, 5000)) == "too-large"


def test_number_of_segments_is_bounded() -> None:
    """A file of nothing else."""
    assert code_of(with_segments(segment(0xFE, b"") * 20_001)) == "too-large"


def test_picture_over_the_bound_is_refused() -> None:
    """Before it is decoded."""
    assert code_of(plain(RED, size=(101, 100), kind="JPEG"), Bounds(frame_pixels=10_000)) == (
        "too-large"
    )


def test_profile_in_several_segments() -> None:
    """Put together by number."""
    image = Image.new("RGB", (40, 40), (0, 255, 0))
    profile = bytearray(_swapping())
    half = len(profile) // 2
    parts = [(2, profile[half:]), (1, profile[:half])]
    segments = [segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 2)) + part) for n, part in parts]
    body = encoded(image, "JPEG", quality=95)
    frames, _ = read_jpeg(Window(body[:2] + b"".join(segments) + body[2:]), SPEC, Bounds())
    assert places(frames) == ["", "colors as stored"]
    assert near(color_of(frames[0]), (255, 0, 0), 30)


def _swapping() -> bytes:
    """A profile that exchanges red and green."""
    with Image.open(io.BytesIO(with_swapped_profile(PURPLE))) as image:
        profile: bytes = image.info["icc_profile"]
    return profile


def test_segment_that_is_shorter_than_its_length_says() -> None:
    """Nothing is left to decode."""
    with pytest.raises(SyntaxError):  # which read_frames knows as what decoders do
        read_jpeg(Window(b"\xff\xd8\xff\xe1\xff\xff" + bytes(100)), SPEC, Bounds())


def test_marker_at_the_very_end() -> None:
    """Without the length that would follow."""
    with pytest.raises(SyntaxError):
        read_jpeg(Window(b"\xff\xd8\xff\xe1"), SPEC, Bounds())


def test_short_segments() -> None:
    """Of a length that is not even its own, or a profile without a number."""
    odd = [struct.pack(">BBH", 0xFF, 0xE1, length) for length in (0, 1, 2)]
    for body in (odd[2], segment(0xE2, b"ICC_PROFILE\0"), segment(0xEE, b"Ado")):
        assert rests_of(with_segments(body))
