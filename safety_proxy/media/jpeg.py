"""JPEG: markers -> the picture, and all else that such a file can carry.

The decoder gets the file without the segments that hold metadata, which it would skip: so nothing
in them, a list of further pictures included, changes what is decoded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from safety_proxy.crops import CropSpec
from safety_proxy.media.bounds import Bounds, Code, Frame, check_frame, undecodable
from safety_proxy.media.color import MOST_PROFILE_BYTES, ColorNotes
from safety_proxy.media.exif import orientation_of
from safety_proxy.media.rest import Rest
from safety_proxy.media.stills import Picture, frames_of
from safety_proxy.media.window import Spliced, Window

# Any marker but the stuffing of data, fill bytes, and restarts, which are part of a scan.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_MOST_SEGMENTS: Final = 20_000

_END: Final = 0xD9
_SCAN: Final = 0xDA
_EXIF: Final = b"Exif\0\0"
_PROFILE: Final = b"ICC_PROFILE\0"
_SEVERAL: Final = b"MPF\0"
_ADOBE: Final = b"Adobe"

# APP1, APP2, APP3 to 13 and 15, COM; not APP0 and APP14, which say how colors are stored.
_METADATA: Final = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_ALONE: Final = frozenset({0x01, 0xD8})  # markers with nothing behind them

# A JPEG is decoded at a half, a quarter or an eighth of its size, never below so many crops' side.
_SPARE: Final = 3


@dataclass(slots=True)
class _Jpeg:
    """A JPEG on its way through the parser; `end`: where it is over, if it says so."""

    window: Window
    kept: list[Window] = field(default_factory=list)
    metadata: list[Rest] = field(default_factory=list)
    exif: bytes = b""
    profile: dict[int, bytes] = field(default_factory=dict)
    has_adobe: bool = False
    has_several: bool = False
    end: int | None = None

    def parse(self) -> None:
        """Fills everything; stops where the file breaks off. Raises UndecodableImage."""
        window = self.window
        copied = 0  # up to where `kept` has taken in the file
        for marker, start, end in self._segments():
            body = window.part(start + 4, end)
            if marker in _METADATA:
                self.kept.append(window.part(copied, start))
                copied = end
                self._note(marker, body)
            elif marker == 0xE0:  # noqa: PLR2004 -- APP0
                self.metadata.append(Rest("JFIF thumbnail", body))
            elif marker == 0xEE:  # noqa: PLR2004 -- APP14
                self.has_adobe = self.has_adobe or body[0:5] == _ADOBE
            elif marker == _END:
                self.end = end
        self.kept.append(window.part(copied, self.end))

    def _segments(self) -> Iterator[tuple[int, int, int]]:
        """Marker, start and end of each, in all scans, up to the end mark."""
        window, at = self.window, 2
        for _ in range(_MOST_SEGMENTS):
            found = window.search(_MARKER, at)
            if found is None:
                return
            marker = window.byte(found + 1)
            if marker in _ALONE or marker == _END:
                at = found + 2
            elif found + 4 > len(window):
                return
            else:
                at = found + 2 + max(2, window.number(found + 2, 2))
            yield marker, found, min(at, len(window))
            if marker == _END:
                return
        raise undecodable(Code.TOO_LARGE, f"a JPEG of over {_MOST_SEGMENTS} segments")

    def _note(self, marker: int, body: Window) -> None:
        head = body[0:12]
        is_exif = marker == 0xE1 and head.startswith(_EXIF)  # noqa: PLR2004 -- APP1
        self.metadata.append(Rest("EXIF thumbnail" if is_exif else "metadata", body))
        if is_exif:
            self.exif = self.exif or body.bytes()
        elif head == _PROFILE:
            self.profile[body.byte(12) if len(body) > 12 else 0] = body[14:]  # noqa: PLR2004 -- its number
        elif head.startswith(_SEVERAL):
            self.has_several = True

    def colors(self) -> ColorNotes:
        """What the file says of them."""
        profile = b"".join(part for _, part in sorted(self.profile.items()))
        icc = profile if 0 < len(profile) <= MOST_PROFILE_BYTES else None
        return ColorNotes(icc=icc, inverted=self.has_adobe)

    def rests(self) -> list[Rest]:
        """What else the file holds."""
        if self.end is None:
            return self.metadata
        name = "second picture" if self.has_several else "after the end"
        return [*self.metadata, Rest(name, self.window.part(self.end), is_tail=True)]


def read_jpeg(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a JPEG, and what else the file holds.

    Of a file that breaks off, what can be decoded. Raises UndecodableImage if that is nothing.
    """
    jpeg = _Jpeg(window)
    jpeg.parse()
    with JpegImageFile(Spliced(jpeg.kept).as_file()) as image:
        check_frame(*image.size, bounds)
        image.draft(image.mode, (_SPARE * spec.width, _SPARE * spec.height))
        image.load()
    if jpeg.end is None and _is_blank(image):
        raise undecodable(Code.DAMAGED, "nothing of a JPEG's data can be decoded")
    picture = Picture(image, jpeg.colors(), orientation_of(jpeg.exif))
    return list(frames_of(picture, spec, where=where, few=few)), jpeg.rests()


def _is_blank(image: Image.Image) -> bool:
    """Whether all pixels are alike, as they are where nothing was decoded."""
    extrema = image.getextrema()
    ranges = [extrema] if image.mode == "L" else extrema
    return all(low == high for low, high in ranges)  # type: ignore[misc]
