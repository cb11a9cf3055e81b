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
from safety_proxy.media.formats.exif import orientation_of
from safety_proxy.media.rest import Rest
from safety_proxy.media.stills import Picture, frames_of
from safety_proxy.media.window import Spliced, Window

# Each scan goes over the whole picture again, and a few KB can hold a thousand of them. Usual are a
# dozen at most; TurboJPEG has the same bound, which its fuzz targets set to 50 to 500. All scans of
# 10^9 pixels together take 1.2 s.
_USUAL_SCANS: Final = 12
_MOST_SCANS: Final = 100
_MOST_SCANNED_PIXELS: Final = 1_000_000_000

# Any marker but the stuffing of data, fill bytes, and restarts, which are part of a scan.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_MOST_SEGMENTS: Final = 20_000

_END: Final = 0xD9
_SCAN: Final = 0xDA
_END_MARK: Final = b"\xff\xd9"
_EXIF: Final = b"Exif\0\0"
_PROFILE: Final = b"ICC_PROFILE\0"
_SEVERAL: Final = b"MPF\0"
_ADOBE: Final = b"Adobe"

# What goes on over several segments, of 64 KB each: how it begins, and how long a head it repeats.
_CONTINUED: Final = {
    _EXIF: 6,
    _PROFILE: 14,
    b"Photoshop 3.0\0": 14,
    b"FPXR\0": 13,  # previews of FlashPix
    b"JP": 16,  # JUMBF, in which C2PA has thumbnails
    b"http://ns.adobe.com/xmp/extension/\0": 75,
}

# APP1, APP2, APP3 to 13 and 15, COM; not APP0 and APP14, which say how colors are stored.
_METADATA: Final = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
_JFIF: Final = 0xE0
_COLORS: Final = 0xEE
# Their decoder takes all of the body, or fails: no room for anything else.
_TABLES: Final = frozenset({*range(0xC0, 0xD0), 0xDB, 0xDD})
_AMONG_SCANS: Final = _TABLES | {_SCAN, _END}
_ALONE: Final = frozenset({0x01, 0xD8})  # markers with nothing behind them

# What a decoder fills up with, and how much of it there is where it made up all but a block.
_GRAY: Final = slice(126, 130)
_NEARLY_ALL: Final = 0.98

# A JPEG is decoded at a half, a quarter or an eighth of its size, never below so many crops' side.
_SPARE: Final = 3


@dataclass(slots=True)
class _Jpeg:
    """A JPEG on its way through the parser.

    end: where it is over, if it says so. broken: where a segment begins that is not all there.
    """

    window: Window
    kept: list[Window] = field(default_factory=list)
    metadata: list[Rest] = field(default_factory=list)
    continued: dict[bytes, list[Window]] = field(default_factory=dict)
    exif: bytes = b""
    profile: dict[int, bytes] = field(default_factory=dict)
    has_adobe: bool = False
    has_several: bool = False
    scans: int = 0
    data: int = 0  # where the first scan begins
    has_strays: bool = False  # markers after that which no scan needs
    end: int | None = None
    broken: int | None = None

    def parse(self) -> None:
        """Fills everything; stops where the file breaks off. Raises UndecodableImage."""
        window = self.window
        copied = 0  # up to where `kept` has taken in the file
        for marker, start, end in self._segments():
            body = window.part(start + 4, end)
            if self.scans and marker not in _AMONG_SCANS:
                self.has_strays = True
            if marker in _METADATA:
                self.kept.append(window.part(copied, start))
                copied = end
                self._note(marker, body)
            elif marker == _SCAN:
                self.scans += 1
                self.data = self.data or start
            elif marker == _END:
                self.end = end
            elif marker not in _TABLES:
                where = "JFIF thumbnail" if marker == _JFIF else "metadata"
                self.metadata.append(Rest(where, body))
                if marker == _COLORS and body[0:5] == _ADOBE:
                    self.has_adobe = True
        self.kept.append(window.part(copied, self.end or self.broken))
        if self.end is None:  # or else a decoder waits for more, and shows nothing of several scans
            self.kept.append(Window(_END_MARK))

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
                self.broken = found
                return
            else:
                at = found + 2 + max(2, window.number(found + 2, 2))
            if at > len(window):
                self.broken = found
                return
            yield marker, found, at
            if marker == _END:
                return
        raise undecodable(Code.TOO_LARGE, f"a JPEG of over {_MOST_SEGMENTS} segments")

    def _note(self, marker: int, body: Window) -> None:
        head = body[0:40]
        is_exif = marker == 0xE1 and head.startswith(_EXIF)  # noqa: PLR2004 -- APP1
        self.metadata.append(Rest("EXIF thumbnail" if is_exif else "metadata", body))
        if is_exif:
            self.exif = self.exif or body.bytes()
        elif head.startswith(_PROFILE):
            self.profile[body.byte(12) if len(body) > 12 else 0] = body[14:]  # noqa: PLR2004 -- its number
        elif head.startswith(_SEVERAL):
            self.has_several = True
        for start, skipped in _CONTINUED.items():
            if head.startswith(start):
                self.continued.setdefault(start, []).append(body.part(skipped))

    def check(self, size: tuple[int, int], bounds: Bounds) -> None:
        """Raises UndecodableImage for a picture that is too large, or comes in too many scans."""
        check_frame(*size, bounds)
        scanned = self.scans * size[0] * size[1]
        if self.scans > _MOST_SCANS or (
            self.scans > _USUAL_SCANS and scanned > _MOST_SCANNED_PIXELS
        ):
            message = f"a JPEG of {size[0]} x {size[1]} pixels in {self.scans} scans"
            raise undecodable(Code.TOO_LARGE, message)

    def colors(self) -> ColorNotes:
        """What the file says of them."""
        profile = b"".join(part for _, part in sorted(self.profile.items()))
        icc = profile if 0 < len(profile) <= MOST_PROFILE_BYTES else None
        return ColorNotes(icc=icc, inverted=self.has_adobe)

    def rests(self) -> list[Rest]:
        """What else the file holds."""
        joined = [
            Rest("metadata", Window(Spliced(parts).read()))
            for parts in self.continued.values()
            if len(parts) > 1
        ]
        found = [*self.metadata, *joined]
        if self.has_strays or (
            self.scans and self.broken is not None
        ):  # as those of a picture that was put between or behind the scans
            found.append(Rest("within the data", self.window.part(self.data, self.end)))
        if self.end is None:
            return found
        name = "second picture" if self.has_several else "after the end"
        return [*found, Rest(name, self.window.part(self.end), is_tail=True)]


class _Image(JpegImageFile):
    """A JPEG that tells whether its decoder gave anything; it is silent where it gives up."""

    def load_prepare(self) -> None:
        super().load_prepare()
        # Black but for one pixel that is nearly so, which no picture is of more than that pixel.
        self.im.paste(1 if self.mode == "L" else (1,) * len(self.mode), (0, 0, 1, 1))

    def is_untouched(self) -> bool:
        """Whether no pixel was decoded; not known of a picture that has but one."""
        if self.size == (1, 1) or self.getbbox() != (0, 0, 1, 1):
            return False
        return self.getpixel((0, 0)) in {1, (1,) * len(self.mode)}


def read_jpeg(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a JPEG, and what else the file holds.

    Of a file that breaks off, what can be decoded. Raises UndecodableImage if that is nothing.
    """
    jpeg = _Jpeg(window)
    jpeg.parse()
    with _Image(Spliced(jpeg.kept).as_file()) as image:
        jpeg.check(image.size, bounds)
        image.draft(image.mode, (_SPARE * spec.width, _SPARE * spec.height))
        image.load()
    if image.is_untouched() or (jpeg.end is None and _is_blank(image)):
        raise undecodable(Code.DAMAGED, "nothing of a JPEG's data can be decoded")
    picture = Picture(image, jpeg.colors(), orientation_of(jpeg.exif))
    return list(frames_of(picture, spec, where=where, few=few)), jpeg.rests()


def _is_blank(image: Image.Image) -> bool:
    """Whether nearly all pixels are the gray that stands for missing data."""
    levels = image.getchannel(0).histogram()
    return sum(levels[_GRAY]) > _NEARLY_ALL * sum(levels)
