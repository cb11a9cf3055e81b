"""Pictures in a file that no browser shows: thumbnails, second pictures, what follows the end.

A file manager shows them, or who knows that they are there. So wherever a file has room for
something else, all places are searched where one may begin, and what can be decoded is looked at,
unless it shows what has been seen already, as thumbnails mostly do. What is no picture to any
decoder is ignored. `Bounds.hidden = "refuse"` refuses a file for a further picture, and for data
after the end beyond a few KB that is not padding.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safety_proxy.crops import CropSpec, Float32Array
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code, Frame, undecodable
from safety_proxy.media.candidates import Candidates, too_many
from safety_proxy.media.likeness import ALIKE, Thumb, distance, thumb_of_crop
from safety_proxy.media.readers import read_any
from safety_proxy.media.rest import Rest
from safety_proxy.media.sniff import Kind, sniff
from safety_proxy.media.window import Window

# A thumbnail is less sharp than its picture, if not by much where a camera has sharpened it.
_CELLS: Final = 8
_SHARPER: Final = 2.0
_SHARPER_LEVELS: Final = 4.0

_NOT_PADDING: Final = re.compile(rb"[^\x00\xff\s]")

# Beyond it a file is refused: it is not one that a camera or a program made.
_MOST_PICTURES: Final = 16

# Of the bounds, what one hidden picture may cost.
_SHARE: Final = 16
_MOST_FRAMES: Final = 8

_MOST_TAIL_BYTES: Final = 4096


def hidden_frames(
    rests: Iterable[Rest], shown: Sequence[Frame], spec: CropSpec, bounds: Bounds
) -> list[Frame]:
    """The frames of all pictures in `rests` that do not look like one of `shown`.

    Raises UndecodableImage if there are more than can be looked at, if one is too large or of a
    kind that this build cannot read, and for any if `bounds.hidden` says so.
    """
    candidates = Candidates()
    known = [_Look.of(frame) for frame in shown]
    found: list[Frame] = []
    pictures = 0
    for rest in rests:
        if bounds.hidden == "refuse" and rest.is_tail:
            _check_tail(rest.window)
        for window in candidates.of(rest):
            frames = _read(window, rest.where, spec, bounds)
            pictures += bool(frames)
            if pictures > _MOST_PICTURES:
                raise too_many()
            for frame in frames:
                look = _Look.of(frame)
                if not any(look.shows_no_more_than(other) for other in known):
                    known.append(look)
                    found.append(frame)
    if found and bounds.hidden == "refuse":
        raise undecodable(Code.HIDDEN_PICTURE, f"a further picture: {found[0].where}")
    return found


def _check_tail(tail: Window) -> None:
    start = tail.search(_NOT_PADDING)
    if start is not None and len(tail) - start > _MOST_TAIL_BYTES:
        raise undecodable(Code.HIDDEN_PICTURE, f"{len(tail) - start} bytes after the end")


@dataclass(frozen=True, slots=True)
class _Look:
    """What a frame looks like.

    details: (8, 8), levels by which neighboring pixels differ, as the mean over each cell: by its
        thumb alone, a picture that was blurred looks like the thumbnail that shows what was there.
    """

    thumb: Thumb
    details: Float32Array

    @classmethod
    def of(cls, frame: Frame) -> "_Look":
        gray = frame.crop.astype(np.float32).mean(axis=2)
        steps = np.abs(np.gradient(gray)).sum(axis=0)
        cells = Image.fromarray(steps).resize((_CELLS, _CELLS), Image.Resampling.BOX)
        return cls(thumb_of_crop(frame.crop), np.asarray(cells))

    def shows_no_more_than(self, other: "_Look") -> bool:
        """Whether it is the same picture, turned or mirrored perhaps, nowhere sharper by far."""
        most = _SHARPER * other.details + _SHARPER_LEVELS
        return any(
            distance(thumb, other.thumb) <= ALIKE and bool((details <= most).all())
            for thumb, details in zip(_turns(self.thumb), _turns(self.details), strict=True)
        )


def _turns(picture: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for quarters in range(4):
        turned = np.rot90(picture, quarters)
        yield turned
        yield turned[:, ::-1]


def _read(window: Window, where: str, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """The frames of what begins here; none if that is no picture.

    Raises UndecodableImage for a picture that somebody can see and this build cannot.
    """
    if sniff(window) is Kind.HEIC:
        raise undecodable(Code.UNSUPPORTED_TYPE, f"HEIC in another file: {where}")
    less = replace(
        bounds,
        frames=min(bounds.frames, _MOST_FRAMES),
        total_pixels=max(bounds.frame_pixels, bounds.total_pixels // _SHARE),
    )
    try:
        frames, _ = read_any(window, spec, less, where=where, few=True)
    except UndecodableImage as error:
        if error.code in {Code.NOT_A_PICTURE, Code.DAMAGED}:
            return []
        raise
    except Exception:  # noqa: BLE001 -- what decoders raise on bytes that only look like a picture
        return []
    return frames
