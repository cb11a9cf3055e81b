"""Tests of safety_proxy/media/likeness.py: which pictures count as the same."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from safety_proxy.media.likeness import (
    ALIKE,
    EQUAL,
    distance,
    distances,
    full_thumb_of,
    has_hidden_colors,
    thumb_of,
    thumb_of_crop,
)
from tests.media.test_regions import scene
from tests.pictures import BLUE, GREEN, PURPLE, RED, encoded

WHITE = Image.new("RGB", (320, 240), "white")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (5, 700), (320, 240), (1000, 1)], ids=str)
def test_thumb_is_of_one_shape(mode: str, size: tuple[int, int]) -> None:
    """With a fourth channel where there is transparency."""
    thumb = thumb_of(Image.new(mode, size))
    assert thumb.shape == (32, 32, 4 if mode in {"LA", "RGBA"} else 3)
    assert thumb.dtype == np.int16


def test_what_is_transparent_does_not_count() -> None:
    """Two empty pictures are equal, whatever their colors would be."""
    one = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    other = Image.new("RGBA", (40, 40), (0, 0, 255, 0))
    assert distance(thumb_of(one), thumb_of(other)) == 0


def test_small_change_in_one_place_counts_in_full() -> None:
    """An eighth by an eighth of the picture is as far from white as if it were all of it."""
    changed = WHITE.copy()
    changed.paste(0, (280, 210, 320, 240))
    assert distance(thumb_of(WHITE), thumb_of(changed)) > 250


def test_picture_saved_again_is_equal_and_blurred_is_not() -> None:
    """Detail counts, not only what is left of it from far."""
    image = scene((640, 480))
    again = Image.open(io.BytesIO(encoded(image, "JPEG", quality=80)))
    assert distance(thumb_of(image), thumb_of(again)) < EQUAL
    assert distance(thumb_of(image), thumb_of(image.filter(ImageFilter.GaussianBlur(60)))) > ALIKE


def test_distances_are_those_of_each() -> None:
    """In order."""
    thumbs = [thumb_of(Image.new("RGB", (9, 9), color)) for color in (RED, GREEN, BLUE)]
    found = distances(np.stack(thumbs), thumbs[1])
    assert found.tolist() == pytest.approx([170, 0, 170])


@pytest.mark.parametrize(
    ("color", "alpha", "hidden"),
    [(PURPLE, 0, True), (PURPLE, 255, False), ((255, 255, 255), 0, False), ((0, 0, 0), 0, False)],
)
def test_hidden_color_is_told_from_one_that_is_seen(
    color: tuple[int, int, int],
    alpha: int,
    hidden: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """White and black beneath are as what a page has; of purple, each channel is as one of them."""
    assert has_hidden_colors(full_thumb_of(Image.new("RGBA", (99, 99), (*color, alpha)))) == hidden


def test_drawing_in_white_and_black_is_hidden_colors() -> None:
    """Though each place of it is seen over white or over black."""
    drawing = Image.new("RGBA", (320, 240), (255, 255, 255, 0))
    drawing.paste((0, 0, 0, 0), (0, 0, 160, 240))
    assert has_hidden_colors(full_thumb_of(drawing))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "CMYK"])
def test_full_thumb_is_of_one_shape(mode: str) -> None:
    """Whatever the mode, so that frames of several can be compared."""
    assert full_thumb_of(Image.new(mode, (70, 300))).shape == (32, 32, 7)


def test_full_thumbs_of_what_differs_beneath_differ() -> None:
    """Where a browser shows nothing in either."""
    one, other = (Image.new("RGBA", (40, 40), (*color, 0)) for color in (RED, BLUE))
    assert distance(thumb_of(one), thumb_of(other)) == 0
    assert distance(full_thumb_of(one), full_thumb_of(other)) > ALIKE


def test_crop_is_compared_like_a_picture() -> None:
    """Of whatever size."""
    image = scene((224, 224))
    np.testing.assert_array_equal(thumb_of_crop(np.asarray(image)), thumb_of(image))
