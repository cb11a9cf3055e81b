"""A decoded picture -> its PDQ hash, which hardly changes when the picture is encoded anew.

The hash is that of Meta's reference implementation, by its own C++ code. As there, a picture that
is larger than 512 x 512 is first squeezed into that square; how it is shown decides, not how it is
stored, so a palette, gray with alpha or 16 bit make no difference.
"""

from typing import Final

import numpy as np
import pdqhash  # type: ignore[import-untyped]  # it has no stubs
from PIL import Image

from safety_proxy.evidence import Pdq

# The reference's DOWNSAMPLE_DIMS (pdq/cpp/io/pdqio.cpp): its filter takes seconds for what cameras
# make. Measured on the reference's pictures, that moves a hash by at most 14 of 256 bits.
_SIDE: Final = 512

_Turn = Image.Transpose
_TURNS: Final = (
    _Turn.ROTATE_90,
    _Turn.ROTATE_180,
    _Turn.ROTATE_270,
    _Turn.FLIP_LEFT_RIGHT,
    _Turn.FLIP_TOP_BOTTOM,
    _Turn.TRANSPOSE,
    _Turn.TRANSVERSE,
)


def pdq_of(image: Image.Image) -> Pdq:
    """The hash of a picture of any mode; transparency is shown over white.

    Of a picture under 5 pixels wide or high the quality is 0. Pure; takes about 6 ms.
    """
    return _hash(reduced(image))


def turned_pdqs(image: Image.Image) -> tuple[Pdq, ...]:
    """The hashes of the picture as it is and of its seven turned and mirrored copies.

    Each copy is hashed for itself. The reference derives all eight from one transform, but its
    filter is not symmetric: such a hash is up to 102 bits away from that of the copy.
    """
    small = reduced(image)
    return (_hash(small), *(_hash(small.transpose(turn)) for turn in _TURNS))


def _hash(image: Image.Image) -> Pdq:
    vector, quality = pdqhash.compute(np.asarray(image))
    return Pdq(np.packbits(np.asarray(vector, dtype=np.uint8)).tobytes(), int(quality))


def reduced(image: Image.Image) -> Image.Image:
    """In RGB, no larger than what is hashed; the hashes are the same."""
    shown = _as_shown(image)
    if max(shown.size) <= _SIDE:
        return shown
    return shown.resize((_SIDE, _SIDE), Image.Resampling.BOX)


def _as_shown(image: Image.Image) -> Image.Image:
    """In RGB: transparency over white, 16 bit gray scaled and not clipped."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image, dtype=np.int64).clip(0, 0xFFFF)
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
