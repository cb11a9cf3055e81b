"""Tests of safety_proxy/media/canvas.py: what is on the canvas of an animation."""

import pytest
from PIL import Image

from safety_proxy.media.canvas import Canvas
from tests.pictures import BLUE, GREEN, RED, Color

SIZE = (8, 6)
ALL = (0, 0, 8, 6)
LEFT = (0, 0, 4, 6)
CLEAR_RED = (*RED, 0)


def plain(color: Color | tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of one color, with alpha if that has it."""
    return Image.new("RGBA" if len(color) == 4 else "RGB", size, color)


def canvas_of(color: Color | tuple[int, int, int, int]) -> Canvas:
    """A canvas full of it."""
    canvas = Canvas(SIZE)
    canvas.put(plain(color), ALL, blends=False)
    return canvas


def left_and_right(canvas: Canvas) -> list[object]:
    """The pixel at either end."""
    return [canvas.image.getpixel((0, 0)), canvas.image.getpixel((7, 5))]


@pytest.mark.parametrize(
    ("at", "size", "place"),
    [
        ((0, 0), (8, 6), (0, 0, 8, 6)),
        ((2, 3), (2, 2), (2, 3, 4, 5)),
        ((6, 4), (9, 9), (6, 4, 8, 6)),
        ((8, 0), (1, 1), None),
        ((0, 6), (1, 1), None),
    ],
)
def test_place_is_what_is_seen(
    at: tuple[int, int], size: tuple[int, int], place: tuple[int, int, int, int] | None
) -> None:
    """Cut off at the right and below; nothing, beyond."""
    assert Canvas(SIZE).place(at, size) == place


def test_opaque_canvas_has_no_alpha() -> None:
    """Which is cheaper, and stays so while what is put on it is opaque or blends."""
    canvas = canvas_of(RED)
    canvas.put(plain((*BLUE, 255)), LEFT, blends=True)
    assert canvas.image.mode == "RGB"
    canvas.put(plain((*GREEN, 0)), LEFT, blends=True)
    assert left_and_right(canvas) == [BLUE, RED]


def test_half_transparent_image_blends() -> None:
    """On an opaque canvas, and on one with holes."""
    canvas = canvas_of(RED)
    canvas.put(plain((*BLUE, 128)), LEFT, blends=True)
    assert left_and_right(canvas) == [(127, 0, 128), RED]
    canvas = canvas_of((*RED, 128))
    canvas.put(plain((*BLUE, 128)), LEFT, blends=True)
    found, other = left_and_right(canvas)
    assert isinstance(found, tuple)
    assert found[3] == pytest.approx(192, abs=2)
    assert other == (*RED, 128)


def test_image_with_holes_leaves_what_is_there() -> None:
    """All or nothing, on a canvas with holes of its own."""
    canvas = canvas_of(CLEAR_RED)
    canvas.put(plain(GREEN), LEFT, blends=True)
    canvas.put(plain((*BLUE, 0)), LEFT, blends=True)
    assert left_and_right(canvas) == [(*GREEN, 255), CLEAR_RED]


def test_image_that_does_not_blend_replaces() -> None:
    """Its holes too."""
    canvas = canvas_of(RED)
    canvas.put(plain((*BLUE, 0)), LEFT, blends=False)
    assert left_and_right(canvas) == [(*BLUE, 0), (*RED, 255)]


@pytest.mark.parametrize("below", [(0, 0, 0, 0), CLEAR_RED])
def test_colors_under_full_transparency_stay(below: tuple[int, int, int, int]) -> None:
    """On an empty canvas, and in the empty part of one that is not."""
    canvas = canvas_of(below)
    canvas.put(plain((*BLUE, 0)), ALL, blends=True)
    assert left_and_right(canvas) == [(*BLUE, 0)] * 2
    canvas.put(plain(GREEN), LEFT, blends=True)
    canvas.put(plain(CLEAR_RED), ALL, blends=True)
    assert left_and_right(canvas) == [(*GREEN, 255), CLEAR_RED]


def test_cleared_is_transparent() -> None:
    """A part, or all."""
    canvas = canvas_of(RED)
    canvas.clear(LEFT)
    assert left_and_right(canvas) == [(0, 0, 0, 0), (*RED, 255)]
    canvas.clear(ALL)
    assert left_and_right(canvas) == [(0, 0, 0, 0)] * 2


@pytest.mark.parametrize("place", [ALL, LEFT])
@pytest.mark.parametrize("before", [RED, (*RED, 9)])
@pytest.mark.parametrize("put", [BLUE, (*BLUE, 7)])
def test_restored_is_as_it_was(
    place: tuple[int, int, int, int],
    before: Color | tuple[int, int, int, int],
    put: Color | tuple[int, int, int, int],
) -> None:
    """Whatever was put there, opaque or not."""
    canvas = canvas_of(before)
    kept = canvas.keep(place)
    canvas.put(plain(put), place, blends=False)
    canvas.restore(kept)
    expected = plain(before).convert("RGBA")
    assert canvas.image.convert("RGBA").tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "I;16"])
def test_image_of_any_mode_can_be_put(mode: str) -> None:
    """White is white, 16 bits included."""
    image = Image.new("L", SIZE, 255)
    if mode == "I;16":
        image = Image.new(mode, SIZE, 65_535)
    elif mode == "P":
        image = image.convert("RGB").quantize(2)
    else:
        image = image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode)
    canvas = canvas_of(RED)
    canvas.put(image, LEFT, blends=True)
    assert left_and_right(canvas) == [(255, 255, 255), RED]


def test_gray_with_holes_can_be_put() -> None:
    """As colors with alpha."""
    canvas = canvas_of(RED)
    canvas.put(Image.new("LA", SIZE, (255, 0)), LEFT, blends=True)
    assert left_and_right(canvas) == [RED, RED]
