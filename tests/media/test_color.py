"""Tests of safety_proxy/media/color.py: what the numbers of a file look like."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from safety_proxy.media.color import (
    MOST_PROFILE_BYTES,
    ColorNotes,
    as_rgb,
    conversion,
    has_holes,
    inverted,
    is_strong,
    over,
    simple,
)
from tests.pictures import PURPLE, RED, encoded

RAMP = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)


def srgb_profile() -> bytes:
    """Of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def gray_profile() -> bytes:
    """Of a gray with gamma 1, put together by hand: lcms makes none."""
    curve = b"curv" + bytes(4) + (0).to_bytes(4, "big")
    white = b"XYZ " + bytes(4) + bytes.fromhex("0000f6d6000100000000d32d")
    head = bytearray(128)
    head[8:12] = b"\x02\x40\0\0"
    head[12:24] = b"mntrGRAYXYZ "
    head[36:40] = b"acsp"
    head[68:80] = bytes.fromhex("0000f6d6000100000000d32d")
    tags = (2).to_bytes(4, "big")
    tags += b"kTRC" + (156).to_bytes(4, "big") + (12).to_bytes(4, "big")
    tags += b"wtpt" + (168).to_bytes(4, "big") + (20).to_bytes(4, "big")
    profile = bytes(head) + tags + curve + white
    return len(profile).to_bytes(4, "big") + profile[4:]


def gray(level: int) -> Image.Image:
    """A small picture of one gray, as RGB."""
    return Image.new("RGB", (4, 4), (level,) * 3)


def level_of(image: Image.Image) -> int:
    """Of the green of the first pixel."""
    assert image.mode == "RGB"
    return int(np.asarray(image)[0, 0, 1])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("1", "L"),
        ("L", "L"),
        ("P", "RGB"),
        ("RGB", "RGB"),
        ("CMYK", "CMYK"),
        ("YCbCr", "RGB"),
        ("RGBX", "RGB"),
        ("I;16", "L"),
        ("I", "L"),
        ("F", "L"),
        ("LA", "LA"),
        ("RGBA", "RGBA"),
        ("PA", "RGBA"),
        ("La", "LA"),
        ("RGBa", "RGBA"),
    ],
)
def test_every_mode_becomes_one_of_a_few(mode: str, expected: str) -> None:
    """Those that can be resized."""
    assert simple(Image.new(mode, (9, 9))).mode == expected


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparency_that_hides_nothing_goes(mode: str) -> None:
    """An opaque picture costs no more than one without transparency."""
    image = Image.new("RGBA", (9, 9), (*RED, 255)).convert(mode)
    assert simple(image).mode == ("L" if mode == "LA" else "RGB")


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "1"])
def test_color_that_stands_for_transparent(mode: str) -> None:
    """As in PNG and GIF."""
    image = Image.new("RGB", (9, 9), "white").convert(mode)
    image.paste(0, (0, 0, 3, 3))
    corner = image.getpixel((0, 0))
    data = encoded(image, transparency=corner)
    with Image.open(io.BytesIO(data)) as read:
        found = simple(read)
    assert found.mode == "RGBA"
    assert has_holes(found)
    assert found.getchannel("A").getextrema() == (0, 255)


def test_16_bit_gray_is_scaled_and_not_clipped() -> None:
    """A ramp stays a ramp, where a plain conversion would be nearly white."""
    expected = (RAMP >> 8).astype(np.uint8)
    for mode in ("I;16", "I;16B"):
        image = Image.frombytes(mode, (32, 32), RAMP.astype("<u2" if mode == "I;16" else ">u2"))
        np.testing.assert_array_equal(np.asarray(simple(image)), expected)
    np.testing.assert_array_equal(
        np.asarray(simple(Image.fromarray(RAMP.astype(np.int32)))), expected
    )


def test_16_bit_gray_with_a_transparent_level() -> None:
    """That level alone."""
    image = Image.fromarray(RAMP)
    image.info["transparency"] = int(RAMP[5, 5])
    alpha = np.asarray(simple(image))[..., 1]
    assert (alpha == 0).sum() == 1
    assert alpha[5, 5] == 0


def test_float_gray_is_scaled() -> None:
    """0 to 1; what is no number is black."""
    image = Image.fromarray(np.array([[0, 0.5, 1, 2, -1, np.nan]], np.float32))
    assert np.asarray(simple(image)).tolist() == [[0, 127, 255, 255, 0, 0]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_over_a_ground(mode: str) -> None:
    """Half transparent black is half of the ground."""
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128)).convert(mode)
    for level in (0, 255):
        found = over(image, level)
        assert found.mode == mode[:-1]
        pixel = np.asarray(found)[0, 0]
        assert abs(int(np.atleast_1d(pixel)[0]) - level / 2) <= 1


@pytest.mark.parametrize(
    "notes",
    [
        ColorNotes(),
        ColorNotes(icc=b""),
        ColorNotes(icc=b"no profile"),
        ColorNotes(icc=srgb_profile()[:200]),
        ColorNotes(icc=srgb_profile() + bytes(MOST_PROFILE_BYTES)),
        ColorNotes(icc=gray_profile()),
        ColorNotes(gamma=0.45455),
        ColorNotes(gamma=1e-320),
        ColorNotes(code_points=(1, 13)),
        ColorNotes(code_points=(2, 2)),
        ColorNotes(code_points=(255, 255)),
    ],
)
def test_notes_that_change_nothing(notes: ColorNotes) -> None:
    """Or are broken, too large, or for another kind of picture."""
    assert conversion("RGB", notes) is None


def test_profile_of_srgb_changes_nothing_to_be_seen() -> None:
    """Within a level."""
    convert = conversion("RGB", ColorNotes(icc=srgb_profile()))
    assert convert is not None
    assert abs(level_of(convert(gray(100))) - 100) <= 1
    assert not is_strong(convert, "RGB")


def test_profile_of_grays_is_for_grays() -> None:
    """Linear gray becomes much brighter."""
    convert = conversion("L", ColorNotes(icc=gray_profile()))
    assert convert is not None
    assert level_of(convert(Image.new("L", (4, 4), 55))) == pytest.approx(128, abs=3)
    assert is_strong(convert, "L")


def test_gamma_of_a_png() -> None:
    """Dark is bright where it says so."""
    convert = conversion("RGB", ColorNotes(gamma=1.0))
    assert convert is not None
    assert level_of(convert(gray(55))) == pytest.approx(127, abs=2)
    assert is_strong(convert, "RGB")
    assert level_of(convert(Image.new("L", (4, 4), 55))) == pytest.approx(127, abs=2)


@pytest.mark.parametrize(
    ("transfer", "signal", "expected"),
    [(16, 0, 0), (16, 0.581, 252), (18, 0.75, 252), (16, 1, 255), (18, 1, 255), (16, 0.45, 152)],
)
def test_high_dynamic_range_is_mapped(transfer: int, signal: float, expected: int) -> None:
    """Paper white (58 % of PQ, 75 % of HLG) is nearly white on a screen, and more is no more."""
    convert = conversion("RGB", ColorNotes(code_points=(9, transfer)))
    assert convert is not None
    assert level_of(convert(gray(round(255 * signal)))) == pytest.approx(expected, abs=10)


def test_wide_gamut_is_mapped() -> None:
    """A green that BT.2020 has and a screen has not is the greenest there is; grays stay."""
    convert = conversion("RGB", ColorNotes(code_points=(9, 13)))
    assert convert is not None
    assert np.asarray(convert(Image.new("RGB", (2, 2), (0, 255, 0))))[0, 0].tolist() == [0, 255, 0]
    assert level_of(convert(gray(100))) == pytest.approx(100, abs=2)
    p3 = conversion("RGB", ColorNotes(code_points=(12, 13)))
    assert p3 is not None
    red = Image.new("RGB", (2, 2), (200, 60, 60))
    reds = [int(np.asarray(to(red))[0, 0, 0]) for to in (p3, convert)]
    assert 200 < reds[0] < reds[1]


def test_linear_light_is_encoded() -> None:
    """Code point 8."""
    convert = conversion("RGB", ColorNotes(code_points=(1, 8)))
    assert convert is not None
    assert level_of(convert(gray(55))) == pytest.approx(127, abs=2)


def test_cmyk_both_ways() -> None:
    """Inverted, purple is the green that is its opposite."""
    image = Image.new("RGB", (4, 4), PURPLE).convert("CMYK")
    assert np.asarray(as_rgb(image))[0, 0].tolist() == list(PURPLE)
    assert np.asarray(inverted(as_rgb)(image))[0, 0].tolist() == [0, 0, 0]
