"""Tests of media/formats/webp.py: the chunks of a WebP, still or not."""

import struct

import pytest
from PIL import Image

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code
from safety_proxy.media.formats.webp import _Webp, read_webp
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, color_of, hits, look, near, places
from tests.media.samples import bad_stills
from tests.media.samples.animations import animated
from tests.media.samples.tools import scene, scenes
from tests.pictures import BLUE, GREEN, PURPLE, RED, Color, encoded


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk, padded."""
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)


def riff(*chunks: bytes) -> bytes:
    """A WebP of these."""
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def data_of(image: Image.Image, **options: object) -> bytes:
    """The chunks that are the picture, as a frame has them."""
    body = encoded(image, "WEBP", **options)
    at = 12 if body[12:16] != b"VP8X" else 30
    return body[at:]


def frame(
    image: Image.Image, *, at: tuple[int, int] = (0, 0), flags: int = 0, **options: object
) -> bytes:
    """A frame of an animation, 100 ms."""
    numbers = (at[0] // 2, at[1] // 2, image.width - 1, image.height - 1, 100)
    head = b"".join(number.to_bytes(3, "little") for number in numbers) + bytes((flags,))
    return chunk(b"ANMF", head + data_of(image, **(options or {"lossless": True})))


def canvas(width: int, height: int, flags: int = 0x12) -> bytes:
    """The header of an extended file."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return chunk(b"VP8X", struct.pack("<I", flags) + sides)


def plain(
    color: Color | tuple[int, int, int, int], size: tuple[int, int] = (32, 32)
) -> Image.Image:
    """A picture of one color."""
    return Image.new("RGBA" if len(color) == 4 else "RGB", size, color)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_still_is_read(mode: str, lossless: bool) -> None:  # noqa: FBT001 -- a parameter
    """Of either codec, with transparency and without."""
    image = scene(PURPLE).convert(mode)
    if mode == "RGBA":
        image.paste((0, 0, 0, 0), (0, 0, 9, 9))
    assert hits(look(encoded(image, "WEBP", lossless=lossless)))


def test_frames_are_put_where_they_belong() -> None:
    """In pairs of pixels, over what is there."""
    part = frame(plain(BLUE, (16, 32)), at=(16, 0))
    frames = look(riff(canvas(32, 32), frame(plain(RED)), part))
    assert color_of(frames[0]) == RED
    assert near(color_of(frames[1]), (128, 0, 128))
    assert len(frames) == 2


def test_frame_replaces_or_blends_and_is_cleared() -> None:
    """Flag 2: it does not blend; flag 1: its place is cleared afterwards."""
    half = plain((0, 0, 255, 128))
    blended = look(riff(canvas(32, 32), frame(plain(RED)), frame(half)))
    assert near(color_of(blended[1]), (127, 0, 128), 2)
    replaced = look(riff(canvas(32, 32), frame(plain(RED)), frame(half, flags=2)))
    assert near(color_of(replaced[1]), (127, 127, 255), 2)
    corner = frame(plain(GREEN, (2, 2)))
    cleared = look(riff(canvas(32, 32), frame(plain(RED), flags=1), corner))
    assert color_of(cleared[0]) == RED
    assert near(color_of(cleared[1]), (255, 255, 255), 3)


def test_lossy_frame_with_transparency_is_read() -> None:
    """Its alpha is a chunk of its own."""
    image = scene(PURPLE).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 30, 30))
    body = riff(canvas(*image.size), frame(image, quality=80), frame(scene(), quality=80))
    assert hits(look(body))


def test_still_beside_an_animation_is_read() -> None:
    """Which old viewers may show."""
    still = data_of(plain(PURPLE), lossless=True)
    frames = chunk(b"ANIM", bytes(6)) + frame(plain(RED)) + frame(plain(BLUE))
    assert hits(look(riff(canvas(32, 32, 0x10), still, frames))) == ["still picture"]
    with pytest.raises(UndecodableImage):  # that nobody can decode
        look(riff(canvas(32, 32), frames, still))


def test_profile_and_metadata_are_taken_in() -> None:
    """The first of each; what else is there is for `hidden`."""
    exif = Image.Exif()
    exif[0x0112] = 3
    body = encoded(scene(), "WEBP", exif=exif, icc_profile=b"no profile", xmp=b"<xmp/>")
    frames, rests = read_webp(Window(body + b"tail"), SPEC, Bounds())
    assert "as stored" in places(frames)
    assert [rest.where for rest in rests] == [
        "metadata", "EXIF thumbnail", "metadata", "within the data", "after the end",
    ]  # fmt: skip
    assert rests[0].window.bytes() == b"no profile"
    assert rests[-1].window.bytes() == b"tail"


def test_animation_that_breaks_off_is_read_as_far_as_it_goes() -> None:
    """As in a browser; of a still, nothing."""
    body = animated(scenes(6, {2}, PURPLE), "WEBP")
    starts = [at for at in range(len(body)) if body.startswith(b"ANMF", at)]
    assert hits(look(body[: starts[3]]))
    assert not hits(look(body[: starts[2]]))
    assert look(body[: starts[5] + 60])
    still = encoded(scene(PURPLE), "WEBP")
    with pytest.raises(UndecodableImage):
        look(still[: len(still) // 2])


def test_file_without_a_picture_is_damaged() -> None:
    """A canvas alone, or a frame without one."""
    for body in (riff(canvas(32, 32)), riff(frame(plain(RED)))):
        with pytest.raises(UndecodableImage) as caught:
            read_webp(Window(body), SPEC, Bounds())
        assert caught.value.code == Code.DAMAGED


def test_file_of_too_many_chunks_is_too_large() -> None:
    """However little is in them."""
    with pytest.raises(UndecodableImage, match="over 100000 chunks"):
        look(riff(canvas(9, 9), chunk(b"none", b"") * 100_001))


def test_what_decoders_read_is_searched_too() -> None:
    """They need not use up all of it."""
    frames = frame(plain(RED)) + frame(plain(BLUE))
    _, rests = read_webp(Window(riff(canvas(32, 32), frames)), SPEC, Bounds())
    (data,) = (rest.window.bytes() for rest in rests if rest.where == "within the data")
    assert data.endswith(frame(plain(BLUE))[8:])
    assert len(data) == len(canvas(32, 32) + frames) - 3 * 8


@pytest.mark.parametrize("lossless", [False, True])
def test_frame_with_transparency_weighs_more_whatever_the_header_says(
    lossless: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """It is decoded with it."""
    opaque = frame(plain(RED), lossless=lossless)
    half = frame(plain((0, 0, 255, 128)), lossless=lossless)
    loads = []
    for flags, body in ((0x02, opaque), (0x02, half), (0x12, opaque)):
        webp = _Webp(Window(riff(canvas(1000, 1000, flags), body)), Bounds())
        webp.parse()
        loads.append(webp.load.pixels // 1_000_000)
    assert loads == [2, 5, 5]


@pytest.mark.parametrize("name", ["webp-1000-large-frames.webp", "webp-canvas.webp"])
def test_animation_of_too_many_pixels_is_too_large(name: str) -> None:
    """Before the time is spent."""
    with pytest.raises(UndecodableImage) as caught:
        look(bad_stills.FILES[name]())
    assert caught.value.code == Code.TOO_LARGE


def test_animation_of_1000_small_frames_is_read() -> None:
    """Two that come again and again are two."""
    assert len(look(bad_stills.webp(1000))) == 2
