"""Tests of media/formats/gif.py: the blocks of a GIF, read as browsers read them."""

import struct
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code
from safety_proxy.media.formats.gif import _Gif, read_gif
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window
from safety_proxy.settings import LimitsSettings
from tests.media.looks import SPEC, color_of, hits, look, near, places
from tests.media.samples import bad_stills
from tests.media.samples.animations import animated
from tests.media.samples.tools import scene, scenes
from tests.pictures import BLUE, GREEN, PURPLE, RED, Color, animation, encoded

HEAD = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0, 0, 0)


def image_block(
    color: Color, *, at: tuple[int, int] = (0, 0), size: tuple[int, int] = (16, 16), flags: int = 0
) -> bytes:
    """An image with a palette of its own, of one color; Pillow's data, put in another place."""
    body = encoded(Image.new("P", size, 0), "GIF", palette=bytes((*color, 0, 0, 0)), optimize=False)
    start = body.index(b",\0\0\0\0")
    data = body[start + 10 : -1]
    return b"," + struct.pack("<4HB", *at, *size, 0x80 | flags) + bytes((*color, 0, 0, 0)) + data


def control(dispose: int = 0, transparent: int | None = None) -> bytes:
    """A graphic control extension of 100 ms."""
    flags = dispose << 2 | (transparent is not None)
    return b"!\xf9\x04" + struct.pack("<BHBB", flags, 10, transparent or 0, 0)


def colors(*blocks: bytes, head: bytes = HEAD) -> list[Color]:
    """Of the frames of a GIF of these blocks."""
    return [color_of(frame) for frame in look(head + b"".join(blocks) + b";")]


def rests_of(body: bytes) -> list[Rest]:
    """What a GIF holds beside its images."""
    return read_gif(Window(body), SPEC, Bounds())[1]


def test_images_with_palettes_of_their_own_are_read() -> None:
    """None is for all."""
    assert colors(image_block(RED), image_block(BLUE)) == [RED, BLUE]


def test_image_without_any_palette_is_read() -> None:
    """In some gray; what matters is that it is no error."""
    without = bytearray(image_block(RED))
    without[9] = 0
    del without[10:16]
    assert len(colors(bytes(without))) == 1


@pytest.mark.parametrize(("dispose", "then"), [(0, RED), (1, RED), (2, None), (3, BLUE), (4, BLUE)])
def test_disposal_is_heeded(dispose: int, then: Color | None) -> None:
    """4 was written for 3 once; cleared is transparent, white on a page."""
    corner = image_block(GREEN, size=(1, 1))
    frames = colors(image_block(BLUE), control(dispose), image_block(RED), corner)
    last = frames[-1] if dispose not in {3, 4} else frames[0]
    assert near(last, then or (0, 0, 0), 5)
    assert RED in frames


def test_transparent_index_shows_what_is_below() -> None:
    """Only if pixels have it is anything transparent."""
    frames = colors(image_block(RED), control(transparent=0), image_block(BLUE))
    assert frames == [RED]
    assert colors(image_block(RED), control(transparent=9), image_block(BLUE)) == [RED, BLUE]


def test_canvas_grows_for_the_first_image_alone() -> None:
    """What reaches over it later is cut off."""
    small = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0)
    assert colors(image_block(RED), head=small) == [RED]
    late = image_block(BLUE, at=(16, 0))
    assert colors(image_block(RED), late, head=small) == [RED]


def test_interlaced_image_is_read() -> None:
    """Its rows are in their order."""
    image = scene(size=(40, 40)).quantize(16)
    plain = look(encoded(image, "GIF", interlace=0))
    woven = look(encoded(image, "GIF", interlace=1))
    np.testing.assert_array_equal(plain[0].crop, woven[0].crop)


def test_empty_images_are_passed_over() -> None:
    """Of no width, or without data."""
    none = b"," + struct.pack("<4HB", 0, 0, 0, 9, 0) + b"\2\0"
    no_data = b"," + struct.pack("<4HB", 0, 0, 9, 9, 0) + b"\2\0"
    assert colors(none, no_data, image_block(RED)) == [RED]
    with pytest.raises(UndecodableImage, match="without an image"):
        colors(none)


def test_what_follows_the_end_is_the_rest() -> None:
    """For `hidden` to look at; there is none if the end is missing."""
    body = animation([RED, BLUE])
    rests = rests_of(body + b"tail")
    assert [rest.window.bytes() for rest in rests if rest.is_tail] == [b"tail"]
    assert not any(rest.is_tail for rest in rests_of(body[:-1]))


def test_blocks_are_put_together() -> None:
    """Those of all extensions, and those of all images."""
    note = b"!\xfe" + b"\2ab" + b"\3cde" + b"\0"
    image = image_block(RED)
    data = image[17:-1]  # one block, behind the descriptor, the palette and the code size
    notes, pixels, _ = rests_of(HEAD + note + control() + image + b"!\x01\1f\0" + image + b";")
    assert notes.window.bytes() == b"abcde" + control()[3:-1] + b"f"
    assert pixels.window.bytes() == 2 * data[1:]


def test_xmp_is_searched_as_it_lies_too() -> None:
    """It is no blocks, though it is passed over as such."""
    text = b"!\xff\x0bXMP DataXMP" + b"<xmp>/9j/</xmp>" + bytes(range(255, -1, -1)) + b"\0"
    notes, *_ = rests_of(HEAD + text + image_block(RED) + b";")
    assert b"<xmp>/9j/</xmp>" in notes.window.bytes()


def test_what_lies_between_blocks_is_the_rest() -> None:
    """Up to the end of the file: a byte of it may look like the trailer."""
    body = HEAD + image_block(RED)
    assert rests_of(body + b"be;tween" + image_block(RED) + b";")[2].window[:8] == b"be;tween"
    assert rests_of(body + b"behind")[2].window.bytes() == b"behind"


def test_gif_cut_between_images_is_a_shorter_one() -> None:
    """As in a browser."""
    body = animated(scenes(6, {2}, PURPLE), "GIF")
    starts = [at for at in range(len(body)) if body.startswith(b"!\xf9\x04", at)]
    assert len(starts) == 6
    assert not hits(look(body[: starts[2]]))
    assert hits(look(body[: starts[3]]))
    assert places(look(body[: starts[3]])) == places(look(body[: starts[3]] + b";"))


def test_gif_cut_within_an_image_is_read_as_far_as_it_goes() -> None:
    """What is there of frame 5 is seen, and those before it."""
    body = animated(scenes(8, {4}, PURPLE), "GIF")
    starts = [at for at in range(len(body)) if body.startswith(b"!\xf9\x04", at)]
    length = starts[5] - starts[4]
    assert hits(look(body[: starts[4] + length * 99 // 100]))
    for cut in range(starts[4], starts[4] + 40):
        assert look(body[:cut])


@pytest.mark.parametrize(
    ("blocks", "holes"),
    [
        ([control() + image_block(RED), control(0, 9) + image_block(BLUE)], [False, False]),
        ([control(0, 9) + image_block(RED), control() + image_block(BLUE)], [True, False]),
        ([image_block(RED, size=(15, 16)), image_block(RED, size=(16, 15))], [True, True]),
        ([control(2) + image_block(RED), image_block(GREEN, size=(1, 1))], [True, True]),
        ([control(3) + image_block(RED), image_block(GREEN, size=(1, 1))], [False, True]),
        (
            [image_block(RED), control(3) + image_block(BLUE), image_block(RED)],
            [False, False, False],
        ),
    ],
)
def test_image_on_a_canvas_with_holes_weighs_more(blocks: list[bytes], holes: list[bool]) -> None:
    """Holes that are closed by an opaque image, and opened by clearing or by taking it off."""
    gif = _Gif(Window(HEAD + b"".join(blocks) + b";"), Bounds())
    gif.load = load = Mock()
    gif.parse()
    assert [call.kwargs["may_be_clear"] for call in load.add.call_args_list] == holes


@pytest.mark.parametrize("transparent", [False, True])
def test_meme_of_5_mb_is_read(transparent: bool) -> None:  # noqa: FBT001 -- a parameter
    """300 frames of 320 x 240, all of them noise: within the default bounds of a server.

    Measured on two cores of a server, November 2026, with crops of 224 pixels: 0.6 s of processor
    time if opaque, 1.4 s if the canvas has holes.
    """
    bounds = Bounds(total_pixels=LimitsSettings().max_total_pixels, salt="a")
    body = bad_stills.noisy_gif((320, 240), 300, transparent=transparent)
    assert len(body) > 4_900_000
    assert len({where.split(" at ")[0] for where in places(look(body, bounds=bounds))}) > 20


@pytest.mark.parametrize(
    "name",
    ["gif-65535.gif", "gif-large-frames.gif", "gif-2000-frames.gif", "gif-100000-frames.gif"],
)
def test_gif_of_too_many_pixels_is_too_large(name: str) -> None:
    """Before the time is spent: on one frame, on all of them, or on their number."""
    with pytest.raises(UndecodableImage) as caught:
        look(bad_stills.FILES[name]())
    assert caught.value.code == Code.TOO_LARGE


def test_gif_of_too_many_blocks_is_too_large() -> None:
    """However little is in them."""
    with pytest.raises(UndecodableImage, match="over 500000 blocks"):
        look(HEAD + b"!\xfe" + b"\1a" * 500_001 + b"\0;")
