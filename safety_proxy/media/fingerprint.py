"""What names a file beside its sha256: other hashes, its type, and what a model is shown of it."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safety_proxy.media.bounds import Frame
from safety_proxy.media.sniff import Kind, sniff
from safety_proxy.media.spool import BLOCK_BYTES, Held

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
    # Not by a memory map: all of a large file would count as memory of this process.
    data = _Data(held)
    sha1, md5 = hashlib.sha1(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        sha1.update(block)
        md5.update(block)
    kind = sniff(data)
    return Fingerprint(sha1.hexdigest(), md5.hexdigest(), _MEDIA_TYPES[kind], _shown(frames))


class _Data:
    """The bytes of a file, of which only a slice at a time is in memory."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def __len__(self) -> int:
        return self._held.size_bytes

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(len(self))
        return os.pread(self._held.descriptor, max(0, stop - start), start)


def _shown(frames: Sequence[Frame]) -> str:
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.where.encode() + b"\0")
        digest.update(frame.crop.data)
    return digest.hexdigest()
