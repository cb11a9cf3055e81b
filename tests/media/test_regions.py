"""Tests of safety_proxy/media/regions.py: the model's own crop, and what it leaves out."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.media.color import as_rgb
from safety_proxy.media.regions import (
    Cutter,
    View,
    inner_parts,
    view_of_part,
    views_of,
)
from tests.pictures import GREEN, PURPLE

SPEC = CropSpec(32, 32)
Mode = Literal["shortest", "longest", "squash"]
MODES: list[Mode] = ["shortest", "longest", "squash"]


def scene(size: tuple[int, int]) -> Image.Image:
    """A picture with slopes and edges, nothing symmetric in it."""
    width, height = size
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(255, 0, height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.stack([across, down, (across + down) / 2], 2).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((width // 8, height // 8, width // 2, height // 2), fill=(250, 20, 60))
    pen.line((0, height, width, height // 3), fill=(10, 240, 30), width=max(1, width // 30))
    return image


def reference(image: Image.Image, spec: CropSpec) -> UInt8Array:
    """What open_clip itself gives its models, with mean and deviation taken out again."""
    transform = image_transform_v2(
        PreprocessCfg(
            size=(spec.height, spec.width),
            mean=(0, 0, 0),
            std=(1, 1, 1),
            interpolation=spec.interpolation,
            resize_mode=spec.resize_mode,
            fill_color=spec.fill_color,
        ),
        is_train=False,
    )
    pixels: UInt8Array = (transform(image).numpy().transpose(1, 2, 0) * 255).round().astype("uint8")
    return pixels


def crop_of(image: Image.Image, spec: CropSpec = SPEC, view: View | None = None) -> UInt8Array:
    """The model's own crop, or that of another view."""
    view = view or views_of(image.size, spec, few=True)[0]
    return Cutter(image, spec).crop(view, as_rgb)


def names(size: tuple[int, int], spec: CropSpec = SPEC, *, few: bool = False) -> list[str]:
    """Of the views of a picture of this size."""
    return [view.where for view in views_of(size, spec, few=few)]


SIZES = [(64, 64), (32, 32), (100, 75), (75, 100), (333, 97), (97, 333), (20, 31), (7, 5), (1, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fill", [0, 127])
def test_own_crop_is_the_one_of_open_clip(
    size: tuple[int, int], interpolation: Literal["bicubic", "bilinear"], mode: Mode, fill: int
) -> None:
    """Pixel for pixel, in each mode and for any shape."""
    spec = CropSpec(32, 32, mode, interpolation, fill)
    image = scene(size)
    np.testing.assert_array_equal(crop_of(image, spec), reference(image, spec))


@pytest.mark.parametrize("size", [(100, 75), (75, 100), (333, 97), (97, 333)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_own_crop_for_a_model_that_is_not_square(size: tuple[int, int], mode: Mode) -> None:
    """The same, where width and height differ."""
    spec = CropSpec(24, 48, mode)
    image = scene(size)
    np.testing.assert_array_equal(crop_of(image, spec), reference(image, spec))


def test_part_of_a_stretched_picture_is_the_crop_of_the_whole() -> None:
    """Only as much as is rounded on the way differs."""
    image = scene((1200, 40))
    whole = reference(image, SPEC).astype(int)
    assert np.abs(crop_of(image).astype(int) - whole).max() <= 8


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 100), [""]),
        ((105, 100), [""]),
        ((640, 480), ["", "whole picture"]),
        ((480, 640), ["", "whole picture"]),
        ((3000, 2000), ["", "whole picture"]),
        ((1920, 1080), ["", "whole picture", "left part", "right part"]),
        ((1080, 2340), ["", "whole picture", "upper part", "lower part"]),
        ((300, 100), ["", "left part", "right part"]),
        ((100, 300), ["", "upper part", "lower part"]),
        ((390, 100), ["", *(f"part {n} of 4" for n in (1, 2, 3, 4))]),
        ((500, 100), ["", *(f"part {n} of 5" for n in (1, 2, 4, 5))]),
    ],
)
def test_longer_pictures_have_more_views(size: tuple[int, int], expected: list[str]) -> None:
    """A photo of 4:3 has two; the part in the middle is the model's own crop."""
    assert names(size) == expected


@pytest.mark.parametrize("size", [(40_000_000, 1), (1, 40_000_000), (300, 12_000)], ids=str)
def test_views_are_capped(size: tuple[int, int]) -> None:
    """At twelve parts beside the model's own."""
    assert len(names(size)) == 13


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (300, 12_000)], ids=str)
def test_few_are_two(size: tuple[int, int]) -> None:
    """For frames of an animation, however long they are."""
    assert names(size, few=True) == ["", "whole picture"]


@pytest.mark.parametrize("mode", ["longest", "squash"])
def test_model_that_sees_the_whole_needs_parts_only(mode: Mode) -> None:
    """Where it would see little of a long picture."""
    spec = CropSpec(32, 32, mode)
    assert names((640, 480), spec) == [""]
    assert names((1920, 1080), spec) == ["", "left part", "right part"]
    assert names((300, 100), spec) == ["", "left part", "part 2 of 3", "right part"]
    assert names((640, 480), spec, few=True) == [""]
    assert names((300, 100), spec, few=True) == ["", "whole picture"]


def test_shape_is_beside_that_of_the_model() -> None:
    """For one that is twice as wide as high, so is the picture that has one view."""
    assert names((200, 100), CropSpec(16, 32)) == [""]
    assert names((100, 100), CropSpec(16, 32)) == ["", "whole picture", "upper part", "lower part"]


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_every_pixel_is_in_some_view(width: int, height: int, mode: Mode, few: bool) -> None:  # noqa: FBT001 -- drawn
    """Nothing at a border or between two parts is left out, but 2.5 % at either end of a side.

    Within what is rounded: a thousandth.
    """
    spec = CropSpec(224, 224, mode)
    seen = np.zeros((1000, 1000), bool)
    for view in views_of((width, height), spec, few=few):
        for piece in view.pieces:
            left, top, right, bottom = piece.box
            if piece.cut:
                across, down = piece.size
                left, right = piece.cut[0] / across, piece.cut[2] / across
                top, bottom = piece.cut[1] / down, piece.cut[3] / down
            rows = slice(max(0, round(top * 1000) - 1), round(bottom * 1000) + 1)
            seen[rows, max(0, round(left * 1000) - 1) : round(right * 1000) + 1] = True
    assert seen[26:-26, 26:-26].all()


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (300, 9_000), (9_000, 300)], ids=str)
@pytest.mark.parametrize("place", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_square_anywhere_along_the_long_side_is_seen(
    size: tuple[int, int],
    place: float,
    few: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Undistorted enough to be most of its panel."""
    image = Image.new("RGB", size, GREEN)
    side = min(size)
    middle = [place * length if length == max(size) else length / 2 for length in size]
    left, top = (round(center - side / 2) for center in middle)
    image.paste(PURPLE, (left, top, left + side, top + side))
    cutter = Cutter(image, SPEC)
    shares = [
        float((cutter.crop(view, as_rgb)[..., 0] > 128).mean())
        for view in views_of(size, SPEC, few=few)
    ]
    assert max(shares) >= (0.02 if few and max(size) > 2000 else 0.13)


def test_folded_picture_is_not_squashed() -> None:
    """A strip of 16 squares is four rows of four, each a square still."""
    image = Image.new("RGB", (1600, 100), GREEN)
    image.paste(PURPLE, (500, 0, 600, 100))  # the sixth
    whole = views_of(image.size, SPEC, few=True)[1]
    crop = crop_of(image, SPEC, whole)
    purple = crop[..., 0] > 128
    assert purple[9:15, 9:15].all()
    assert purple.mean() == pytest.approx(1 / 16, abs=0.02)


def peak_bytes() -> int:
    """The most memory that this process had resident since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize(
    "size", [(20_000, 3), (3, 20_000), (20_000, 1), (10_000_000, 1), (1, 10_000_000)], ids=str
)
def test_stretched_picture_costs_little_memory(size: tuple[int, int]) -> None:
    """Resized whole it would take gigabytes."""
    image = Image.new("RGB", size, PURPLE)
    spec = CropSpec(224, 224)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_bytes()
    for few in (False, True):
        cutter = Cutter(image, spec)
        for view in views_of(size, spec, few=few):
            assert cutter.crop(view, as_rgb).shape == (224, 224, 3)
    assert peak_bytes() - before < 100_000_000


def test_smaller_copy_has_twice_the_resolution_that_is_needed() -> None:
    """And a part of the picture that it would blur is taken from the picture itself."""
    image = scene((1000, 800))
    cutter = Cutter(image, SPEC)
    small = cutter.small()
    assert 64 <= small.height <= 128
    part = view_of_part((0.5, 0.5, 0.55, 0.55), "part", image.size, SPEC)
    expected = image.resize((32, 32), Image.Resampling.BICUBIC, box=(500, 400, 550, 440))
    np.testing.assert_array_equal(cutter.crop(part, as_rgb), np.asarray(expected))


@pytest.mark.parametrize(
    ("size", "box", "ground"),
    [
        ((1000, 800), (700, 500, 900, 640), (255, 255, 255)),
        ((300, 200), (10, 10, 60, 50), (0, 0, 0)),
        ((4000, 3000), (1500, 1000, 1900, 1400), (40, 90, 70)),
    ],
)
def test_picture_in_a_flat_border_is_found(
    size: tuple[int, int], box: tuple[int, int, int, int], ground: tuple[int, int, int]
) -> None:
    """Wherever it is."""
    image = Image.new("RGB", size, ground)
    image.paste(scene((box[2] - box[0], box[3] - box[1])), box)
    (found,) = inner_parts(image)
    for share, edge, length in zip(found, box, size * 2, strict=True):
        assert share == pytest.approx(edge / length, abs=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda: scene((400, 300)),
        lambda: Image.new("RGB", (400, 300), "white"),
        lambda: Image.new("RGB", (1, 1)),
    ],
)
def test_picture_without_a_border_has_no_inner_part(make: Callable[[], Image.Image]) -> None:
    """Nor has one that is all border."""
    assert inner_parts(make()) == []


def test_pictures_that_lie_apart_are_parts_of_their_own() -> None:
    """The three largest; a speck in the corner does not stretch one over all."""
    image = Image.new("RGB", (800, 800), "white")
    boxes = [(20, 30, 180, 190), (600, 600, 740, 700), (400, 60, 500, 160), (40, 700, 100, 760)]
    for box in boxes:
        image.paste(PURPLE, box)
    image.paste(GREEN, (780, 780, 790, 790))
    found = [[round(edge * 800) for edge in part] for part in inner_parts(image)]
    assert len(found) == 3
    for part, box in zip(found, boxes, strict=False):
        assert part == pytest.approx(box, abs=12)


def test_page_with_pictures_all_over_has_no_inner_part() -> None:
    """The whole shows them large enough."""
    image = Image.new("RGB", (800, 800), "white")
    for left in range(20, 800, 200):
        for top in range(20, 800, 200):
            image.paste(PURPLE, (left, top, left + 150, top + 150))
    assert inner_parts(image) == []
