"""PNG and APNG: chunks -> a still, or the cels of an animation.

Only what makes up the picture reaches the decoder, as a file put together anew: so neither text of
any size nor a wrong checksum in what nobody shows stops it. Like libpng, chunks with a wrong
checksum are left out if a picture can do without them; others are taken as they are, which a
browser would not do.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.animation import Cel, Dispose, Load, Weights, frames_of_cels
from safety_proxy.media.bounds import Bounds, Code, Frame, check_frame, joined, undecodable
from safety_proxy.media.color import MOST_PROFILE_BYTES, ColorNotes
from safety_proxy.media.formats.exif import orientation_of
from safety_proxy.media.rest import Rest
from safety_proxy.media.sniff import PNG_SIGNATURE
from safety_proxy.media.stills import Picture, frames_of
from safety_proxy.media.window import Spliced, Window

# Ancillary chunks of up to this size are looked into; of larger ones a profile alone.
_MOST_CHUNK_BYTES: Final = 64 * 1024
_MOST_CHUNKS: Final = 300_000
_HEADER_BYTES: Final = 13
_PALETTE_BYTES: Final = 768
_CONTROL: Final = ">5I2H2B"

# Measured on two cores of a server, November 2026: 11 ns a pixel, 24 to 28 with transparency, 12 ns
# a byte.
_WEIGHTS: Final = Weights(pixel=4, clear_pixel=8, byte=5)
_WITH_ALPHA: Final = frozenset({b"\4", b"\6"})  # color types

_DISPOSALS: Final = {1: Dispose.CLEAR, 2: Dispose.RESTORE}

# What decoders use of a chunk: beyond it there is room for something else.
_MOST_USED_BYTES: Final = {b"IHDR": _HEADER_BYTES, b"PLTE": _PALETTE_BYTES, b"IEND": 0}

# The decoder reads 64 KB at a time: its last bytes are at most so far before where it stops.
_READ_AHEAD_BYTES: Final = 128 * 1024


@dataclass(slots=True)
class _Data:
    """The encoded pixels of one image, in the pieces that chunks hold.

    shown: so many bytes, from the first, are sure to have become pixels.
    """

    pieces: list[Window] = field(default_factory=list)
    shown: int = 0

    def rest(self) -> bytes:
        """What of it may be something else."""
        file = Spliced(self.pieces)
        file.seek(self.shown)
        return file.read()


@dataclass(frozen=True, slots=True)
class _Control:
    """A frame's fcTL chunk, and the data that follows it."""

    size: tuple[int, int]
    at: tuple[int, int]
    seconds: float
    dispose: Dispose
    blends: bool
    data: _Data = field(default_factory=_Data)

    @classmethod
    def parse(cls, chunk: bytes) -> "_Control":
        _, width, height, left, top, delay, unit, dispose, blend = struct.unpack(_CONTROL, chunk)
        return cls(
            (width, height),
            (left, top),
            delay / (unit or 100),
            _DISPOSALS.get(dispose, Dispose.KEEP),
            blend == 1,
        )


@dataclass(slots=True)
class _Png:
    """A PNG on its way through the parser; `end`: where it is over, or breaks off."""

    window: Window
    bounds: Bounds
    header: bytes = b""
    is_clear: bool = False  # whether its images may have transparency
    kept: list[bytes] = field(default_factory=list)  # chunks that the pixels depend on
    default: _Data = field(default_factory=_Data)  # data that belongs to no frame
    frames: list[_Control] = field(default_factory=list)
    notes: dict[bytes, bytes] = field(default_factory=dict)
    metadata: list[Rest] = field(default_factory=list)
    end: int = 0
    load: Load = field(init=False)

    def __post_init__(self) -> None:
        self.load = Load(_WEIGHTS, self.bounds)

    @property
    def size(self) -> tuple[int, int]:
        width, height = struct.unpack(">2I", self.header[:8])
        return width, height

    def parse(self) -> None:
        """Fills everything; stops where the file breaks off. Raises UndecodableImage."""
        for kind, body, end in self._chunks():
            match kind:
                case b"IHDR" if not self.header:
                    self.header = body[0:_HEADER_BYTES]
                    self.is_clear = self.header[9:10] in _WITH_ALPHA
                case b"IDAT":
                    data = self.frames[-1].data if self.frames else self.default
                    data.pieces.append(body)
                case b"fdAT" if self.frames:
                    self.frames[-1].data.pieces.append(body.part(4))
                    self.load.add_bytes(len(body))
                case b"fcTL" if len(body) == struct.calcsize(_CONTROL):
                    control = _Control.parse(body.bytes())
                    self.frames.append(control)
                    holes = self.is_clear or control.dispose is Dispose.CLEAR
                    self.load.add(self.size, may_be_clear=holes)
                case b"PLTE":
                    self.kept.append(_chunk(kind, body[0:_PALETTE_BYTES]))
                case _ if kind != b"IEND":
                    self._note(kind, body, end)
            if not self.header:
                raise undecodable(Code.DAMAGED, "a PNG without its header")
        if len(self.header) < _HEADER_BYTES:
            raise undecodable(Code.DAMAGED, "a PNG without its header")

    def _chunks(self) -> Iterator[tuple[bytes, Window, int]]:
        """Name, body and end of each, up to the last that is there at least in part.

        Notes where that is, and bodies with more in them than is used.
        """
        window, at = self.window, len(PNG_SIGNATURE)
        for _ in range(_MOST_CHUNKS):
            head = window[at : at + 8]
            if len(head) < 8 or not head[4:].isalpha():  # noqa: PLR2004 -- length and name
                return
            length = int.from_bytes(head[:4], "big")
            kind, body = head[4:], window.part(at + 8, at + 8 + length)
            at = self.end = at + 12 + length
            if len(body) > _MOST_USED_BYTES.get(kind, len(body)):
                self.metadata.append(Rest("metadata", body))
            yield kind, body, at
            if kind == b"IEND":
                return
        raise undecodable(Code.TOO_LARGE, f"a PNG of over {_MOST_CHUNKS} chunks")

    def _note(self, kind: bytes, body: Window, end: int) -> None:
        """Takes in a chunk that a picture can do without."""
        self.metadata.append(Rest("metadata", body))
        most = MOST_PROFILE_BYTES if kind == b"iCCP" else _MOST_CHUNK_BYTES
        if kind not in _NOTED or len(body) > most:
            return
        raw = body.bytes()
        if self.window[end - 4 : end] != struct.pack(">I", zlib.crc32(kind + raw)):
            return
        if kind == b"tRNS":
            self.kept.append(_chunk(kind, raw))
            self.is_clear = True
            for _ in self.frames:  # they have it as well, wherever it stands
                self.load.add(self.size, may_be_clear=True)
        else:
            self.notes.setdefault(kind, raw)

    def rests(self) -> list[Rest]:
        """What else the file holds, once its images are decoded."""
        data = b"".join(data.rest() for data in (self.default, *(it.data for it in self.frames)))
        tail = Rest("after the end", self.window.part(self.end), is_tail=True)
        return [*self.metadata, Rest("within the data", Window(data)), tail]

    def colors(self) -> ColorNotes:
        """What the chunks say, the one that wins over the others alone."""
        if len(points := self.notes.get(b"cICP", b"")) == 4:  # noqa: PLR2004 -- code points
            return ColorNotes(code_points=(points[0], points[1]))
        if (profile := self.notes.get(b"iCCP")) is not None:
            return ColorNotes(icc=_inflated(profile.partition(b"\0")[2][1:]))
        if b"sRGB" not in self.notes and len(gamma := self.notes.get(b"gAMA", b"")) == 4:  # noqa: PLR2004 -- a number
            value = int.from_bytes(gamma, "big")
            return ColorNotes(gamma=value / 100_000 if value else None)
        return ColorNotes()

    def picture(self, image: Image.Image) -> Picture:
        """An image of this file with what it says of colors and orientation."""
        orientation = orientation_of(self.notes.get(b"eXIf", b""))
        return Picture(image, self.colors(), orientation, is_always_turned=False)

    def decode(self, size: tuple[int, int], data: _Data) -> Image.Image:
        """The image that this data is, of which it is noted how much was used.

        Raises what the decoder raises.
        """
        header = struct.pack(">2I", *size) + self.header[8:]
        length = struct.pack(">I", min(sum(map(len, data.pieces)), 2**32 - 1))
        no_checksum = bytes(4)  # the decoder looks at that of no data
        pieces = [PNG_SIGNATURE, _chunk(b"IHDR", header), *self.kept]
        pieces += [length, b"IDAT", *data.pieces, no_checksum, _chunk(b"IEND", b"")]  # type: ignore[list-item]
        with _Image(Spliced(pieces).as_file()) as image:
            image.load()
        data.shown = max(0, image.read_bytes - _READ_AHEAD_BYTES)
        if _is_blank(image) and not _can_inflate(data.pieces):
            raise undecodable(Code.DAMAGED, "nothing of a PNG's data can be decoded")
        return image


class _Image(PngImageFile):
    """A PNG that tells how much of its data the decoder has read when all pixels are there.

    What follows the end of the compressed stream is found so without decompressing it once more.
    """

    read_bytes = 0

    def load_read(self, read_bytes: int) -> bytes:
        data = super().load_read(read_bytes)
        self.read_bytes += len(data)
        return data


_NOTED: Final = frozenset({b"tRNS", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"eXIf"})


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def _inflated(data: bytes) -> bytes | None:
    """None for data that is broken, or larger than a profile is."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, MOST_PROFILE_BYTES)
    except zlib.error:
        return None
    return None if stream.unconsumed_tail else raw


def _is_blank(image: Image.Image) -> bool:
    """Whether all pixels are zero, as they are where nothing was decoded."""
    return image.getbbox(alpha_only=False) is None


def _can_inflate(data: list[Window]) -> bool:
    stream = zlib.decompressobj()
    try:
        return bool(stream.decompress(Spliced(data).read(_MOST_CHUNK_BYTES), 1))
    except zlib.error:
        return False


def read_png(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a PNG or APNG that are judged, and what else the file holds.

    Of an APNG also the image that is shown where animations are not, unless it is the first frame.
    Of a file that breaks off, what can be decoded. Raises UndecodableImage if that is nothing.
    """
    png = _Png(window, bounds)
    png.parse()
    check_frame(*png.size, bounds)
    cels = [
        Cel(
            control.at,
            control.size,
            control.seconds,
            control.blends,
            control.dispose,
            partial(png.decode, control.size, control.data),
        )
        for control in png.frames
        if control.data.pieces and all(control.size)
    ]
    frames: list[Frame] = []
    if not cels:
        image = png.decode(png.size, png.default)
        frames += frames_of(png.picture(image), spec, where=where, few=few)
    elif png.default.pieces:
        with suppress(UndecodableImage):  # there is an animation to go by
            image = png.decode(png.size, png.default)
            name = joined(where, "default image")
            frames += frames_of(png.picture(image), spec, where=name, few=True)
    if cels:
        frames += frames_of_cels(
            png.size, cels, spec, bounds, show=png.picture, where=where, few=few
        )
    return frames, png.rests()
