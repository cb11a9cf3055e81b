"""Pictures in a file that no browser shows: thumbnails, second pictures, what follows the end.

A file manager shows them, or who knows that they are there. So wherever a file has room for
something else, all places are searched where one may begin, and what can be decoded is looked at,
unless it shows what has been seen already, as thumbnails mostly do. What is no picture to any
decoder is ignored. `Bounds.hidden = "refuse"` refuses a file for a further picture, and for data
after the end beyond a few KB that is not padding.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code, Frame, undecodable
from safety_proxy.media.candidates import Candidates, too_many
from safety_proxy.media.likeness import ALIKE, Thumb, thumb_of_crop, turned_distance
from safety_proxy.media.readers import read_any
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window

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

    Raises UndecodableImage if there are more than can be looked at, if one is too large, and for
    any if `bounds.hidden` says so.
    """
    candidates = Candidates()
    known = [thumb_of_crop(frame.crop) for frame in shown]
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
                thumb = thumb_of_crop(frame.crop)
                if not _is_known(thumb, known):
                    known.append(thumb)
                    found.append(frame)
    if found and bounds.hidden == "refuse":
        raise undecodable(Code.HIDDEN_PICTURE, f"a further picture: {found[0].where}")
    return found


def _check_tail(tail: Window) -> None:
    start = tail.search(_NOT_PADDING)
    if start is not None and len(tail) - start > _MOST_TAIL_BYTES:
        raise undecodable(Code.HIDDEN_PICTURE, f"{len(tail) - start} bytes after the end")


def _is_known(thumb: Thumb, known: Sequence[Thumb]) -> bool:
    return any(turned_distance(thumb, other) <= ALIKE for other in known)


def _read(window: Window, where: str, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """The frames of what begins here; none if that is no picture."""
    less = replace(
        bounds,
        frames=min(bounds.frames, _MOST_FRAMES),
        total_pixels=max(bounds.frame_pixels, bounds.total_pixels // _SHARE),
    )
    try:
        frames, _ = read_any(window, spec, less, where=where, few=True)
    except UndecodableImage as error:
        if error.code in {Code.TOO_LARGE, Code.HIDDEN_PICTURE}:
            raise
        return []
    except Exception:  # noqa: BLE001 -- what decoders raise on bytes that only look like a picture
        return []
    return frames
