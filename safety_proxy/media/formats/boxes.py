"""Boxes of ISO/IEC 14496-12, which AVIF, JPEG XL and MP4 are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from safety_proxy.media.window import Window

# No picture has more in one place; a file of nothing but headers has.
_MOST_BOXES: Final = 10_000
_WIDE: Final = 1
_TO_THE_END: Final = 0


@dataclass(frozen=True, slots=True)
class Box:
    """A box: its four letters, and where it and its content lie in the file."""

    kind: bytes
    start: int
    content: int
    end: int


def boxes(window: Window, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes from `start` to `end`, in order, up to what is none; the last may be cut short."""
    end = len(window) if end is None else min(end, len(window))
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        size, kind = window.number(start, 4), window[start + 4 : start + 8]
        content = start + 8
        if size == _WIDE and start + 16 <= end:
            size, content = window.number(start + 8, 8), start + 16
        elif size == _TO_THE_END:
            size = end - start
        if size < content - start:
            return
        yield Box(kind, start, content, min(start + size, end))
        start += size


def first(window: Window, kind: bytes, start: int = 0, end: int | None = None) -> Box | None:
    """The first box of this kind."""
    return next((box for box in boxes(window, start, end) if box.kind == kind), None)
