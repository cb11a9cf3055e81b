"""Tests of media/formats/png.py: the chunks of a PNG, animated or not."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code
from safety_proxy.media.formats.png import _Png, read_png
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, color_of, hits, look, near, places
from tests.media.samples import bad_stills
from tests.media.samples.animations import animated
from tests.media.samples.bad_stills import PNG, header
from tests.media.samples.stills import chunk, png_of
from tests.media.samples.tools import scene, scenes
from tests.pictures import BLUE, GREEN, PURPLE, RED, Color, encoded

END = chunk(b"IEND", b"")


def rows(color: Color, width: int = 32, height: int = 32) -> bytes:
    """The data of a picture of one color."""
    return zlib.compress((b"\0" + bytes(color) * width) * height)


def control(
    number: int,
    *,
    size: tuple[int, int] = (32, 32),
    at: tuple[int, int] = (0, 0),
    dispose: int = 0,
    blend: int = 0,
) -> bytes:
    """What comes before a frame of 100 ms."""
    numbers = struct.pack(">5I2H2B", number, *size, *at, 1, 10, dispose, blend)
    return chunk(b"fcTL", numbers)


def frame(number: int, color: Color, size: tuple[int, int] = (32, 32)) -> bytes:
    """The data of a frame after the first."""
    return chunk(b"fdAT", struct.pack(">I", number) + rows(color, *size))


def apng(*chunks: bytes) -> bytes:
    """An APNG of 32 x 32, RGB."""
    return PNG + header(32, 32) + chunk(b"acTL", struct.pack(">2I", 2, 0)) + b"".join(chunks) + END


def still(*chunks: bytes, color: Color = RED) -> bytes:
    """A PNG of 32 x 32, RGB, with more chunks before its data."""
    return PNG + header(32, 32) + b"".join(chunks) + chunk(b"IDAT", rows(color)) + END


def gray_16(levels: np.ndarray[tuple[int, int], np.dtype[np.uint16]], extra: bytes = b"") -> bytes:
    """A gray PNG of 16 bits."""
    wide = levels.astype(">u2")
    data = b"".join(b"\0" + row.tobytes() for row in wide)
    return png_of(data, (wide.shape[1], wide.shape[0]), depth=16, color=0, extra=extra)


def hidden_data(body: bytes) -> bytes:
    """What of the pixel data is searched for further pictures."""
    _, rests = read_png(Window(body), SPEC, Bounds())
    (rest,) = (rest for rest in rests if rest.where == "within the data")
    return rest.window.bytes()


def test_gray_of_16_bits_is_scaled() -> None:
    """A ramp stays one, where a plain conversion would be nearly white."""
    ramp = np.linspace(0, 65_535, 32 * 32).astype(np.uint16).reshape(32, 32)
    (seen,) = look(gray_16(ramp))
    expected = np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(seen.crop, expected)


def test_gray_of_16_bits_may_have_a_transparent_level() -> None:
    """Which is white on a page."""
    levels = np.full((32, 32), 100 << 8, np.uint16)
    levels[:, 16:] = 0
    seen = look(gray_16(levels, chunk(b"tRNS", b"\0\0")))
    assert near(color_of(seen[0]), (178, 178, 178))


def test_animation_of_16_bits_is_scaled() -> None:
    """As a still is."""
    parts = [PNG, header(8, 8, depth=16, color=0), chunk(b"acTL", struct.pack(">2I", 2, 0))]
    for number, level in enumerate((b"\x40\0", b"\x90\0")):
        data = zlib.compress((b"\0" + level * 8) * 8)
        kind, start = (b"fdAT", struct.pack(">I", 2)) if number else (b"IDAT", b"")
        parts += [control(number, size=(8, 8)), chunk(kind, start + data)]
    frames = look(b"".join(parts) + END)
    assert [color_of(one)[0] for one in frames] == [0x40, 0x90]


def test_default_image_that_is_no_frame_is_looked_at() -> None:
    """Old viewers show it, and nothing else."""
    body = apng(chunk(b"IDAT", rows(PURPLE)), control(0), frame(1, RED), control(2), frame(3, BLUE))
    assert hits(look(body)) == ["default image"]
    broken = apng(chunk(b"IDAT", b"noise"), control(0), frame(1, RED), control(2), frame(3, BLUE))
    assert [color_of(one) for one in look(broken)] == [RED, BLUE]


@pytest.mark.parametrize(("dispose", "left"), [(0, GREEN), (1, (128, 255, 128)), (2, RED)])
def test_disposal_is_heeded(dispose: int, left: Color) -> None:
    """What the second frame leaves is below the third, a point in the corner."""
    left_half = {1: (255, 255, 255)}.get(dispose, left)
    body = apng(
        control(0), chunk(b"IDAT", rows(RED)),
        control(1, dispose=dispose), frame(2, GREEN),
        control(3, size=(8, 32)), frame(4, BLUE, (8, 32)),
    )  # fmt: skip
    last = next(one for one in look(body) if one.where.startswith("frame 3"))
    assert tuple(last.crop[16, 0]) == BLUE
    assert tuple(last.crop[16, 24]) == left_half


def test_frames_without_data_or_size_are_passed_over() -> None:
    """As is data before any."""
    body = apng(
        chunk(b"fdAT", bytes(9)), control(0), chunk(b"IDAT", rows(RED)),
        control(1), control(2, size=(0, 9)), frame(3, BLUE), chunk(b"fcTL", b"short"),
    )  # fmt: skip
    assert [color_of(one) for one in look(body)] == [RED]


def test_chunk_of_wrong_checksum_is_left_out() -> None:
    """Where a picture can do without it."""
    transparent = chunk(b"tRNS", struct.pack(">3H", *RED))
    assert color_of(look(still(transparent))[0]) == (255, 255, 255)
    assert color_of(look(still(transparent[:-1] + b"?"))[0]) == RED


def test_data_of_wrong_checksum_is_looked_at() -> None:
    """Some viewer shows it."""
    body = still(color=PURPLE)
    at = body.index(b"IEND") - 5
    assert hits(look(body[:at] + bytes((body[at] ^ 1,)) + body[at + 1 :]))


def test_cut_file_is_read_as_far_as_it_goes() -> None:
    """Unless that is nothing."""
    body = encoded(scene(PURPLE))
    assert hits(look(body[: len(body) * 6 // 10]))
    assert hits(look(body[:-12]))
    with pytest.raises(UndecodableImage, match="nothing of"):
        look(PNG + header(32, 32) + chunk(b"IDAT", b"noise") + END)
    with pytest.raises(UndecodableImage, match="nothing of"):
        look(PNG + header(32, 32) + END)


def test_black_picture_is_no_damaged_one() -> None:
    """Though all its pixels are zero."""
    assert color_of(look(still(color=(0, 0, 0)))[0]) == (0, 0, 0)


def test_animation_cut_late_is_a_shorter_one() -> None:
    """As in a browser."""
    body = animated(scenes(6, {2}, PURPLE), "PNG")
    starts = [at for at in range(len(body)) if body.startswith(b"fcTL", at)]
    assert not hits(look(body[: starts[2] - 4]))
    assert hits(look(body[: starts[3] - 4]))


@pytest.mark.parametrize("body", [PNG, PNG + END, PNG + chunk(b"IHDR", b"short") + END])
def test_file_without_header_is_damaged(body: bytes) -> None:
    """None, another chunk first, or one too short."""
    with pytest.raises(UndecodableImage) as caught:
        look(body)
    assert caught.value.code == Code.DAMAGED


def test_profile_wins_over_gamma_and_code_points_over_all() -> None:
    """The order of the specification; each alone does what it says."""
    gray = (100, 100, 100)
    dark, srgb = chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"sRGB", b"\0")
    gamma = color_of(look(still(dark, color=gray))[0])
    assert gamma[0] > 140
    assert color_of(look(still(dark, srgb, color=gray))[0]) == gray
    assert color_of(look(still(chunk(b"gAMA", bytes(4)), color=gray))[0]) == gray
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(b"no profile"))
    assert color_of(look(still(profile, dark, color=gray))[0]) == gray
    points = chunk(b"cICP", bytes((1, 8, 0, 1)))  # linear light
    assert color_of(look(still(points, profile, color=gray))[0])[0] > 140


@pytest.mark.parametrize("data", [b"noise", zlib.compress(bytes(5 << 20))])
def test_profile_that_is_broken_or_too_large_is_ignored(data: bytes) -> None:
    """As by a browser."""
    assert color_of(look(still(chunk(b"iCCP", b"a\0\0" + data)))[0]) == RED


def test_orientation_is_read_both_ways() -> None:
    """Not every browser heeds it in a PNG."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert "as stored" in places(look(encoded(scene(), exif=exif)))


def test_further_chunks_and_what_follows_are_the_rest() -> None:
    """For `hidden` to look at."""
    _, rests = read_png(Window(still(chunk(b"prVt", b"data")) + b"tail"), SPEC, Bounds())
    found = [(rest.where, rest.window.bytes(), rest.is_tail) for rest in rests]
    assert found == [
        ("metadata", b"data", False),
        ("within the data", rows(RED), False),
        ("after the end", b"tail", True),
    ]
    _, rests = read_png(Window(still()[:-12] + bytes(8) + b"tail"), SPEC, Bounds())
    assert rests[-1].window.bytes() == bytes(8) + b"tail"


@pytest.mark.parametrize("stream", [b"", b"\x78\x01"], ids=["after it", "in its stored blocks"])
def test_of_pixels_only_what_may_follow_them_is_searched(stream: bytes) -> None:
    """Not 10 MB of noise; all that follows the last pixel, be it in the same stream."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (1000, 1 + 3 * 1000), np.uint8)
    pixels[:, 0] = 0
    hidden = b"hidden" + bytes(300_000)
    raw = pixels.tobytes()
    data = zlib.compress(raw + hidden, 0) if stream else zlib.compress(raw, 0) + hidden
    body = PNG + header(1000, 1000) + chunk(b"IDAT", data) + END
    found = hidden_data(body)
    assert b"hidden" in found
    assert len(found) < len(hidden) + 200_000


def test_data_of_frames_that_nobody_could_decode_is_searched() -> None:
    """As are frames behind the one where an animation breaks off."""
    body = apng(
        control(0), chunk(b"IDAT", rows(RED)), control(1), chunk(b"fdAT", bytes(4) + b"broken"),
        control(2), chunk(b"fdAT", bytes(4) + b"behind it"),
    )  # fmt: skip
    assert hidden_data(body) == rows(RED) + b"broken" + b"behind it"


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IEND"])
def test_what_is_too_much_for_a_chunk_is_the_rest(kind: bytes) -> None:
    """Decoders take what they need of it."""
    usual = {b"IHDR": header(32, 32)[8:-4], b"PLTE": bytes(768), b"IEND": b""}[kind]
    body = {b"IHDR": b"", b"PLTE": header(32, 32), b"IEND": still()[8:-12]}[kind]
    more = PNG + body + chunk(kind, usual + b"more") + chunk(b"IDAT", rows(RED)) + END
    _, rests = read_png(Window(more), SPEC, Bounds())
    assert rests[0].window.bytes() == usual + b"more"


def test_frames_with_transparency_weigh_more() -> None:
    """By color type, by a transparent color wherever it stands, or cleared."""
    mark = chunk(b"tRNS", bytes(6))
    large = PNG + header(1000, 1000)
    frame_of = control(0), chunk(b"IDAT", b"")
    loads = []
    for body in (
        large + b"".join(frame_of),
        large + mark + b"".join(frame_of),
        large + frame_of[0] + mark + frame_of[1],
        large + control(0, dispose=1) + frame_of[1],
        PNG + header(1000, 1000, color=6) + b"".join(frame_of),
    ):
        png = _Png(Window(body + END), Bounds())
        png.parse()
        loads.append(png.load.pixels // 1_000_000)
    assert loads == [4, 8, 4 + 8, 8, 8]


def test_palette_is_read() -> None:
    """With its transparency."""
    image = Image.new("P", (32, 32), 1)
    image.putpalette((*RED, *PURPLE))
    assert hits(look(encoded(image)))


@pytest.mark.parametrize(
    "name", ["png-100000.png", "png-12000-x-10000.png", "apng-large-canvas.apng"]
)
def test_file_of_too_many_pixels_is_too_large(name: str) -> None:
    """Before the time is spent."""
    with pytest.raises(UndecodableImage) as caught:
        look(bad_stills.FILES[name]())
    assert caught.value.code == Code.TOO_LARGE


def test_animation_of_too_many_frames_is_too_large() -> None:
    """However small they are; what its header claims is not asked."""
    assert look(bad_stills.apng(2, 2**31 - 1))
    with pytest.raises(UndecodableImage, match="all frames together"):
        look(bad_stills.apng(20_001, 2))


def test_file_of_too_many_chunks_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is in them."""
    monkeypatch.setattr("safety_proxy.media.formats.png._MOST_CHUNKS", 100)
    with pytest.raises(UndecodableImage, match="over 100 chunks"):
        look(still(chunk(b"prVt", b"") * 101))


def test_long_line_is_read() -> None:
    """39 million pixels wide, one high."""
    assert look(bad_stills.FILES["png-long-line.png"]())
