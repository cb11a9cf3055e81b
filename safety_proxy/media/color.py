"""The numbers of a file -> colors as a browser shows them, in 8 bit sRGB.

What a file says of its colors comes as an ICC profile, a gamma (PNG), or the code points of ITU-T
H.273 (`nclx` in AVIF, `cICP` in PNG). It is applied to what has been resized, a thousandth of the
work; to all pixels only where it changes grays so much that the order would be seen, as in files
that show one picture with it and another without.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, ImageChops, ImageCms

from safety_proxy.crops import Float32Array, UInt8Array

Convert: TypeAlias = Callable[[Image.Image], Image.Image]

# Profiles of printing presses have 2 MB; nobody needs more.
MOST_PROFILE_BYTES: Final = 4 * 1024 * 1024

_SRGB: Final = ImageCms.createProfile("sRGB")
_PROFILE_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}

# Levels by which a gray changes, from which on all pixels are converted before any is averaged.
_STRONG_LEVELS: Final = 48

# H.273: transfer characteristics and color primaries that are not about those of sRGB.
_PQ: Final = 16
_HLG: Final = 18
_POWERS: Final = {4: 2.2, 5: 2.8, 8: 1.0}
_SCREEN_GAMMA: Final = 2.2
# Linear light to that of sRGB: BT.2020, and P3 with its two names.
_TO_SRGB: Final = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    11: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
    12: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}
# Candela per square meter of what is white on paper, ITU-R BT.2408.
_WHITE: Final = 203.0
_HLG_PEAK: Final = 1000.0


@dataclass(frozen=True, slots=True)
class ColorNotes:
    """What a file says of its colors.

    gamma: of the samples, 0.45455 for what is as usual.
    code_points: color primaries and transfer characteristics of H.273; they win over the others.
    inverted: whether it is known that CMYK is stored inverted, as Adobe does and browsers assume.
    """

    icc: bytes | None = None
    gamma: float | None = None
    code_points: tuple[int, int] | None = None
    inverted: bool = True


def simple(image: Image.Image) -> Image.Image:
    """The same picture as L, RGB, CMYK, or with transparency as LA or RGBA."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bit(image)
    if mode in {"I", "F"}:
        wide = np.asarray(image, np.float32) * (1 / 256 if mode == "I" else 255)
        return Image.fromarray(np.clip(np.nan_to_num(wide), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image if mode in {"LA", "RGBA"} else image.convert("LA" if mode == "La" else "RGBA")
        return image if has_holes(image) else image.convert(image.mode[:-1])
    if mode in {"L", "RGB", "CMYK"}:
        return image
    return image.convert("L" if mode == "1" else "RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """8 of 16 bits, scaled, where Pillow would clip."""
    wide = np.asarray(image, dtype=np.uint16)
    gray = Image.fromarray((wide >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and (holes := wide == transparent).any():
        gray.putalpha(Image.fromarray(np.where(holes, 0, 255).astype(np.uint8)))
    return gray


def has_holes(image: Image.Image) -> bool:
    """Whether any pixel of an image with an alpha channel is not opaque."""
    lowest = image.getchannel("A").getextrema()[0]
    return not isinstance(lowest, int) or lowest < 255  # noqa: PLR2004 -- opaque


def over(image: Image.Image, level: int) -> Image.Image:
    """LA or RGBA over a gray of this level, as L or RGB."""
    mode = "L" if image.mode == "LA" else "RGB"
    ground = Image.new(mode, image.size, level if mode == "L" else (level,) * 3)
    return Image.composite(image.convert(mode), ground, image.getchannel("A"))


def as_rgb(image: Image.Image) -> Image.Image:
    """L, RGB or CMYK as RGB, whatever the file says of its colors."""
    return image if image.mode == "RGB" else image.convert("RGB")


def inverted(convert: Convert) -> Convert:
    """The same for CMYK that is stored the other way round."""
    return lambda image: convert(ImageChops.invert(image))


def conversion(mode: str, notes: ColorNotes) -> Convert | None:
    """From L, RGB or CMYK to RGB in sRGB, as `notes` says; None if that changes nothing."""
    if notes.code_points is not None and mode != "CMYK":
        return _by_code_points(*notes.code_points)
    if notes.icc is not None:
        return _by_profile(notes.icc, mode)
    if notes.gamma is not None and mode != "CMYK":
        return _by_power(1 / (_SCREEN_GAMMA * notes.gamma))
    return None


def is_strong(convert: Convert, mode: str) -> bool:
    """Whether this conversion of L or RGB has to come before anything is averaged."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    after = np.asarray(convert(ramp.convert(mode))).astype(int)
    return int(np.abs(after - np.arange(256)[None, :, None]).max()) > _STRONG_LEVELS


def _by_profile(icc: bytes, mode: str) -> Convert | None:
    """None for a profile that is broken, too large, or made for another kind of picture."""
    if not 0 < len(icc) <= MOST_PROFILE_BYTES:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if _PROFILE_MODES.get(profile.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(profile, _SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return transform.apply


def _by_power(exponent: float) -> Convert | None:
    if not 0 < exponent < np.inf or 0.9 < exponent < 1.1:  # noqa: PLR2004 -- not to be seen
        return None
    ramp = np.arange(256) / 255
    table = (255 * ramp**exponent + 0.5).astype(int).tolist()
    return lambda image: image.point(table * len(image.getbands())).convert("RGB")


def _by_code_points(primaries: int, transfer: int) -> Convert | None:
    if transfer in _POWERS:
        return _by_power(_POWERS[transfer] / _SCREEN_GAMMA)
    matrix = _TO_SRGB.get(primaries)
    if transfer not in {_PQ, _HLG} and matrix is None:
        return None
    light = _light(transfer)

    def convert(image: Image.Image) -> Image.Image:
        linear = light[np.asarray(as_rgb(image))]
        if matrix is not None:
            linear = linear @ np.array(matrix, np.float32).T
        return Image.fromarray(_encoded(_rolled_off(linear) if transfer in {_PQ, _HLG} else linear))

    return convert


def _light(transfer: int) -> Float32Array:
    """(256,) linear light of each level; 1 is white on paper."""
    level = np.arange(256) / 255
    if transfer == _PQ:  # SMPTE ST 2084
        root = level ** (32 / 2523)
        light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return (10_000 / _WHITE * light ** (8192 / 1305)).astype(np.float32)
    if transfer == _HLG:  # ITU-R BT.2100, with the gamma of a display of 1000 cd/m2
        dark, bright = level**2 / 3, (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12
        scene = np.where(level <= 0.5, dark, bright)  # noqa: PLR2004 -- of the formula
        return (_HLG_PEAK / _WHITE * scene**1.2).astype(np.float32)
    curve = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 -- IEC 61966-2-1
    return curve.astype(np.float32)


def _rolled_off(light: Float32Array) -> Float32Array:
    """What is brighter than paper, squeezed into the last quarter."""
    knee = np.float32(0.75)
    bent = knee + (1 - knee) * (1 - np.exp(-(light - knee) / (1 - knee)))
    return np.where(light <= knee, light, bent)


def _encoded(linear: Float32Array) -> UInt8Array:
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)  # noqa: PLR2004 -- IEC 61966-2-1
    encoded: UInt8Array = (255 * curve + 0.5).astype(np.uint8)
    return encoded
