"""Tests of safety_proxy/media/stills.py: all that viewers could show of a picture is looked at."""

import numpy as np
import pytest
from PIL import Image

from safety_proxy.media.bounds import Frame
from safety_proxy.media.color import ColorNotes
from safety_proxy.media.stills import Picture, crops_of, frames_of
from tests.media.looks import SPEC, color_of, hits, near, places
from tests.media.test_regions import scene
from tests.pictures import BLUE, GREEN, PURPLE, RED

PURPLE_BOX = (6, 6, 26, 26)


def frames(image: Image.Image, **notes: object) -> list[Frame]:
    """Of a picture about which this is known."""
    return list(frames_of(Picture(image, ColorNotes(**notes)), SPEC))  # type: ignore[arg-type]


def test_opaque_picture_is_looked_at_once() -> None:
    """As the model's own preprocessing has it."""
    (frame,) = frames(Image.new("RGB", (40, 40), RED))
    assert frame.where == ""
    assert color_of(frame) == RED


def test_white_on_transparent_is_seen_over_black() -> None:
    """As a viewer with a dark theme shows it."""
    image = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    image.paste((*PURPLE, 255), (0, 0, 8, 8))
    found = frames(image)
    assert places(found) == ["", "inner part", "over black", "inner part, over black"]
    assert near(color_of(found[2]), (16, 0, 16))


def test_picture_that_is_there_over_black_only() -> None:
    """White and violet pixels that are lost in white: over black they are a picture."""
    image = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    image.paste((255, 0, 255, 40), (0, 0, 32, 32))
    found = frames(image)
    assert "over black" in places(found)
    assert not hits(found[:1])


def test_colors_below_transparency_are_seen() -> None:
    """pict-rs shows them in a JPEG that it makes of the picture."""
    image = Image.new("RGBA", (32, 32), (*PURPLE, 0))
    found = frames(image)
    assert places(found) == ["", "over black", "without transparency"]
    assert hits(found) == ["without transparency"]
    assert (found[0].crop == 255).all()
    assert (found[1].crop == 0).all()


def test_transparency_that_hides_one_color_costs_two() -> None:
    """A logo as most programs write it: black below what is transparent."""
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((*RED, 255), PURPLE_BOX)
    assert places(frames(image)) == ["", "over black"]


def test_gray_with_transparency() -> None:
    """The same."""
    image = Image.new("LA", (32, 32), (0, 0))
    image.paste((128, 255), (0, 0, 32, 16))
    found = frames(image)
    assert places(found) == ["", "over black"]
    assert near(color_of(found[0]), (192, 192, 192))


def test_gamma_that_shows_another_picture() -> None:
    """Colors are converted before they are averaged, and both pictures are looked at."""
    found = frames(Image.fromarray(np.full((64, 64, 3), 100, np.uint8)), gamma=0.05)
    assert places(found) == ["", "colors as stored"]
    shown, stored = (color_of(frame)[1] for frame in found)
    assert shown == 0  # the power of 9
    assert stored == 100
    flat = frames(Image.new("RGB", (64, 64), PURPLE), gamma=0.05)
    assert places(flat) == [""]


def test_strong_gamma_is_applied_to_each_pixel() -> None:
    """The mean of the converted is not the converted mean."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 100
    found = frames(Image.fromarray(pixels), gamma=4.5)
    assert places(found) == ["", "colors as stored"]
    lit = 255 * (100 / 255) ** (1 / (2.2 * 4.5))
    assert color_of(found[0])[1] == pytest.approx(lit / 2, abs=4)


def test_strong_gamma_keeps_transparency() -> None:
    """Which is looked at in both."""
    image = Image.new("RGBA", (32, 32), (40, 40, 40, 0))
    image.paste((40, 40, 40, 255), PURPLE_BOX)
    found = frames(image, gamma=4.5)
    assert {"", "over black", "colors as stored"} <= set(places(found))


def test_cmyk_without_adobe_is_read_both_ways() -> None:
    """Browsers take it as inverted, as the decoder does; other viewers do not."""
    image = Image.new("RGB", (40, 40), PURPLE).convert("CMYK")
    assert places(frames(image)) == [""]
    found = frames(image, inverted=False)
    assert places(found) == ["", "not inverted"]
    assert hits(found) == [""]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_upright(orientation: int) -> None:
    """In all eight orientations."""
    upright = scene((60, 40))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    found = list(frames_of(Picture(stored, orientation=orientation), SPEC))
    for frame, expected in zip(found, frames(upright), strict=True):
        np.testing.assert_array_equal(frame.crop, expected.crop)


def test_orientation_that_not_every_browser_heeds() -> None:
    """Both are looked at, and an upright picture once."""
    image = scene((40, 40))
    sure = Picture(image, orientation=3)
    unsure = Picture(image, orientation=3, is_always_turned=False)
    assert places(list(frames_of(sure, SPEC))) == [""]
    assert places(list(frames_of(unsure, SPEC))) == ["", "as stored"]
    assert places(list(frames_of(Picture(image, is_always_turned=False), SPEC))) == [""]


def test_part_that_a_browser_cuts_out_is_seen() -> None:
    """Enlarged, as it would show it."""
    image = scene((400, 400))
    image.paste(PURPLE, (300, 300, 340, 340))
    picture = Picture(image, aperture=(0.75, 0.75, 0.85, 0.85))
    assert hits(list(frames_of(picture, SPEC))) == ["part that is cut out"]


def test_small_picture_in_a_flat_border_is_seen() -> None:
    """Enlarged, of a still."""
    image = Image.new("RGB", (800, 800), "white")
    image.paste(PURPLE, (700, 700, 760, 760))
    picture = Picture(image)
    assert hits(list(frames_of(picture, SPEC))) == ["inner part"]
    assert not hits(list(frames_of(picture, SPEC, few=True)))


def test_place_has_all_its_parts() -> None:
    """Which picture of the file, which part, which reading."""
    image = Image.new("RGBA", (64, 48), (*BLUE, 0))
    found = list(frames_of(Picture(image), SPEC, where="second picture", few=True))
    assert places(found)[:3] == [
        "second picture",
        "second picture, whole picture",
        "second picture, over black",
    ]


def test_crops_of_any_image() -> None:
    """About which no more is known."""
    found = crops_of(Image.new("L", (64, 48), 128), SPEC, "frame 1")
    assert places(found) == ["frame 1", "frame 1, whole picture"]
    assert color_of(found[0]) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16", "LA", "RGBA", "F"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500)], ids=str)
def test_every_mode_of_any_size_gives_crops(mode: str, size: tuple[int, int]) -> None:
    """Of the model's size, 8 bit RGB."""
    for frame in frames(Image.new(mode, size)):
        assert frame.crop.shape == (32, 32, 3)
        assert frame.crop.dtype == np.uint8


def test_part_of_the_picture_that_only_the_whole_shows() -> None:
    """A center crop leaves out the ends."""
    image = Image.new("RGB", (120, 80), PURPLE)
    image.paste(GREEN, (20, 0, 100, 80))
    found = frames(image)
    assert places(found) == ["", "whole picture"]
    purple = [float((frame.crop[..., 0] > 128).mean()) for frame in found]
    assert purple[0] == 0
    assert purple[1] == pytest.approx(1 / 3, abs=0.1)
