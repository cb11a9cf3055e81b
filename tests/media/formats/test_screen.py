"""Tests of media/formats/screen.py: what a player would show of a frame, and no larger."""

import struct

import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.formats.screen import Screen
from safety_proxy.media.formats.video import read_video
from tests.media.samples.boxes import film
from tests.pictures import BLUE, GREEN, RED

SPEC = CropSpec(32, 32)
CORNERS = (RED, GREEN, BLUE, (255, 255, 255))


def frame_of(image: Image.Image, kind: str = "rgb24") -> VideoFrame:
    """A decoded frame."""
    return VideoFrame.from_ndarray(np.asarray(image), format="rgb24").reformat(format=kind)


def corners(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red, green, blue and white, from the top left to the bottom right."""
    width, height = size
    image = Image.new("RGB", size)
    for number, color in enumerate(CORNERS):
        left, top = number % 2 * width // 2, number // 2 * height // 2
        image.paste(color, (left, top, left + width // 2, top + height // 2))
    return image


def names_of(crop: UInt8Array) -> str:
    """The colors of the corners of a crop by their first letters, from top left to bottom right."""
    quarter = crop.shape[0] // 4
    return "".join(
        "rgbw"[int(np.abs(np.array(CORNERS) - crop[row, column]).sum(axis=1).argmin())]
        for row in (quarter, -quarter)
        for column in (quarter, -quarter)
    )


def screen(pixel_shape: float = 1) -> Screen:
    """For crops of 32 x 32."""
    return Screen(SPEC, pixel_shape=pixel_shape)


@pytest.mark.parametrize("kind", ["rgb24", "yuv420p", "yuv444p10le", "gray", "gbrp12le"])
def test_frame_of_any_kind_becomes_rgb(kind: str) -> None:
    """In its colors, within what compression of color takes."""
    image = Image.new("RGB", (64, 64), (200, 200, 200))
    picture = screen().picture(frame_of(image, kind), None)
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture).astype(int) - 200).max() <= 3


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((1, 1), (1, 1)),
        ((64, 64), (64, 64)),
        ((65, 33), (65, 33)),
        ((1280, 720), (114, 64)),
        ((720, 1280), (64, 114)),
        ((4000, 2), (4000, 2)),
    ],
)
def test_picture_is_no_larger_than_its_crops_need(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    """Twice the crop's side, unless it was smaller."""
    assert screen().picture(frame_of(Image.new("RGB", size)), None).size == shown


def test_long_picture_keeps_what_its_parts_need() -> None:
    """Up to a million pixels."""
    width, height = Screen(CropSpec(224, 224), pixel_shape=1).picture(
        frame_of(Image.new("RGB", (300, 12_000))), None
    ).size  # fmt: skip
    assert 0.9e6 < width * height <= 1.01e6
    assert height / width == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize(
    ("pixel_shape", "shown"), [(2.0, (40, 20)), (0.5, (20, 40)), (1000, (40, 1)), (0.001, (1, 40))]
)
def test_pixels_that_are_not_square_are_shown_in_their_shape(
    pixel_shape: float, shown: tuple[int, int]
) -> None:
    """Made smaller in one direction, never larger."""
    assert screen(pixel_shape).picture(frame_of(Image.new("RGB", (40, 40))), None).size == shown


def test_opacity_becomes_alpha() -> None:
    """Whatever the size of the frame that it comes in."""
    alpha = Image.new("L", (8, 8), 255)
    alpha.paste(0, (0, 0, 4, 8))
    picture = screen().picture(frame_of(corners()), frame_of(alpha.convert("RGB"), "gray"))
    assert picture.mode == "RGBA"
    assert picture.getpixel((2, 2)) == (*RED, 0)
    assert picture.getpixel((60, 2)) == (*GREEN, 255)


@pytest.mark.parametrize("kind", ["rgba", "yuva420p", "yuva444p10le", "ya8"])
def test_opacity_of_the_frame_itself_becomes_alpha(kind: str) -> None:
    """With the color under it as it is."""
    image = Image.new("RGBA", (64, 64), (200, 200, 200, 255))
    image.paste((90, 90, 90, 0), (0, 0, 32, 64))
    frame = VideoFrame.from_ndarray(np.asarray(image), format="rgba").reformat(format=kind)
    picture = screen().picture(frame, None)
    assert picture.mode == "RGBA"
    for place, shown in (((8, 8), (90, 90, 90, 0)), ((56, 8), (200, 200, 200, 255))):
        assert picture.getpixel(place) == pytest.approx(shown, abs=3)
    thumb = screen().thumb(frame, None)
    assert thumb.shape == (32, 32, 4)
    assert tuple(thumb[4, 4]) == pytest.approx((90, 90, 90, 0), abs=3)


def test_thumb_shows_color_and_opacity() -> None:
    """Of the size that `likeness` compares."""
    thumb = screen().thumb(frame_of(corners()), None)
    assert thumb.shape == (32, 32, 3)
    assert tuple(thumb[4, 4]) == RED
    assert tuple(thumb[-4, 4]) == BLUE
    clear = frame_of(Image.new("RGB", (1, 1)), "gray")
    assert screen().thumb(frame_of(corners()), clear)[..., 3].max() == 0


def test_unknown_matrix_of_colors_is_read_as_the_usual_one() -> None:
    """Where swscale would refuse it."""
    frame = frame_of(Image.new("RGB", (64, 64), (200, 200, 200)), "yuv420p")
    frame.colorspace = 8  # YCgCo
    pixels = np.asarray(screen().picture(frame, None)).astype(int)
    assert np.abs(pixels - 200).max() <= 3


def turned(matrix: tuple[int, int, int, int]) -> bytes:
    """A film whose container turns it so."""
    body = bytearray(film([corners()]))
    a, b, c, d = (number << 16 for number in matrix)
    at = body.index(b"tkhd") + 44
    body[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    return bytes(body)


@pytest.mark.parametrize(
    ("matrix", "names"),
    [
        ((1, 0, 0, 1), "rgbw"),
        ((-1, 0, 0, 1), "grwb"),
        ((1, 0, 0, -1), "bwrg"),
        ((-1, 0, 0, -1), "wbgr"),
        ((0, 1, -1, 0), "brwg"),
        ((0, -1, 1, 0), "gwrb"),
        ((0, 1, 1, 0), "rbgw"),
        ((0, -1, -1, 0), "wgbr"),
        ((0, 0, 0, 0), "rgbw"),
    ],
)
def test_frame_is_turned_as_the_container_says(
    matrix: tuple[int, int, int, int], names: str
) -> None:
    """And mirrored; what no player could follow is ignored."""
    frames = read_video(turned(matrix), SPEC, Bounds())
    assert names_of(frames[0].crop) == names
