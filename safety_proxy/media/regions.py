"""Which parts of a picture the model looks at, and the crops of them.

| shape, beside the model's own | views of a still |
|---|---|
| up to 1.05 : 1 | the model's own preprocessing |
| up to 1.5 : 1 | that, and the whole picture squashed: a center crop leaves out its ends |
| longer | that, and so many parts along the long side that they cover all of it, at most 12; up to 2.5 : 1 the whole too |
| from 24 : 1 on | parts of several panels each, side by side and below each other |
| most of it one flat color | what else there is, enlarged: in one, or up to 3 parts that lie apart |

Frames of animations get the first two lines only; a long one is folded into panels, all in one
crop. Models that squash or letterbox see the whole anyway, and get parts alone.
"""  # noqa: E501 -- a table

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safety_proxy.crops import CropSpec, UInt8Array

# Left, top, right, bottom: as shares of the picture's width and height.
Box: TypeAlias = tuple[float, float, float, float]

_ALL: Final[Box] = (0.0, 0.0, 1.0, 1.0)

# A center crop of 1.05 : 1 leaves out strips of 2.5 % of the length at either end.
_NEARLY_SQUARE: Final = 1.05
_LONG: Final = 1.5
_TOO_LONG_AS_ONE: Final = 2.5
_MOST_PARTS: Final = 12

# A part is squashed up to this ratio; a longer one is folded, into 8 x 8 panels at most.
_FOLDED: Final = 2.25
_MOST_FOLDS: Final = 8

# A picture of 40,000,000 x 1 would be resized to gigabytes before most of it is cut away. From so
# many crops' area on, only the part that stays is resized.
_STRETCHED: Final = 16

# Views beside the model's own are made from a picture of at least so many times their size.
_SPARE: Final = 2

# What differs from the edge by more than this is no flat border.
_FLAT_LEVELS: Final = 24
_FLAT_SIDE: Final = 128
_MOSTLY_FLAT: Final = 0.3
_MOST_INNER_PARTS: Final = 3
_TINY: Final = 1 / 16


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of the picture on its way into a crop.

    size: width and height that `box` is resized to; `cut` of it, if not all, is put at `at`.
    """

    box: Box
    size: tuple[int, int]
    cut: tuple[int, int, int, int] | None = None
    at: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class View:
    """One crop: what it shows, for people, and the pieces it is made of."""

    where: str
    pieces: tuple[Piece, ...]
    own: bool = False  # the model's own preprocessing, from every pixel


def views_of(size: tuple[int, int], spec: CropSpec, *, few: bool) -> list[View]:
    """The views of a picture of this width and height, the model's own first.

    few: two at most, for pictures that come in numbers.
    """
    across = size[0] * spec.height > size[1] * spec.width
    ratio = (size[0] / size[1]) / (spec.width / spec.height)
    ratio = ratio if across else 1 / ratio
    own = View("", (_own(size, spec),), own=True)
    sees_all = spec.resize_mode != "shortest"
    if ratio <= _NEARLY_SQUARE:
        return [own]
    whole = _strip("whole picture", (0.0, 1.0), spec, across=across, ratio=ratio if few else 1)
    if few or ratio <= _LONG:
        return [own] if sees_all and ratio <= _TOO_LONG_AS_ONE else [own, whole]
    parts = list(_parts(ratio, spec, across=across))
    if not sees_all and len(parts) % 2 and len(parts) < _MOST_PARTS:
        del parts[len(parts) // 2]  # the one in the middle is the model's own crop
    return [own, *([whole] if ratio <= _TOO_LONG_AS_ONE and not sees_all else []), *parts]


def view_of_part(box: Box, where: str, size: tuple[int, int], spec: CropSpec) -> View:
    """One part of a picture of this width and height, whole."""
    width, height = (box[2] - box[0]) * size[0], (box[3] - box[1]) * size[1]
    ratio = width / height / (spec.width / spec.height)
    return _strip(where, (0.0, 1.0), spec, across=ratio > 1, ratio=max(ratio, 1 / ratio), box=box)


def _parts(ratio: float, spec: CropSpec, *, across: bool) -> Iterator[View]:
    """Squares along the long side that cover it; more of it in each where 12 would not."""
    count = min(ceil(ratio), _MOST_PARTS)
    length = max(1.0, ratio / count) / ratio
    for number in range(count):
        start = number * (1 - length) / (count - 1)
        yield _strip(
            _name(number, count, across=across),
            (start, start + length),
            spec,
            across=across,
            ratio=length * ratio,
        )


def _name(number: int, count: int, *, across: bool) -> str:
    ends = ("left part", "right part") if across else ("upper part", "lower part")
    if count <= 3 and number in {0, count - 1}:  # noqa: PLR2004 -- two ends and a middle
        return ends[0] if number == 0 else ends[1]
    return f"part {number + 1} of {count}"


def _strip(
    where: str,
    stretch: tuple[float, float],
    spec: CropSpec,
    *,
    across: bool,
    ratio: float,
    box: Box = _ALL,
) -> View:
    """A stretch along the long side of `box` in one crop, folded into k x k panels if it is long.

    ratio: of the stretch's length to its width.
    """
    folds = 1 if ratio < _FOLDED else min(round(sqrt(ratio)), _MOST_FOLDS)
    start, end = stretch
    panel = (end - start) / folds**2
    pieces = []
    for number in range(folds**2):
        low, high = start + number * panel, start + (number + 1) * panel
        part = (low, 0.0, high, 1.0) if across else (0.0, low, 1.0, high)
        row, column = divmod(number, folds)
        left, right = (round(edge * spec.width / folds) for edge in (column, column + 1))
        top, bottom = (round(edge * spec.height / folds) for edge in (row, row + 1))
        if right > left and bottom > top:
            pieces.append(Piece(_within(box, part), (right - left, bottom - top), at=(left, top)))
    return View(where, tuple(pieces))


def _within(box: Box, part: Box) -> Box:
    """`part` of `box`, as a part of the whole."""
    width, height = box[2] - box[0], box[3] - box[1]
    return (
        box[0] + part[0] * width,
        box[1] + part[1] * height,
        min(1.0, box[0] + part[2] * width),
        min(1.0, box[1] + part[3] * height),
    )


def _own(size: tuple[int, int], spec: CropSpec) -> Piece:
    """The model's own preprocessing, as open_clip has it."""
    width, height = _resized(size, spec)
    if spec.resize_mode == "longest":
        at = ((spec.width - width) // 2, (spec.height - height) // 2)
        return Piece(_ALL, (width, height), at=at)
    left = round((width - spec.width) / 2)
    top = round((height - spec.height) / 2)
    right, bottom = left + spec.width, top + spec.height
    if width * height > _STRETCHED * spec.width * spec.height:
        kept = (left / width, top / height, right / width, bottom / height)
        return Piece(kept, (spec.width, spec.height))
    return Piece(_ALL, (width, height), cut=(left, top, right, bottom))


def _resized(size: tuple[int, int], spec: CropSpec) -> tuple[int, int]:
    """Width and height before cropping; the rounding is torchvision's and open_clip's."""
    width, height = size
    match spec.resize_mode:
        case "squash":
            return spec.width, spec.height
        case "shortest" if spec.width != spec.height:
            scale = min(height / spec.height, width / spec.width)
            return round(width / scale), round(height / scale)
        case "shortest" if width <= height:
            return spec.width, int(spec.width * height / width)
        case "shortest":
            return int(spec.height * width / height), spec.height
        case "longest":
            scale = max(height / spec.height, width / spec.width)
            return max(1, round(width / scale)), max(1, round(height / scale))


class Cutter:
    """Makes crops of one picture, of whatever mode can be resized.

    What is not the model's own view is made from a smaller copy, which costs a tenth and is seen
    at no more than half of its resolution.
    """

    def __init__(self, image: Image.Image, spec: CropSpec) -> None:
        self._image = image
        self._spec = spec
        self._small: Image.Image | None = None

    def crop(self, view: View, color: Callable[[Image.Image], Image.Image]) -> UInt8Array:
        """(height, width, 3) uint8; `color` turns what has been resized into RGB."""
        spec = self._spec
        canvas: Image.Image | None = None
        for piece in view.pieces:
            resized = color(self._resized(piece, whole=view.own))
            resized = resized.crop(piece.cut) if piece.cut else resized
            if resized.size == (spec.width, spec.height):
                return np.asarray(resized)
            if canvas is None:
                canvas = Image.new("RGB", (spec.width, spec.height), (spec.fill_color,) * 3)
            canvas.paste(resized, piece.at)
        return np.asarray(canvas)

    def _resized(self, piece: Piece, *, whole: bool) -> Image.Image:
        method = Image.Resampling[self._spec.interpolation.upper()]
        source = self._image if whole else self._source(piece)
        if piece.box == _ALL:
            return source.resize(piece.size, method)
        (width, height), (left, top, right, bottom) = source.size, piece.box
        return source.resize(
            piece.size, method, box=(left * width, top * height, right * width, bottom * height)
        )

    def _source(self, piece: Piece) -> Image.Image:
        """The smaller copy, where it has spare resolution for this piece."""
        small = self.small()
        left, top, right, bottom = piece.box
        across, down = piece.size
        has_width = (right - left) * small.width >= _SPARE * across
        has_height = (bottom - top) * small.height >= _SPARE * down
        if (has_width or small.width == self._image.width) and (
            has_height or small.height == self._image.height
        ):
            return small
        return self._image

    def small(self) -> Image.Image:
        """The picture, averaged down to at least twice the crop's size and no more than needed."""
        if self._small is None:
            spec, (width, height) = self._spec, self._image.size
            most = _MOST_PARTS if max(width, height) > _TOO_LONG_AS_ONE * min(width, height) else 1
            factor = min(width // (_SPARE * spec.width), height // (_SPARE * spec.height))
            factors = [
                max(1, factor, length // (_SPARE * side * most * _STRETCHED))
                for length, side in ((width, spec.width), (height, spec.height))
            ]
            small = self._image
            if max(factors) > 1:
                small = self._image.reduce((factors[0], factors[1]))
            self._small = small
        return self._small


def inner_parts(image: Image.Image) -> list[Box]:
    """Where the pictures are, if two thirds of all there is are a flat ground; 3 at most.

    One box around all of them if that leaves as much out, so that a picture is in one piece; else
    those between which rows or columns are flat, the largest first, without what is tiny.
    image: RGB, any size; its small copy will do.
    """
    factors = max(1, image.width // _FLAT_SIDE), max(1, image.height // _FLAT_SIDE)
    small = np.asarray(image.reduce(factors)).astype(np.int16)
    edges = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    ground = np.median(edges, axis=0)
    differs = (np.abs(small - ground) > _FLAT_LEVELS).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not rows.size:
        return []
    height, width = differs.shape
    around = _share((rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1), (height, width))
    if _area(around) <= _MOSTLY_FLAT:
        return [around]
    parts = [
        _share((band[0] + down[0], band[0] + down[1]), across, (height, width))
        for band in _runs(differs.any(axis=1))
        for across in _runs(differs[slice(*band)].any(axis=0))
        for down in _runs(differs[slice(*band), slice(*across)].any(axis=1))
    ]
    if sum(map(_area, parts)) > _MOSTLY_FLAT:
        return []
    large = [part for part in parts if _shortest_side(part) >= _TINY]
    return sorted(large, key=_area, reverse=True)[:_MOST_INNER_PARTS]


def _runs(marks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each stretch of marks."""
    edges = np.flatnonzero(np.diff(marks.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _share(down: tuple[int, int], across: tuple[int, int], size: tuple[int, int]) -> Box:
    height, width = size
    left, right = (float(edge / width) for edge in across)
    top, bottom = (float(edge / height) for edge in down)
    return left, top, right, bottom


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shortest_side(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])
