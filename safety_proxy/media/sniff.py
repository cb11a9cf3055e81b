"""What a file is, from its bytes alone: neither its name nor a Content-Type is believed.

| first bytes | kind |
|---|---|
| `89 PNG`, with `acTL` before `IDAT` | apng, else png |
| `FF D8 FF` | jpeg |
| `GIF87a`, `GIF89a` | gif |
| `RIFF....WEBP`, with the flag of an animation in `VP8X` | webp-animation, else webp |
| `....ftyp` with a brand | avif, avif-sequence, heic, quicktime, else mp4 |
| `....moov` and what else a film may begin with | quicktime |
| `FF 0A`, `....JXL ` | jxl |
| EBML with the DocType `webm` or `matroska` | webm, matroska |

Everything else is unknown: SVG, HTML, PDF, BMP, TIFF, ICO, PSD and whatever pict-rs does not take.
"""

import re
from enum import StrEnum
from typing import Final

from safety_proxy.media.window import Sliceable


class Kind(StrEnum):
    """A container, and where it matters what it says that it holds."""

    PNG = "png"
    APNG = "apng"
    JPEG = "jpeg"
    GIF = "gif"
    WEBP = "webp"
    WEBP_ANIMATION = "webp-animation"
    AVIF = "avif"
    AVIF_SEQUENCE = "avif-sequence"
    HEIC = "heic"
    JXL = "jxl"
    MP4 = "mp4"
    QUICKTIME = "quicktime"
    WEBM = "webm"
    MATROSKA = "matroska"
    UNKNOWN = "unknown"

    @property
    def is_video(self) -> bool:
        """Whether `read_video` reads it."""
        return self in _VIDEOS


_VIDEOS: Final = frozenset({Kind.MP4, Kind.QUICKTIME, Kind.WEBM, Kind.MATROSKA})

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_SIGNATURES: Final = (
    ((b"\xff\xd8\xff",), Kind.JPEG),
    ((b"GIF87a", b"GIF89a"), Kind.GIF),
    ((b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"), Kind.JXL),
)
_EBML: Final = b"\x1a\x45\xdf\xa3"
_DOC_TYPE: Final = re.compile(rb"\x42\x82(?:[\x81-\xbf]|\x40.)(webm|matroska)", re.DOTALL)

# ISO/IEC 23008-12 and 23000-22 name them; `mif1` and `msf1` say only that there is a picture.
_AVIF_BRANDS: Final = frozenset({b"avif", b"avio"})
_AVIF_SEQUENCE_BRANDS: Final = frozenset({b"avis"})
_HEIC_BRANDS: Final = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs heif mif1 mif2 msf1 miaf MiHE MiHB jpeg jpgs".split()
)
_HEAD_BOXES: Final = frozenset({b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof"})

_MAX_CHUNKS: Final = 100_000
_MAX_BRANDS: Final = 64


def sniff(head: Sliceable) -> Kind:
    """The kind that these bytes begin; never raises.

    A few hundred bytes tell all but a PNG from an APNG, which can have any amount of metadata
    before the chunk that says so: give the whole file where it lies at hand.
    """
    start = head[0:16]
    if start.startswith(PNG_SIGNATURE):
        return Kind.APNG if _has_animation(head) else Kind.PNG
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        animated = head[12:16] == b"VP8X" and head[20:21] and head[20:21][0] & 2
        return Kind.WEBP_ANIMATION if animated else Kind.WEBP
    if start.startswith(_EBML):
        return _matroska(head[0:1024])
    for signatures, kind in _SIGNATURES:
        if start.startswith(signatures):
            return kind
    return _iso_media(head)


def _has_animation(png: Sliceable) -> bool:
    """Whether `acTL` comes before the first `IDAT`, where a browser looks for it."""
    at = len(PNG_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if kind == b"acTL":
            return True
        if len(kind) < 4 or kind in {b"IDAT", b"IEND"}:  # noqa: PLR2004 -- of a chunk's name
            return False
        at += 12 + length
    return False


def _matroska(head: bytes) -> Kind:
    found = _DOC_TYPE.search(head)
    return Kind(found[1].decode()) if found else Kind.UNKNOWN


def _iso_media(head: Sliceable) -> Kind:
    size, kind = int.from_bytes(head[0:4], "big"), head[4:8]
    if kind != b"ftyp":
        is_box = size == 1 or size >= 8  # noqa: PLR2004 -- a header's size; 1: the size follows
        return Kind.QUICKTIME if is_box and kind in _HEAD_BOXES else Kind.UNKNOWN
    # The major brand decides; a general one leaves it to the first of the others that is not.
    body = head[8 : min(size, 16 + 4 * _MAX_BRANDS)]
    major = body[0:4]
    if major in _AVIF_BRANDS | _AVIF_SEQUENCE_BRANDS:
        return Kind.AVIF if major in _AVIF_BRANDS else Kind.AVIF_SEQUENCE
    if major in _HEIC_BRANDS:
        others = [body[at : at + 4] for at in range(8, len(body), 4)]
        if not _AVIF_SEQUENCE_BRANDS.isdisjoint(others):
            return Kind.AVIF_SEQUENCE
        return Kind.HEIC if _AVIF_BRANDS.isdisjoint(others) else Kind.AVIF
    if len(major) < 4:  # noqa: PLR2004 -- of a brand's name
        return Kind.UNKNOWN
    return Kind.QUICKTIME if major == b"qt  " else Kind.MP4
