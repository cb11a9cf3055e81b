"""GIF: its blocks -> the cels of an animation. A GIF is one for pict-rs even with a single image.

Each image becomes a small GIF of its own for the decoder, so that what is done with them is done
here, the way browsers do it: cleared is transparent, whatever the background color says; what
reaches over the canvas is cut off, unless the first image is larger than it.

A file that breaks off shows in a browser what of it is there: so one that is cut between two
images is a shorter GIF, and of one that is cut within an image the part of it is judged. Whether
to store it is for pict-rs to say.

Extensions and images come in blocks of up to 255 bytes, which whoever hides a picture in them has
to put together again. So that is what is searched for further pictures.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from safety_proxy.crops import CropSpec
from safety_proxy.media.animation import Cel, Dispose, Load, Weights, frames_of_cels
from safety_proxy.media.bounds import Bounds, Code, Frame, undecodable
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Spliced, Window

_BLOCK: Final = re.compile(rb"[,!;]")
_IMAGE: Final = 0x2C
_EXTENSION: Final = 0x21
_CONTROL: Final = 0xF9
_XMP: Final = b"XMP DataXMP"  # which lies there as it is, read as blocks only to be passed over

# 4 was written for 3 by early programs, and is read so.
_DISPOSALS: Final = {2: Dispose.CLEAR, 3: Dispose.RESTORE, 4: Dispose.RESTORE}

# Measured on two cores of a server, November 2026: 7 to 12 ns a pixel, 14 to 42 of one on a canvas
# with holes, 19 ns a byte.
_WEIGHTS: Final = Weights(pixel=4, clear_pixel=12, byte=6)

# Data comes in blocks of up to 255 bytes: as many as 120 MB have, which is also the most that is
# copied out of them.
_MOST_BLOCKS: Final = 500_000


@dataclass(slots=True)
class _Control:
    """The graphic control extension before an image."""

    seconds: float = 0.0
    dispose: Dispose = Dispose.KEEP
    transparent: int | None = None


@dataclass(slots=True)
class _Gif:
    """A GIF on its way through the parser; `end`: where it is over, if it says so."""

    window: Window
    bounds: Bounds
    size: tuple[int, int] = (0, 0)
    palette: bytes = b""
    cels: list[Cel] = field(default_factory=list)
    end: int | None = None
    broken_at: int | None = None  # the block in which the file breaks off
    blocks: int = 0
    notes: bytearray = field(default_factory=bytearray)  # what is in extensions
    data: bytearray = field(default_factory=bytearray)  # what images are encoded as
    strays_at: int | None = None  # where something lies between the blocks
    has_holes: bool = True  # the canvas, which is empty at first
    load: Load = field(init=False)

    def __post_init__(self) -> None:
        self.load = Load(_WEIGHTS, self.bounds)

    def parse(self) -> None:
        """Fills everything; stops where the file breaks off. Raises UndecodableImage."""
        self.size = (self.window.number(6, 2, little=True), self.window.number(8, 2, little=True))
        self.palette, at = self._palette(10, 13)
        control = _Control()
        while (found := self.window.search(_BLOCK, at)) is not None:
            self._count()
            if found > at and self.strays_at is None:
                self.strays_at = at
            at = found + 1
            match self.window.byte(found):
                case 0x2C:
                    at = self._image(at, control)
                    control = _Control()
                case 0x21:
                    if self.window[at : at + 2] == bytes((_CONTROL, 4)):
                        control = self._control(at + 2)
                    at = self._extension(at)
                case _:
                    self.end = at
                    return
        if at < len(self.window) and self.strays_at is None:
            self.strays_at = at

    def _count(self) -> None:
        self.blocks += 1
        if self.blocks > _MOST_BLOCKS:
            raise undecodable(Code.TOO_LARGE, f"a GIF of over {_MOST_BLOCKS} blocks")

    def _palette(self, flags_at: int, at: int) -> tuple[bytes, int]:
        """A color table, if the flags say that there is one, and where it ends."""
        flags = self.window.number(flags_at, 1)
        if not flags & 0x80:
            return b"", at
        end = at + (6 << (flags & 7))
        return self.window[at:end], end

    def _control(self, at: int) -> _Control:
        flags, delay, transparent = struct.unpack("<BHB", self.window[at : at + 4].ljust(4, b"\0"))
        return _Control(
            delay / 100,
            _DISPOSALS.get(flags >> 2 & 7, Dispose.KEEP),
            transparent if flags & 1 else None,
        )

    def _extension(self, at: int) -> int:
        """Takes in the extension whose label is at `at`; where it ends."""
        end = self._skip(at + 1, self.notes)
        if self.window[at + 2 : at + 13] == _XMP:
            self.notes += self.window[at:end]
        return end

    def _skip(self, at: int, taken: bytearray) -> int:
        """Where the data blocks that begin at `at` end, their empty one included.

        What is in them is added to `taken`.
        """
        window, size = self.window, len(self.window)
        while at < size and (length := window.byte(at)):
            self._count()
            if at + 1 + length > size:
                self.broken_at = at
            taken += window[at + 1 : at + 1 + length]
            at += 1 + length
        return at + 1

    def _data(self, start: int, end: int) -> tuple[Window | bytes, ...]:
        """The blocks of an image; of the one in which the file breaks off, what is there.

        The decoder takes none that is not whole.
        """
        window, at = self.window, self.broken_at
        if at is None:
            return (window.part(start, end),)
        left = len(window) - at - 1
        return window.part(start, at), bytes((left,)), window.part(at + 1)

    def _image(self, at: int, control: _Control) -> int:
        """Takes in the image whose descriptor is at `at`; where it ends."""
        descriptor = self.window[at : at + 9]
        if len(descriptor) < 9:  # noqa: PLR2004 -- its size; the file breaks off
            return len(self.window)
        left, top, width, height, flags = struct.unpack("<4HB", descriptor)
        palette, data = self._palette(at + 8, at + 9)
        end = self._skip(data + 1, self.data)
        if width and height and end > data + 2:
            if not self.cels:  # the canvas is at least as large as the first image
                self.size = (max(self.size[0], left + width), max(self.size[1], top + height))
            single = _Single(
                self._data(data, end),
                (width, height),
                palette or self.palette,
                interlaced=bool(flags & 0x40),
                transparent=control.transparent,
            )
            cel = Cel(
                (left, top), (width, height), control.seconds, True, control.dispose, single.decode
            )
            self.cels.append(cel)
            self._weigh(cel, is_opaque=control.transparent is None)
            self.load.add_bytes(end - data)
        return end

    def _weigh(self, cel: Cel, *, is_opaque: bool) -> None:
        """Adds an image to the load. Most with a transparent index are put on what is opaque."""
        before = self.has_holes
        if is_opaque and cel.at == (0, 0) and _covers(cel.size, self.size):
            self.has_holes = False
        self.has_holes |= cel.dispose is Dispose.CLEAR
        self.load.add(self.size, may_be_clear=self.has_holes)
        if cel.dispose is Dispose.RESTORE:
            self.has_holes = before

    def rests(self) -> list[Rest]:
        """What else the file holds."""
        found = [
            Rest("metadata", Window(bytes(self.notes))),
            Rest("within the data", Window(bytes(self.data))),
        ]
        if self.strays_at is not None:
            found.append(Rest("between the images", self.window.part(self.strays_at)))
        if self.end is not None:
            found.append(Rest("after the end", self.window.part(self.end), is_tail=True))
        return found


def _covers(size: tuple[int, int], canvas: tuple[int, int]) -> bool:
    return size[0] >= canvas[0] and size[1] >= canvas[1]


@dataclass(frozen=True, slots=True)
class _Single:
    """One image of a GIF, with all that its decoder needs."""

    data: tuple[Window | bytes, ...]
    size: tuple[int, int]
    palette: bytes
    interlaced: bool
    transparent: int | None

    def decode(self) -> Image.Image:
        with GifImageFile(Spliced(self._pieces()).as_file()) as image:
            image.load()
            image.info.pop("transparency", None)
            if self.transparent is not None and image.histogram()[self.transparent]:
                image.info["transparency"] = self.transparent
            return image

    def _pieces(self) -> Iterator[Window | bytes]:
        bits = max(0, (max(1, len(self.palette) // 3) - 1).bit_length() - 1)
        flags = 0x80 | bits if self.palette else 0
        yield b"GIF89a" + struct.pack("<2H3B", *self.size, flags, 0, 0)
        yield self.palette.ljust(6 << bits, b"\0") if self.palette else b""
        if self.transparent is not None:
            yield bytes((_EXTENSION, _CONTROL, 4, 1, 0, 0, self.transparent, 0))
        yield struct.pack("<B4HB", _IMAGE, 0, 0, *self.size, 0x40 if self.interlaced else 0)
        yield from self.data
        yield b"\0;"


def read_gif(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a GIF that are judged, and what else the file holds.

    Of one that breaks off, what can be decoded. Raises UndecodableImage if that is nothing.
    """
    gif = _Gif(window, bounds)
    gif.parse()
    if not gif.cels:
        raise undecodable(Code.DAMAGED, "a GIF without an image")
    frames = frames_of_cels(gif.size, gif.cels, spec, bounds, where=where, few=few)
    return frames, gif.rests()
