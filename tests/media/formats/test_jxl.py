"""Tests of media/formats/jxl.py."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.formats import jxl
from safety_proxy.media.formats.jxl import read_jxl
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, color_of, hits, near, places
from tests.media.making import made_by_or_skip
from tests.media.samples import animations, stills
from tests.media.samples.boxes import box, numbers
from tests.media.samples.tools import scene
from tests.pictures import PURPLE, encoded

START = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")


def frames_of(body: bytes) -> list[Frame]:
    """What is looked at."""
    return read_jxl(Window(b"xy" + body, 2), SPEC, Bounds(salt="a"))[0]


def code_of(body: bytes, bounds: Bounds | None = None) -> str:
    """What the file is refused with."""
    with pytest.raises(UndecodableImage) as refused:
        read_jxl(Window(body), SPEC, bounds or Bounds())
    return refused.value.code


def bits(*fields: tuple[int, int]) -> bytes:
    """A codestream of numbers of so many bits each, the lowest first."""
    number = at = 0
    for value, count in fields:
        number |= value << at
        at += count
    return b"\xff\x0a" + number.to_bytes(32, "little")


SMALL = [(1, 1), (3, 5), (0, 3), (7, 5)]  # 64 x 32


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_still_is_read(mode: str) -> None:
    """In its colors."""
    body = encoded(scene(PURPLE).convert(mode), "JXL", lossless=True)
    frames = frames_of(body)
    assert places(frames) == ["", "whole picture"]
    assert bool(hits(frames)) == (mode == "RGB")


def test_transparency_is_read() -> None:
    """As of any picture."""
    body = encoded(Image.new("RGBA", (32, 32), (*PURPLE, 0)), "JXL", lossless=True)
    assert "without transparency" in hits(frames_of(body))


def test_container_in_parts_is_read() -> None:
    """The codestream in several boxes, of which the first is too short for the header."""
    body = encoded(scene(PURPLE), "JXL")
    parts = [body[:7], body[7:300], body[300:]]
    indices = [0, 1, 2 | 1 << 31]
    boxes = [box(b"jxlp", numbers(n), part) for n, part in zip(indices, parts, strict=True)]
    assert hits(frames_of(START + b"".join(boxes)))


def test_jpeg_that_it_was_made_from_is_read_as_one() -> None:
    """With all that was beside it there."""
    thumbnail = encoded(scene(PURPLE, size=(64, 48)), "JPEG")
    body = made_by_or_skip(
        lambda: stills.jxl(
            PURPLE, "--lossless_jpeg=1", body=encoded(scene(), "JPEG") + thumbnail, kind="jpg"
        )
    )
    frames, rests = read_jxl(Window(body), SPEC, Bounds())
    assert not hits(frames)
    assert [rest.window.bytes() for rest in rests if rest.is_tail] == [thumbnail]


def test_floats_are_read() -> None:
    """What a picture of high range is decoded to: 0 to 1."""
    pixels = np.full((8, 8), 0.5, np.float16)
    image = jxl.image_of("F;16", (8, 8), pixels.tobytes())
    assert image.mode == "F"
    assert near(color_of(Frame(np.asarray(image)[..., None].repeat(3, 2) * 255, "")), (128,) * 3)


def test_animation_is_refused() -> None:
    """The decoder would give its last frame alone."""
    body = made_by_or_skip(lambda: animations.jxl_of(PURPLE, {3}))
    assert code_of(body) == "unsupported-type"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([*SMALL, (1, 1)], None),  # all as usual
        ([*SMALL, (0, 1), (0, 1)], None),  # nothing special
        ([*SMALL, (0, 1), (1, 1), (5, 3), (0, 1), (0, 1), (0, 1)], None),  # turned
        ([*SMALL, (0, 1), (1, 1), (0, 3), (0, 1), (1, 1), (0, 1)], "unsupported-type"),  # preview
        ([*SMALL, (0, 1), (1, 1), (0, 3), (0, 1), (0, 1), (1, 1)], "unsupported-type"),  # animation
        ([*SMALL, (0, 1), (1, 1), (0, 3), (1, 1), *SMALL, (0, 1), (1, 1)], "unsupported-type"),
        ([(1, 1), (31, 5), (7, 3)], None),  # 512 x 256, by its ratio
        ([(0, 1), (3, 2), (2**30 - 1, 30), (1, 3)], "too-large"),
        ([(0, 1), (2, 2), (2**18 - 1, 18), (0, 3), (1, 2), (8000, 13)], "too-large"),
        ([(0, 1), (0, 2), (499, 9), (2, 3)], None),  # 600 x 500
    ],
)
def test_header_is_read_bit_by_bit(fields: list[tuple[int, int]], code: str | None) -> None:
    """Size, orientation, preview and animation, before any decoder is asked."""
    body = bits(*fields)
    found = None
    try:
        jxl.check(Window(body), Bounds())
    except UndecodableImage as error:
        found = error.code
    assert found == code


def test_size_by_ratio_is_bounded() -> None:
    """512 x 256."""
    body = bits((1, 1), (31, 5), (7, 3), (1, 1))
    jxl.check(Window(body), Bounds(frame_pixels=512 * 256))
    with pytest.raises(UndecodableImage):
        jxl.check(Window(body), Bounds(frame_pixels=512 * 256 - 1))


def test_codestream_that_ends_in_its_header() -> None:
    """Is no picture."""
    with pytest.raises(EOFError):
        jxl.check(Window(b"\xff\x0a\x01"), Bounds())


@pytest.mark.parametrize("body", [START, START + box(b"jxlc", b"no codestream"), b"\xff\x0bxx"])
def test_container_without_a_picture_is_damaged(body: bytes) -> None:
    """Nothing is decoded."""
    assert code_of(body) == "damaged"


def test_file_that_breaks_off_is_left_to_the_decoder() -> None:
    """Which gives none of it."""
    body = encoded(scene(), "JXL")
    with pytest.raises(RuntimeError):
        read_jxl(Window(body[: len(body) // 2]), SPEC, Bounds())


class PanicException(BaseException):
    """As the one of PyO3, which is no Exception either."""


def failing(error: BaseException) -> Callable[..., Callable[[bytes], bytes]]:
    """A decoder that ends so."""

    def decode(_: bytes) -> bytes:
        raise error

    return lambda **_options: decode


def test_panic_of_the_decoder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the process; what has to end it still does."""
    body = encoded(scene(), "JXL")
    monkeypatch.setattr("pillow_jxl.Decoder", failing(PanicException("out of range")))
    assert code_of(body) == "damaged"
    monkeypatch.setattr("pillow_jxl.Decoder", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        read_jxl(Window(body), SPEC, Bounds())


def test_build_without_a_decoder_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why."""
    monkeypatch.setattr(jxl, "HAS_DECODER", False)
    assert code_of(encoded(scene(), "JXL")) == "unsupported-type"


def test_metadata_is_a_rest() -> None:
    """All boxes of the container."""
    picture = box(b"jxlc", encoded(scene(), "JXL"))
    extra = box(b"xml ", b"something")
    for boxes in (extra + picture, picture + extra):
        _, rests = read_jxl(Window(START + boxes), SPEC, Bounds())
        assert [rest.window.bytes() for rest in rests] == [boxes]
