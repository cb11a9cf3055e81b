"""How different two pictures look, cheaply: as thumbnails of 32 x 32, compared cell by cell.

A cell is an eighth of the width by an eighth of the height. Pictures are as different as their
most different cells, so that a picture within the picture counts as much as a change everywhere.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safety_proxy.crops import UInt8Array

Thumb = NDArray[np.int16]

_SIDE: Final = 32
_CELL: Final = 4

# Levels of 255 by which a cell differs, as the mean over its pixels and channels. What is below
# EQUAL is the same picture saved twice; below ALIKE nobody would call it another.
EQUAL: Final = 3.0
ALIKE: Final = 24.0


def thumb_of(image: Image.Image) -> Thumb:
    """(32, 32, C) int16 of 0 to 255; C is 4 for every mode with transparency, 3 for every other.

    What is transparent counts as little as it is seen: colors are multiplied by alpha.
    """
    if image.mode in {"1", "P"}:
        image = image.convert("RGB")
    mode = {"LA": "RGBa", "RGBA": "RGBa", "L": "RGB"}.get(image.mode, image.mode)
    if image.mode == "LA":
        image = image.convert("RGBA")
    image = image if image.mode == mode else image.convert(mode)
    # Averaging by whole factors first costs a tenth of doing all of it exactly.
    factors = max(1, image.width // (2 * _SIDE)), max(1, image.height // (2 * _SIDE))
    small = image.reduce(factors) if max(factors) > 1 else image
    return np.asarray(small.resize((_SIDE, _SIDE), Image.Resampling.BOX)).astype(np.int16)


def full_thumb_of(image: Image.Image) -> Thumb:
    """(32, 32, 7) int16 of 0 to 255, for every mode.

    What `thumb_of` gives, with alpha; and the colors once more as they are without transparency,
    where they count even if nobody sees them.
    """
    if not image.has_transparency_data:
        colors = thumb_of(image if image.mode == "RGB" else image.convert("RGB"))
        return np.concatenate([colors, np.full((_SIDE, _SIDE, 1), 255, np.int16), colors], axis=2)
    image = image.convert("RGBA")
    return np.concatenate([thumb_of(image), thumb_of(image.convert("RGB"))], axis=2)


def thumb_of_crop(crop: UInt8Array) -> Thumb:
    """The same of a crop."""
    return thumb_of(Image.fromarray(crop))


def distance(one: Thumb, other: Thumb) -> float:
    """By how many levels, 0 to 255, the most different cells of two thumbnails differ."""
    return float(distances(one[None], other)[0])


def distances(several: NDArray[np.int16], other: Thumb) -> NDArray[np.float32]:
    """(N,) of (N, 32, 32, C): the distance of each from `other`."""
    worst: NDArray[np.float32] = _by_cell(np.abs(several - other)).max(axis=(1, 2))
    return worst


def has_hidden_colors(thumb: Thumb) -> bool:
    """Whether a picture has colors that are seen neither over white nor over black.

    thumb: its `full_thumb_of`. All of them are compared with what is seen over one of the two: a
    drawing in black and white has each of its cells in one or the other.
    """
    over_black, alpha, colors = thumb[..., :3], thumb[..., 3:4], thumb[..., 4:]
    seen = np.stack([over_black, over_black + 255 - alpha])
    return bool(distances(seen, colors).min() > ALIKE)


def _by_cell(differences: NDArray[np.int16]) -> NDArray[np.float32]:
    """(N, 8, 8) of (N, 32, 32, C), C at most 8: the mean of each cell.

    In whole numbers, which of 4 pixels below each other are no larger than 1020; a fifth of the
    time that `mean` takes.
    """
    count, _, _, channels = differences.shape
    cells, row = _SIDE // _CELL, _SIDE * channels
    columns = differences.reshape(count, cells, _CELL, row).sum(axis=2, dtype=np.int16)
    by_cell = columns.reshape(count, cells, cells, _CELL * channels).sum(axis=3, dtype=np.int16)
    means: NDArray[np.float32] = by_cell.astype(np.float32) / (_CELL * _CELL * channels)
    return means
