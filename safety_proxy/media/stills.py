"""One decoded picture -> its frames: upright, in the colors of a browser, each part that is shown.

Where viewers differ in what they show of the same bytes, all of it is looked at:

    transparent      over white and over black; and without transparency, which is what pict-rs
                     makes of it when it is asked for a JPEG. A browser shows none of the last.
    colors           with what the file says of them, and without
    CMYK             inverted, as browsers read it; and not, unless the file has Adobe's mark
    orientation      turned, and in formats where not every browser turns it, as it is stored

Each only where it shows something that the others do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.media.bounds import Frame, joined
from safety_proxy.media.color import (
    ColorNotes,
    Convert,
    as_rgb,
    conversion,
    inverted,
    is_strong,
    over,
    simple,
)
from safety_proxy.media.likeness import ALIKE, Thumb, distances, thumb_of
from safety_proxy.media.pdq import reduced
from safety_proxy.media.regions import Box, Cutter, View, inner_parts, view_of_part, views_of

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(slots=True)
class Picture:
    """A picture as the file has it, and what the file says of how to show it.

    orientation: 1 to 8, as in EXIF. is_always_turned: whether every browser heeds it.
    aperture: the part that a browser may cut out, if not all.
    """

    image: Image.Image
    notes: ColorNotes = field(default_factory=ColorNotes)
    orientation: int = 1
    is_always_turned: bool = True
    aperture: Box | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read the numbers of a picture."""

    where: str
    cutter: Cutter
    color: Convert


def frames_of(
    picture: Picture, spec: CropSpec, *, where: str = "", few: bool = False
) -> Iterator[Frame]:
    """The frames of a picture, the model's own view first; at least one.

    where: which picture of the file it is. few: as in `views_of`.
    Decodes the picture if nobody has yet, and raises what the decoder then raises.
    """
    stored = simple(picture.image)
    turn = _TURNS.get(picture.orientation)
    if turn is None:
        yield from _frames(stored, picture, spec, where=where, few=few)
        return
    yield from _frames(stored.transpose(turn), picture, spec, where=where, few=few)
    if not picture.is_always_turned:
        yield from _frames(stored, picture, spec, where=joined(where, "as stored"), few=few)


def crops_of(image: Image.Image, spec: CropSpec, where: str, *, few: bool = True) -> list[Frame]:
    """The frames of a picture of any mode, about which no more is known."""
    return list(frames_of(Picture(image), spec, where=where, few=few))


def _frames(
    image: Image.Image, picture: Picture, spec: CropSpec, *, where: str, few: bool
) -> Iterator[Frame]:
    whole = None
    for reading in _readings(image, picture.notes, spec):
        if whole is None:  # lists hold pictures as they are shown
            whole = reduced(reading.color(reading.cutter.small()))
        for view in _views(image.size, reading, picture, spec, few=few):
            crop = reading.cutter.crop(view, reading.color)
            name = joined(where, view.where, reading.where)
            yield Frame(crop, name, whole if view.own and not reading.where else None)


def _views(
    size: tuple[int, int], reading: _Reading, picture: Picture, spec: CropSpec, *, few: bool
) -> Iterator[View]:
    yield from views_of(size, spec, few=few)
    if picture.aperture is not None:
        yield view_of_part(picture.aperture, "part that is cut out", size, spec)
    if not few:
        for inner in inner_parts(reading.color(reading.cutter.small())):
            yield view_of_part(inner, "inner part", size, spec)


def _readings(image: Image.Image, notes: ColorNotes, spec: CropSpec) -> Iterator[_Reading]:
    """The readings of a picture that show something, the usual one first."""
    possible = _possible(image, notes, spec)
    first = next(possible)
    yield first
    seen: list[Thumb] = []
    for reading in possible:  # mostly none
        seen = seen or [_thumb(first)]
        thumb = _thumb(reading)
        if distances(np.stack(seen), thumb).min() > ALIKE:
            seen.append(thumb)
            yield reading


def _thumb(reading: _Reading) -> Thumb:
    return thumb_of(reading.color(reading.cutter.small()))


def _possible(image: Image.Image, notes: ColorNotes, spec: CropSpec) -> Iterator[_Reading]:
    mode = {"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode)
    convert = conversion(mode, notes)
    if convert is None:
        yield from _layers(image, as_rgb, spec, "")
    elif mode != "CMYK" and is_strong(convert, mode):
        yield from _layers(_converted(image, convert), as_rgb, spec, "")
        yield from _layers(image, as_rgb, spec, "colors as stored")
    else:
        yield from _layers(image, convert, spec, "")
        yield from _layers(image, as_rgb, spec, "colors as stored")
    if mode == "CMYK" and not notes.inverted:
        yield from _layers(image, inverted(convert or as_rgb), spec, "not inverted")


def _converted(image: Image.Image, convert: Convert) -> Image.Image:
    """All pixels, their transparency kept."""
    if image.mode not in {"LA", "RGBA"}:
        return convert(image)
    converted = convert(image.convert(image.mode[:-1]))
    converted.putalpha(image.getchannel("A"))
    return converted


def _layers(image: Image.Image, convert: Convert, spec: CropSpec, where: str) -> Iterator[_Reading]:
    cutter = Cutter(image, spec)
    if image.mode not in {"LA", "RGBA"}:
        yield _Reading(where, cutter, convert)
        return
    yield _Reading(where, cutter, lambda part: convert(over(part, 255)))
    yield _Reading(joined(where, "over black"), cutter, lambda part: convert(over(part, 0)))
    opaque = Cutter(image.convert(image.mode[:-1]), spec)
    yield _Reading(joined(where, "without transparency"), opaque, convert)
