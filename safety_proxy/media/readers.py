"""Which module reads which kind of file."""

from dataclasses import replace
from typing import Final, Protocol

from PIL import AvifImagePlugin, Image, ImageFile

from safety_proxy.crops import CropSpec
from safety_proxy.media.bounds import Bounds, Code, Frame, joined, undecodable
from safety_proxy.media.formats.avif import read_avif
from safety_proxy.media.formats.gif import read_gif
from safety_proxy.media.formats.jpeg import read_jpeg
from safety_proxy.media.formats.jxl import read_jxl
from safety_proxy.media.formats.png import read_png
from safety_proxy.media.formats.video import read_video
from safety_proxy.media.formats.webp import read_webp
from safety_proxy.media.rest import Rest
from safety_proxy.media.sniff import Kind, sniff
from safety_proxy.media.window import Window

# Of a video, the signature that would be taken for another one.
_HEAD_BYTES: Final = 8

# Threads of one AVIF; as many as there are processors would each take memory.
_AVIF_THREADS: Final = 2


class _Reader(Protocol):
    def __call__(
        self, window: Window, spec: CropSpec, bounds: Bounds, *, where: str, few: bool
    ) -> tuple[list[Frame], list[Rest]]: ...


_READERS: Final[dict[Kind, _Reader]] = {
    Kind.PNG: read_png,
    Kind.APNG: read_png,
    Kind.JPEG: read_jpeg,
    Kind.GIF: read_gif,
    Kind.WEBP: read_webp,
    Kind.WEBP_ANIMATION: read_webp,
    Kind.AVIF: read_avif,
    Kind.AVIF_SEQUENCE: read_avif,
    Kind.JXL: read_jxl,
}


def prepare_decoders() -> None:
    """Sets what Pillow has as switches of the whole process; never set back, so done once.

    Damaged files give what can be decoded of them, as in a browser. Pillow's own bound on pixels is
    off: `Bounds` are checked before it could be asked.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    Image.MAX_IMAGE_PIXELS = None
    AvifImagePlugin.DEFAULT_MAX_THREADS = _AVIF_THREADS


def read_any(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of a file of any kind that are judged, and what else it holds.

    Raises UndecodableImage, or what a decoder raises that fails on hostile bytes.
    """
    kind = sniff(window)
    if kind.is_video:
        frames = read_video(window.whole(), spec, bounds)
        named = [replace(frame, where=joined(where, frame.where)) for frame in frames]
        return named, [Rest("within the video", window.part(_HEAD_BYTES))]
    reader = _READERS.get(kind)
    if reader is None:
        name = "" if kind is Kind.UNKNOWN else f": {kind}"
        raise undecodable(Code.NOT_A_PICTURE, f"not a picture of a known format{name}")
    return reader(window, spec, bounds, where=where, few=few)
