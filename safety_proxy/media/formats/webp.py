"""WebP: chunks -> a still, or the cels of an animation."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from safety_proxy.crops import CropSpec
from safety_proxy.media.animation import Cel, Dispose, Load, Weights, frames_of_cels
from safety_proxy.media.bounds import Bounds, Code, Frame, check_frame, joined, undecodable
from safety_proxy.media.color import MOST_PROFILE_BYTES, ColorNotes
from safety_proxy.media.formats.exif import orientation_of
from safety_proxy.media.rest import Rest
from safety_proxy.media.stills import Picture, frames_of
from safety_proxy.media.window import Spliced, Window

# Measured on two cores of a server, November 2026: 5 ns a pixel, 11 to 15 with transparency, 75 ns
# a byte of a lossy picture.
_WEIGHTS: Final = Weights(pixel=2, clear_pixel=5, byte=25)

_MOST_CHUNKS: Final = 100_000
_MOST_EXIF_BYTES: Final = 256 * 1024
_PICTURES: Final = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
_READ: Final = _PICTURES | {b"VP8X", b"ANIM", b"ANMF"}
_FRAME_BYTES: Final = 16
_ALPHA_FLAG: Final = 0x10  # of VP8X in its first byte, of VP8L in its fifth


@dataclass(slots=True)
class _Webp:
    """A WebP on its way through the parser; `end`: where it is over."""

    window: Window
    bounds: Bounds
    size: tuple[int, int] | None = None
    cels: list[Cel] = field(default_factory=list)
    has_alpha: bool = False
    has_still: bool = False
    icc: bytes | None = None
    exif: bytes = b""
    metadata: list[Rest] = field(default_factory=list)
    data: list[Window] = field(default_factory=list)  # what decoders read, and may not use up
    end: int = 0
    load: Load = field(init=False)

    def __post_init__(self) -> None:
        self.load = Load(_WEIGHTS, self.bounds)

    def parse(self) -> None:
        """Fills everything; stops where the file breaks off. Raises UndecodableImage."""
        size = self.window.number(4, 4, little=True)
        self.end = min(8 + size + (size & 1), len(self.window))
        for kind, body in _chunks(self.window.part(12, self.end)):
            if kind in _READ:
                self.data.append(body)
            match kind:
                case b"VP8X" if self.size is None:
                    self.has_alpha = bool(_number(body[0:1]) & _ALPHA_FLAG)
                    self.size = (_number(body[4:7]) + 1, _number(body[7:10]) + 1)
                case b"VP8 " | b"VP8L":
                    self.has_still = True
                    self.size = self.size or _size(kind, body)
                case b"ANMF" if len(body) > _FRAME_BYTES and self.size is not None:
                    cel = _cel(body)
                    self.cels.append(cel)
                    holes = self.has_alpha or cel.dispose is Dispose.CLEAR or _may_be_clear(body)
                    self.load.add(self.size, may_be_clear=holes)
                    self.load.add_bytes(len(body))
                case b"ICCP" if len(body) <= MOST_PROFILE_BYTES:
                    self.icc = self.icc or body.bytes()
                    self.metadata.append(Rest("metadata", body))
                case _ if kind not in _READ:
                    self._note(kind, body)

    def _note(self, kind: bytes, body: Window) -> None:
        if kind == b"EXIF":
            self.exif = self.exif or body[0:_MOST_EXIF_BYTES]
        self.metadata.append(Rest("EXIF thumbnail" if kind == b"EXIF" else "metadata", body))

    def rests(self) -> list[Rest]:
        """What else the file holds."""
        data = self.data[0] if len(self.data) == 1 else Window(Spliced(self.data).read())
        tail = Rest("after the end", self.window.part(self.end), is_tail=True)
        return [*self.metadata, Rest("within the data", data), tail]

    def picture(self, image: Image.Image) -> Picture:
        """An image of this file with what it says of colors and orientation."""
        orientation = orientation_of(self.exif)
        return Picture(image, ColorNotes(icc=self.icc), orientation, is_always_turned=False)


def _chunks(window: Window) -> Iterator[tuple[bytes, Window]]:
    at = 0
    for _ in range(_MOST_CHUNKS):
        kind = window[at : at + 4]
        if at + 8 > len(window):
            return
        length = window.number(at + 4, 4, little=True)
        yield kind, window.part(at + 8, at + 8 + length)
        at += 8 + length + (length & 1)
    raise undecodable(Code.TOO_LARGE, f"a WebP of over {_MOST_CHUNKS} chunks")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _size(kind: bytes, body: Window) -> tuple[int, int]:
    """Width and height of a bitstream, 14 bits each."""
    if kind == b"VP8 ":
        return _number(body[6:8]) & 0x3FFF, _number(body[8:10]) & 0x3FFF
    bits = _number(body[1:5])
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _may_be_clear(frame: Window) -> bool:
    """Whether a frame has transparency of its own, whatever the header says of all."""
    return any(
        kind == b"ALPH" or (kind == b"VP8L" and bool(_number(body[4:5]) & _ALPHA_FLAG))
        for kind, body in _chunks(frame.part(_FRAME_BYTES))
    )


def _cel(body: Window) -> Cel:
    left, top, width, height = (_number(body[at : at + 3]) for at in (0, 3, 6, 9))
    flags = body.byte(15)
    size = (width + 1, height + 1)

    def decode() -> Image.Image:
        return _decode(Spliced(_still(body.part(_FRAME_BYTES), size)))

    return Cel(
        (2 * left, 2 * top),
        size,
        _number(body[12:15]) / 1000,
        not flags & 2,
        Dispose.CLEAR if flags & 1 else Dispose.KEEP,
        decode,
    )


def _still(frame: Window, size: tuple[int, int]) -> Iterator[Window | bytes]:
    """A frame of an animation as a file of its own."""
    chunks = [(kind, body) for kind, body in _chunks(frame) if kind in _PICTURES]
    pieces: list[Window | bytes] = []
    if any(kind == b"ALPH" for kind, _ in chunks):
        canvas = b"".join((side - 1).to_bytes(3, "little") for side in size)
        pieces.append(b"VP8X" + struct.pack("<2I", 10, _ALPHA_FLAG) + canvas)
    for kind, body in chunks:
        pieces += [kind + struct.pack("<I", len(body)), body, bytes(len(body) & 1)]
    yield b"RIFF" + struct.pack("<I", 4 + sum(map(len, pieces))) + b"WEBP"
    yield from pieces


def _decode(file: Spliced) -> Image.Image:
    with WebPImageFile(file.as_file()) as image:
        image.decodermaxblock = 4 * image.width * image.height  # copied in one go, not in hundreds
        image.load()
    return image


def read_webp(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a WebP that are judged, and what else the file holds.

    Of an animation that breaks off, what can be decoded; of a still, nothing. Raises
    UndecodableImage.
    """
    webp = _Webp(window, bounds)
    webp.parse()
    if webp.size is None or not (webp.cels or webp.has_still):
        raise undecodable(Code.DAMAGED, "a WebP without a picture")
    check_frame(*webp.size, bounds)
    frames: list[Frame] = []
    if webp.cels:
        frames += frames_of_cels(
            webp.size, webp.cels, spec, bounds, show=webp.picture, where=where, few=few
        )
    if webp.has_still:
        name = joined(where, "still picture") if webp.cels else where
        image = _decode(Spliced([window.part(0, webp.end)]))
        frames += frames_of(webp.picture(image), spec, where=name, few=few or bool(webp.cels))
    return frames, webp.rests()
