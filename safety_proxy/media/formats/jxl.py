"""JPEG XL: a still, decoded once its header says that it is one and how large it is.

The decoder has no bounds of its own, and of an animation it gives the last frame alone: so those
are refused, as long as it does. Bits of the header: ISO/IEC 18181-1, annex D.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.media.bounds import Bounds, Code, Frame, check_frame, undecodable
from safety_proxy.media.color import ColorNotes
from safety_proxy.media.formats.boxes import boxes, first
from safety_proxy.media.formats.jpeg import read_jpeg
from safety_proxy.media.rest import Rest
from safety_proxy.media.stills import Picture, frames_of
from safety_proxy.media.window import Window

try:
    import pillow_jxl
except ImportError:  # pragma: no cover -- the package depends on it; a build may lack it
    HAS_DECODER = False
else:
    HAS_DECODER = True

_CODESTREAM: Final = b"\xff\x0a"
_HEAD_BYTES: Final = 64
_RATIOS: Final = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


@dataclass(slots=True)
class _Bits:
    """Reads numbers of some bits, the lowest first."""

    raw: int
    left: int

    @classmethod
    def of(cls, data: bytes) -> "_Bits":
        return cls(int.from_bytes(data, "little"), 8 * len(data))

    def take(self, count: int) -> int:
        """The next number. Raises EOFError past the end."""
        if count > self.left:
            raise EOFError("a JPEG XL without its header")
        number = self.raw & (1 << count) - 1
        self.raw >>= count
        self.left -= count
        return number

    def side(self, *, small: bool) -> int:
        """A width or height."""
        if small:
            return 8 * (self.take(5) + 1)
        return self.take((9, 13, 18, 30)[self.take(2)]) + 1

    def size(self) -> tuple[int, int]:
        """Width and height."""
        small = bool(self.take(1))
        height = self.side(small=small)
        ratio = self.take(3)
        if not ratio:
            return self.side(small=small), height
        return height * _RATIOS[ratio][0] // _RATIOS[ratio][1], height


def _head(window: Window) -> bytes:
    """The first bytes of the codestream, which a container may hold in parts."""
    if window[0:2] == _CODESTREAM:
        return window[0:_HEAD_BYTES]
    head = b""
    for box in boxes(window):
        skipped = {b"jxlc": 0, b"jxlp": 4}.get(box.kind)
        if skipped is not None:
            head += window[box.content + skipped : box.end][:_HEAD_BYTES]
        if len(head) >= _HEAD_BYTES:
            break
    return head


def check(window: Window, bounds: Bounds) -> None:
    """Raises UndecodableImage for what is too large, no still, or no JPEG XL, EOFError if cut."""
    head = _head(window)
    if not head.startswith(_CODESTREAM):
        raise undecodable(Code.DAMAGED, "a JPEG XL without its picture")
    bits = _Bits.of(head[2:])
    check_frame(*bits.size(), bounds)
    if bits.take(1):  # everything else as usual
        return
    if bits.take(1):
        bits.take(3)  # the orientation, which the decoder heeds
        if bits.take(1):
            bits.size()  # at which it would like to be shown
        has_preview, has_animation = bits.take(1), bits.take(1)
        if has_preview or has_animation:
            what = "a preview" if has_preview else "an animation"
            raise undecodable(Code.UNSUPPORTED_TYPE, f"a JPEG XL with {what}")


@dataclass(frozen=True, slots=True)
class _Decoded:
    """The JPEG that the file was made from, if it was, else the picture."""

    jpeg: bytes = b""
    image: Image.Image | None = None
    icc: bytes | None = None


def _decoded(window: Window) -> _Decoded:
    try:
        is_jpeg, info, data, icc, _ = pillow_jxl.Decoder(num_threads=0)(window.bytes())
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of its Rust code, and no Exception
            raise
        raise undecodable(Code.DAMAGED, f"decoder failed: {error}") from error
    if is_jpeg:
        return _Decoded(jpeg=bytes(data))
    return _Decoded(image=image_of(info.mode, (info.width, info.height), data), icc=icc)


def image_of(mode: str, size: tuple[int, int], data: bytes) -> Image.Image:
    """What the decoder gives, as an image; it has half floats, which Pillow has not."""
    if mode != "F;16":
        return Image.frombytes(mode, size, data)
    floats = np.frombuffer(data, np.float16).reshape(size[1], size[0])
    return Image.fromarray(floats.astype(np.float32))


def read_jxl(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a JPEG XL, and what else the file holds.

    Raises UndecodableImage, also for an animation and where the build has no decoder.
    """
    check(window, bounds)
    if not HAS_DECODER:
        raise undecodable(Code.UNSUPPORTED_TYPE, "this build reads no JPEG XL")
    brand = first(window, b"ftyp") if window[0:2] != _CODESTREAM else None
    rest = Rest("metadata", window.part(brand.end if brand is not None else len(_CODESTREAM)))
    decoded = _decoded(window)
    if decoded.image is None:
        jpeg = Window(decoded.jpeg)
        frames, rests = read_jpeg(jpeg, spec, bounds, where=where, few=few)
        return frames, [rest, *rests]
    picture = Picture(decoded.image, ColorNotes(icc=decoded.icc))
    return list(frames_of(picture, spec, where=where, few=few)), [rest]
