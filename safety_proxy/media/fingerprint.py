"""What names a file beside its sha256: other hashes, its type, and what a model is shown of it."""

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safety_proxy.media.bounds import Frame
from safety_proxy.media.sniff import Kind, sniff
from safety_proxy.media.spool import Held

_MEDIA_TYPES: Final = {
    Kind.PNG: "image/png",
    Kind.APNG: "image/apng",
    Kind.JPEG: "image/jpeg",
    Kind.GIF: "image/gif",
    Kind.WEBP: "image/webp",
    Kind.WEBP_ANIMATION: "image/webp",
    Kind.AVIF: "image/avif",
    Kind.AVIF_SEQUENCE: "image/avif",
    Kind.HEIC: "image/heic",
    Kind.JXL: "image/jxl",
    Kind.MP4: "video/mp4",
    Kind.QUICKTIME: "video/quicktime",
    Kind.WEBM: "video/webm",
    Kind.MATROSKA: "video/matroska",
    Kind.UNKNOWN: "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """sha1, md5: of the bytes, for lists that have nothing better. media_type: from the bytes.

    shown: sha256 of all crops and their places. Files that differ only in what nobody is shown,
    as in their metadata, have it in common.
    """

    sha1: str
    md5: str
    media_type: str
    shown: str


def fingerprint(held: Held, frames: Sequence[Frame]) -> Fingerprint:
    """That of a file, given the frames that were decoded of it; blocks for its size."""
    with mmap.mmap(held.descriptor, held.size_bytes, access=mmap.ACCESS_READ) as data:
        return Fingerprint(
            hashlib.sha1(data, usedforsecurity=False).hexdigest(),
            hashlib.md5(data, usedforsecurity=False).hexdigest(),
            _MEDIA_TYPES[sniff(data)],
            _shown(frames),
        )


def _shown(frames: Sequence[Frame]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.where.encode() + b"\0")
        digest.update(frame.crop.data)
    return digest.hexdigest()
