"""Tests of safety_proxy/media/frames.py: from the bytes of a file to all that is judged of it.

Here are stills as they come from the field: damaged, oddly colored, turned, with more in them than
one picture, or of a type that is not taken.
"""

import io
import mmap
import struct
import tempfile
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media import frames as frames_module
from safety_proxy.media.bounds import Bounds, Code, Frame
from safety_proxy.media.frames import read_frames
from tests.media.looks import SPEC, color_of, hits, look, near, places
from tests.media.making import made_by_or_skip
from tests.media.samples import hidden, stills
from tests.media.samples.animations import animated
from tests.media.samples.bad_stills import (
    PNG,
    exif,
    header,
    jpeg,
    mpo,
    png,
    segment,
    solid_png,
)
from tests.media.samples.boxes import film
from tests.media.samples.tools import HARMLESS, made_by, scene, scenes
from tests.pictures import BLUE, PURPLE, RED, Color, encoded, plain

REFUSING = Bounds(hidden="refuse")
KINDS = ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "JXL"]


def code_of(body: bytes, bounds: Bounds | None = None) -> str:
    """What the file is refused with."""
    with pytest.raises(UndecodableImage) as refused:
        look(body, bounds=bounds)
    return refused.value.code


def is_found(make: Callable[[Color], bytes]) -> bool:
    """Whether the purple is seen in the file, which without it is clean."""
    assert not hits(look(make(HARMLESS)))
    return bool(hits(look(make(PURPLE))))


# The contract.


@pytest.mark.parametrize("kind", KINDS)
def test_first_frame_is_the_model_s_own_view(kind: str) -> None:
    """Of the size that it takes, 8 bit RGB."""
    frames = look(plain((200, 60, 30), kind=kind, size=(64, 64)), CropSpec(24, 48))
    assert frames[0].where == ""
    assert {frame.crop.shape for frame in frames} == {(24, 48, 3)}
    assert {frame.crop.dtype.name for frame in frames} == {"uint8"}
    assert near(color_of(frames[0]), (200, 60, 30))


def test_mapped_file_is_read_like_bytes() -> None:
    """And can be closed afterwards: nothing holds on to it."""
    body = animated(scenes(3, {1}, PURPLE), "GIF")
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = places(read_frames(view, SPEC, Bounds(salt="a")))
    view.close()
    assert found == places(look(body))


def test_what_is_hidden_comes_after_what_is_shown() -> None:
    """Named by its place."""
    body = encoded(scene(), "JPEG") + encoded(scene(PURPLE), "JPEG")
    assert places(look(body)) == [
        "",
        "whole picture",
        "after the end",
        "after the end, whole picture",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), Code.TOO_LARGE),
        (ValueError("odd"), Code.DAMAGED),
        (IndexError(7), Code.DAMAGED),
        (RecursionError(), Code.DAMAGED),
    ],
)
def test_any_exception_of_a_decoder_is_undecodable(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: Code
) -> None:
    """Whatever invariant a file has broken."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(frames_module, "read_any", fail)
    with pytest.raises(UndecodableImage) as refused:
        look(b"")
    assert refused.value.code == code
    assert refused.value.__cause__ is error


# Types that are not taken, whatever their name says; and what they would load is not loaded.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"GIF",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>",
        b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
        b"\n <SVG onload='alert(1)'/>",
        b"<!DOCTYPE html><html><img src='data:image/png;base64,iVBORw0KGgo='></html>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        b"\x1f\x8b\x08\0svgz",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        b"8BPS\0\1" + bytes(30),
        b"\xff\x4f\xff\x51\0\x2f",
        *(plain(RED, kind=kind) for kind in ("BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000")),
    ],
)
def test_type_that_pictrs_does_not_take_is_refused(body: bytes) -> None:
    """Active content, and pictures of other kinds."""
    assert code_of(body) == Code.NOT_A_PICTURE


def test_picture_behind_active_content_is_not_taken_for_one() -> None:
    """The first bytes say what a browser takes it for."""
    assert code_of(b"<svg></svg>" + encoded(scene())) == Code.NOT_A_PICTURE


@pytest.mark.parametrize(
    "start", [encoded(scene())[:8], b"GIF89a", b"RIFF\0\0\0\0WEBP", b"\xff\x0a"]
)
def test_bare_signature_is_damaged(start: bytes) -> None:
    """It is of the type, and holds nothing."""
    assert code_of(start) == Code.DAMAGED


# Few bytes, many pixels; and large pictures that are real.


@pytest.mark.parametrize(
    "body",
    [
        PNG + header(100_000, 100_000),
        PNG + header(2**31 - 1, 1),
        jpeg((64_250, 64_250)),
        solid_png(12_000, 10_000),
    ],
)
def test_size_over_the_bound_is_refused_before_decoding(body: bytes) -> None:
    """As too large, and never as clean."""
    assert len(body) < 2_000_000
    assert code_of(body) == Code.TOO_LARGE


def test_panorama_within_the_bound_is_scanned() -> None:
    """All of it."""
    body = encoded(scene(PURPLE, size=(9000, 1500), box=(8200, 0, 9000, 1500)), "JPEG")
    assert hits(look(body)) == ["part 6 of 6"]
    wide = Bounds(frame_pixels=9000 * 1500)
    assert hits(look(body, bounds=wide))
    assert code_of(body, Bounds(frame_pixels=9000 * 1500 - 1)) == Code.TOO_LARGE


# More than one picture in a file.


def test_second_of_two_pictures_is_found() -> None:
    """As phones write them."""
    assert is_found(hidden.second_of_mpo)


def test_file_that_promises_a_second_picture_and_has_none() -> None:
    """Is the first; the promise leads nowhere."""
    whole = hidden.second_of_mpo(PURPLE)
    second = whole.index(b"\xff\xd8\xff", 3)
    for body in (whole[:second], mpo(2, 10_000), mpo(1000, 0)):
        assert places(look(body)) == ["", "whole picture"]


def gain_map(*, size: tuple[int, int] = (80, 60)) -> bytes:
    """How much brighter a screen may show each part of the scene: a gray picture of it."""
    light = np.asarray(scene(size=size).convert("L")).astype(float)
    return encoded(Image.fromarray(np.where(light > 200, light, 0).astype(np.uint8)), "JPEG")


def test_gain_map_is_accepted() -> None:
    """It is looked at like any second picture."""
    photo = encoded(scene(), "JPEG")
    body = photo[:2] + segment(0xE2, b"MPF\0" + bytes(80)) + photo[2:] + gain_map()
    found = look(body)
    assert not hits(found)
    assert "second picture" in places(found)
    assert code_of(body, REFUSING) == Code.HIDDEN_PICTURE


@pytest.mark.parametrize(
    "name",
    [
        "jpeg-after-jpeg.jpg",
        "png-after-jpeg.jpg",
        "zip-after-png.png",
        "zip-deflated-after-jpeg.jpg",
        "png-after-png.png",
        "gif-after-gif.gif",
        "before-end-mark.jpg",
    ],
)
def test_file_after_the_end_is_scanned_or_refused(name: str) -> None:
    """By setting."""
    make = hidden.PAIRS[name]
    assert is_found(make)
    assert code_of(make(PURPLE), REFUSING) == Code.HIDDEN_PICTURE


def test_film_after_the_end_is_scanned() -> None:
    """As in a motion photo."""
    assert is_found(lambda color: encoded(scene(), "JPEG") + film(scenes(6, {3}, color)))


def test_thumbnail_is_scanned_unless_it_is_of_the_picture() -> None:
    """Cameras write it, so it is no reason to refuse."""

    def with_thumbnail(thumbnail: Image.Image) -> bytes:
        photo = encoded(scene(), "JPEG")
        return photo[:2] + segment(0xE1, b"Exif\0\0" + encoded(thumbnail, "JPEG")) + photo[2:]

    same = with_thumbnail(scene().resize((80, 60)))
    assert places(look(same)) == ["", "whole picture"]
    assert look(same, bounds=REFUSING)
    other = with_thumbnail(scene(PURPLE))
    assert hits(look(other)) == ["EXIF thumbnail", "EXIF thumbnail, whole picture"]


# Damaged files that viewers still show.


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.6, 0.8, 0.99])
def test_cut_jpeg_is_seen_as_far_as_it_goes(share: float, progressive: bool) -> None:  # noqa: FBT001 -- a parameter
    """Never clean unseen."""

    def cut(color: Color) -> bytes:
        body = encoded(scene(color), "JPEG", quality=95, progressive=progressive)
        return body[: int(len(body) * share)]

    assert is_found(cut)


@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_its_end_mark_is_accepted(missing: int) -> None:
    """In the mode that refuses what is odd as well."""
    body = encoded(scene(), "JPEG")[:-missing]
    assert places(look(body, bounds=REFUSING)) == ["", "whole picture"]
    assert hits(look(encoded(scene(PURPLE), "JPEG")[:-missing]))


def test_jpeg_cut_before_its_data_is_damaged() -> None:
    """There is nothing to see."""
    body = encoded(scene(), "JPEG")
    for end in (20, body.index(b"\xff\xda"), body.index(b"\xff\xda") + 14):
        assert code_of(body[:end]) == Code.DAMAGED


def test_png_with_wrong_checksums_is_seen() -> None:
    """Of its data and of what nobody needs."""

    def damaged(color: Color) -> bytes:
        body = bytearray(stills.png_16_bit(color))
        at = body.index(b"IDAT")
        length = int.from_bytes(body[at - 4 : at], "big")
        body[at + 4 + length] ^= 1
        return bytes(body)

    assert is_found(damaged)


def test_cut_png_is_seen_as_far_as_it_goes() -> None:
    """Most of its lines."""

    def cut(color: Color) -> bytes:
        body = encoded(scene(color))
        return body[: len(body) * 8 // 10]

    assert is_found(cut)


def test_gif_that_breaks_off_in_a_later_frame() -> None:
    """The frames before are seen."""
    body = animated(scenes(8, {2}, PURPLE), "GIF")
    assert any(where.startswith("frame 3 ") for where in hits(look(body[: len(body) * 6 // 10])))


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JXL"])
def test_cut_file_of_a_kind_that_gives_nothing_is_damaged(kind: str) -> None:
    """An error, and no verdict."""
    body = encoded(scene(), kind)
    assert code_of(body[: len(body) * 6 // 10]) == Code.DAMAGED


# 16 bit, CMYK, and other ways to store the same picture.

SAME: dict[str, Callable[[Image.Image], bytes]] = {
    "16 bit": lambda image: _png_16(np.asarray(image)),
    "16 bit gray": lambda image: encoded(
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    ),
    "gray": lambda image: encoded(image.convert("L")),
    "gray with transparency": lambda image: encoded(image.convert("LA")),
    "palette": lambda image: encoded(image.quantize(256)),
    "opaque": lambda image: encoded(image.convert("RGBA")),
    "jpeg": lambda image: encoded(image, "JPEG", quality=95),
    "gray jpeg": lambda image: encoded(image.convert("L"), "JPEG", quality=95),
    "jpeg in rgb": lambda image: encoded(image, "JPEG", quality=95, keep_rgb=True),
    "cmyk": lambda image: encoded(image.convert("CMYK"), "JPEG", quality=95),
    "webp": lambda image: encoded(image, "WEBP", quality=95),
    "avif": lambda image: encoded(image, "AVIF", speed=10, quality=95),
    "jxl": lambda image: encoded(image, "JXL"),
}


def _png_16(pixels: "np.typing.NDArray[np.uint8]") -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2") * 257)
    return stills.png_of(rows, (pixels.shape[1], pixels.shape[0]), depth=16, color=2)


@pytest.mark.parametrize("name", SAME)
def test_same_picture_looks_the_same(name: str) -> None:
    """In whatever way it is stored; gray ones as gray."""
    image = scene((120, 60, 30))
    expected = image.convert("L").convert("RGB") if "gray" in name else image
    crop, wanted = (
        look(body)[0].crop.astype(int) for body in (SAME[name](image), encoded(expected))
    )
    assert np.abs(crop - wanted).mean() < 3


def ycck() -> bytes:
    """A JPEG of four components, of which three are brightness and colors; by Adobe's mark."""
    return made_by_or_skip(
        lambda: made_by(
            "convert-im6.q16", "in.png", "-colorspace", "CMYK", "a.jpg",
            out="a.jpg", in_png=encoded(scene(PURPLE)),
        )
    )  # fmt: skip


def test_cmyk_with_and_without_the_mark() -> None:
    """Inverted or not: one of the readings shows it."""
    assert hits(look(ycck()))
    assert is_found(lambda color: encoded(scene(color).convert("CMYK"), "JPEG"))
    assert is_found(stills.jpeg_without_adobe)


def test_one_bit() -> None:
    """Black and white."""
    image = Image.new("1", (32, 32), 1)
    image.paste(0, (0, 0, 16, 32))
    assert near(color_of(look(encoded(image))[0]), (128, 128, 128), 10)


def test_two_colors() -> None:
    """A palette of no more."""
    image = Image.new("RGB", (32, 32), PURPLE)
    image.paste(BLUE, (0, 0, 4, 4))
    assert hits(look(encoded(image.quantize(2), bits=1)))


# Orientation, and broken metadata.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_turned_picture_is_judged_as_it_is_shown(orientation: int, kind: str) -> None:
    """At one end of a long picture, in all eight orientations."""
    assert is_found(lambda color: stills.turned(color, orientation, kind))


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0Exif\0\0MM\0*",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x82\x9a\0\x0a\0\0\0\1\0\0\0\x1a\0\0\0\0\xff\xff\xff\xff\0\0\0\0",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_hides_no_picture(metadata: bytes, kind: str) -> None:
    """Nor makes it an error."""
    assert hits(look(encoded(scene(PURPLE), kind, exif=metadata)))


def test_metadata_that_points_to_itself() -> None:
    """Is read once."""
    assert look(exif(entries=struct.pack(">HHII", 0x8769, 4, 1, 8), count=1, after=8))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_png_with_2_mb_of_metadata_is_scanned(kind: bytes) -> None:
    """The profile is ignored, the picture is not."""
    noise = np.random.default_rng(1).integers(0, 256, 2_000_000, np.uint8).tobytes()
    body = png(stills.chunk(kind, b"a\0\0" + zlib.compress(noise, 0)))
    assert places(look(body)) == [""]


def test_10000_texts_are_bounded() -> None:
    """And are looked through."""
    texts = stills.chunk(b"tEXt", b"a\0text") * 9_999
    assert places(look(png(texts))) == [""]
    last = stills.chunk(b"tEXt", b"a\0" + encoded(scene(PURPLE), "JPEG"))
    assert hits(look(png(texts, last)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_that_pictrs_takes_is_read(kind: str) -> None:
    """As a still; the harmless one is clean."""
    assert is_found(lambda color: encoded(scene(color), kind))


# Bytes that nobody has thought of.

GOOD = {
    "PNG": encoded(scene(size=(24, 18))),
    "JPEG": encoded(scene(size=(24, 18)), "JPEG"),
    "GIF": animated(scenes(2, size=(24, 18)), "GIF"),
    "WEBP": animated(scenes(2, size=(24, 18)), "WEBP"),
    "AVIF": encoded(scene(size=(24, 18)), "AVIF", speed=10),
    "JXL": encoded(scene(size=(24, 18)), "JXL"),
}


def _check(frames: list[Frame]) -> None:
    assert frames
    assert all(frame.crop.shape == (32, 32, 3) for frame in frames)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(GOOD)),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 10_000),
)
def test_mutated_bytes_raise_nothing_but_undecodable(
    kind: str, edits: list[tuple[int, int]], cut: int
) -> None:
    """Whatever a decoder makes of them, the caller sees frames or one error."""
    data = bytearray(GOOD[kind])
    for place, value in edits:
        data[place % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    bounds = Bounds(frame_pixels=100_000, total_pixels=1_000_000, salt="a")
    try:
        frames = read_frames(bytes(data), SPEC, bounds)
    except UndecodableImage:
        return
    _check(frames)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_picture(data: bytes) -> None:
    """Bytes of no format at all."""
    with pytest.raises(UndecodableImage):
        read_frames(data, SPEC, Bounds(salt="a"))


def test_image_is_as_pillow_reads_it() -> None:
    """The reference for all of the above: a plain PNG, scaled by the model's own method."""
    image = scene(size=(32, 32))
    with Image.open(io.BytesIO(encoded(image))) as read:
        np.testing.assert_array_equal(look(encoded(image))[0].crop, np.asarray(read))
