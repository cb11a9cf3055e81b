"""Tests of safety_proxy/media/animation.py: frames as a browser shows them, those judged."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.animation import (
    Cel,
    Dispose,
    Load,
    Weights,
    check_animation,
    frames_of_cels,
    judged,
    shown_seconds,
)
from safety_proxy.media.bounds import Bounds, Code, undecodable
from safety_proxy.media.stills import Picture
from tests.media.looks import SPEC, color_of, hits, look, near, places
from tests.media.samples.animations import animated
from tests.media.samples.beneath import clear_frames
from tests.media.samples.beneath import frames as hidden_frames
from tests.media.samples.tools import scene, scenes
from tests.pictures import BLUE, GREEN, PURPLE, RED, Color

SIZE = (64, 64)
BOUNDS = Bounds(salt="a")
KINDS = ["GIF", "PNG", "WEBP", "AVIF"]


def cel(
    color: Color | tuple[int, int, int, int],
    dispose: Dispose = Dispose.KEEP,
    *,
    at: tuple[int, int] = (0, 0),
    size: tuple[int, int] = SIZE,
    decode: Callable[[], Image.Image] | None = None,
) -> Cel:
    """A cel of one color, shown for 100 ms."""
    mode = "RGBA" if len(color) == 4 else "RGB"
    return Cel(at, size, 0.1, True, dispose, decode or partial(Image.new, mode, size, color))


def broken() -> Image.Image:
    """What a decoder does with noise."""
    raise OSError("broken data stream")


def colors(*cels: Cel) -> list[Color]:
    """Of the frames that are judged."""
    return [color_of(frame) for frame in frames_of_cels(SIZE, cels, SPEC, BOUNDS)]


def test_frame_is_what_the_cels_before_leave() -> None:
    """Kept, cleared (white on a page, then black), or as it was before."""
    right = partial(cel, at=(32, 0), size=(32, 64))
    kept = colors(cel(RED), right(BLUE), right(GREEN))
    restored = colors(cel(RED), right(BLUE, Dispose.RESTORE), cel(GREEN, size=(32, 64)))
    cleared = colors(cel(RED), right(BLUE, Dispose.CLEAR), cel(GREEN, size=(32, 64)))
    half = [RED, (128, 0, 128), (128, 128, 0)]
    for found, expected in (
        (kept, half),
        (restored, half),
        (cleared, [*half[:2], (128, 255, 128), (0, 128, 0)]),  # on a white page, on a black one
    ):
        assert len(found) == len(expected)
        assert all(near(one, other) for one, other in zip(found, expected, strict=True)), found


@pytest.mark.parametrize("dispose", list(Dispose))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_last_frame_is_judged_as_it_is_shown(dispose: Dispose, count: int) -> None:
    """Not as what is left when it is taken off, however alike the frames are."""
    assert colors(*(cel(RED, dispose) for _ in range(count))) == [RED]
    assert colors(cel(GREEN), *(cel(RED, dispose) for _ in range(count))) == [GREEN, RED]


@pytest.mark.parametrize("dispose", list(Dispose))
def test_last_frame_that_leaves_a_margin_is_judged_as_it_is_shown(dispose: Dispose) -> None:
    """On a canvas with holes, which is changed in place."""
    found = colors(*(cel(PURPLE, dispose, size=(62, 64)) for _ in range(3)))
    assert near(found[0], PURPLE, 12)


@pytest.mark.parametrize("dispose", list(Dispose))
def test_last_frame_stays_where_the_next_is_broken(dispose: Dispose) -> None:
    """There an animation ends in a browser."""
    assert colors(cel(GREEN), cel(RED, dispose), cel(BLUE, decode=broken), cel(BLUE)) == [
        GREEN,
        RED,
    ]


def test_last_frame_that_hardly_differs_is_judged_as_it_is_shown() -> None:
    """It is chosen for being the last alone, when all others have gone by."""
    found = colors(cel((100, 100, 100)), cel((105, 105, 105), Dispose.CLEAR))
    assert found == [(100, 100, 100), (105, 105, 105)]


def test_cel_beside_the_canvas_changes_nothing() -> None:
    """Nor is it decoded."""
    assert colors(cel(RED), cel(BLUE, Dispose.CLEAR, at=(64, 0), decode=broken)) == [RED]


def test_first_cel_that_cannot_be_decoded_is_an_error() -> None:
    """There is nothing to judge."""
    with pytest.raises(UndecodableImage, match="OSError: broken data stream"):
        colors(cel(RED, decode=broken), cel(RED))

    def refuse() -> Image.Image:
        raise undecodable(Code.TOO_LARGE, "too large")

    with pytest.raises(UndecodableImage, match="too large"):
        colors(cel(RED, decode=refuse))
    with pytest.raises(UndecodableImage, match="without a frame"):
        judged(iter(()), SPEC, BOUNDS, where="", few=False)


def test_frames_are_named_by_number_and_time() -> None:
    """For people, who look for it in the file."""
    frames = frames_of_cels(SIZE, [cel(RED), cel(BLUE)], SPEC, BOUNDS, where="tail")
    assert places(frames) == ["tail, frame 1 at 0.00 s", "tail, frame 2 at 0.10 s"]


def test_short_frames_are_shown_for_longer() -> None:
    """As browsers do."""
    assert [shown_seconds(seconds) for seconds in (0, 0.01, 0.02, 3)] == [0.1, 0.1, 0.02, 3]


def test_animation_is_bounded_by_all_its_frames() -> None:
    """However small they are."""
    check_animation((1000, 1000), 2000, BOUNDS)
    check_animation((1, 1), 20_000, BOUNDS)
    for size, count in (((1000, 1000), 2001), ((1, 1), 20_001), ((7000, 7000), 1)):
        with pytest.raises(UndecodableImage, match="bound") as caught:
            check_animation(size, count, BOUNDS)
        assert caught.value.code == Code.TOO_LARGE
    with pytest.raises(UndecodableImage, match="bound"):
        colors(cel(RED, size=(7000, 7000)))


def test_frames_weigh_what_they_cost() -> None:
    """By pixels, more where they may be transparent, and by bytes."""
    load = Load(Weights(pixel=2, clear_pixel=5, byte=10), BOUNDS)
    load.add((1000, 1000), may_be_clear=False)
    load.add((1000, 1000), may_be_clear=True)
    load.add((1, 1), may_be_clear=True)
    load.add_bytes(1000)
    assert load.pixels == 2_000_000 + 5_000_000 + 100_000 + 10_000
    with pytest.raises(UndecodableImage, match="all frames together"):
        load.add_bytes(200_000_000)


def test_crops_are_bounded() -> None:
    """Where later frames take more crops than the first did."""
    chance = np.random.default_rng(0)
    tiles = chance.integers(0, 256, (220, 8, 8, 4), dtype=np.uint8)
    pictures = [Picture(scene(size=SIZE))] + [
        Picture(Image.fromarray(tile).resize(SIZE, 0), orientation=6, is_always_turned=False)
        for tile in tiles
    ]
    shown = ((picture, 0.1) for picture in pictures)
    with pytest.raises(UndecodableImage, match="crops"):
        judged(shown, SPEC, Bounds(frames=10_000, salt="a"), where="", few=False)


def test_large_frames_are_kept_small_and_look_the_same() -> None:
    """As the same animation does that is smaller."""
    large = [scene(color, size=(1200, 900)) for color in (None, PURPLE, BLUE)]
    frames = look(animated(large, "PNG"), CropSpec(64, 64))
    small = [image.resize((160, 120), Image.Resampling.BOX) for image in large]
    others = look(animated(small, "PNG"), CropSpec(64, 64))
    assert places(frames) == places(others)
    for frame, other in zip(frames, others, strict=True):
        assert near(color_of(frame), color_of(other), 3)


@pytest.mark.parametrize("size", [(160, 120), (600, 450)], ids=str)
def test_color_under_transparency_is_found_in_any_frame(size: tuple[int, int]) -> None:
    """In a frame that is kept as it is, and in one that is kept smaller."""
    body = animated(hidden_frames(PURPLE, size=size), "PNG", disposal=1, blend=0)
    assert {where.split(" at ")[0] for where in hits(look(body))} == {"frame 3"}


@pytest.mark.parametrize("size", [(160, 120), (600, 450)], ids=str)
def test_color_in_a_frame_of_which_nothing_is_seen_is_found(size: tuple[int, int]) -> None:
    """Where no other frame is seen either."""
    body = animated(clear_frames(PURPLE, size=size), "PNG", disposal=1, blend=0)
    found = hits(look(body))
    assert found
    assert all(where.startswith("frame 3") and "transparency" in where for where in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [1, 67, 122, 199])
def test_frame_shown_for_a_moment_is_found(kind: str, place: int) -> None:
    """Wherever it is, be it the last."""
    durations = [20 if number == place else 100 for number in range(200)]
    body = animated(scenes(200, {place}, PURPLE, size=(48, 36)), kind, duration=durations)
    assert len({where.split(" at ")[0] for where in hits(look(body))}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_appears_slowly_is_found(kind: str) -> None:
    """Each frame hardly unlike the one before."""
    start, end = scene(), scene(PURPLE)
    body = animated([Image.blend(start, end, number / 19) for number in range(20)], kind)
    assert hits(look(body))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_without_change_cost_one(kind: str) -> None:
    """As a still."""
    images = [scene() for _ in range(200)]
    for number, image in enumerate(images):  # or the writer would drop them
        image.putpixel((number % 160, 0), (number, 0, 0))
    assert len(look(animated(images, kind))) == len(look(animated([scene()] * 2, kind))) == 2


def test_meme_of_300_frames_is_read() -> None:
    """Within the bounds that stand for the time of a scan."""
    body = animated(scenes(300, {211}, PURPLE), "GIF")
    assert hits(look(body))
