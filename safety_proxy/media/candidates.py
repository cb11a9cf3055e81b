"""Where in some bytes a picture or a video may begin: by signature, or packed in a usual way.

| packed as | where |
|---|---|
| nothing | anywhere |
| base64 | anywhere: XMP has thumbnails so |
| zlib | in the compressed text or profile of a PNG |
| ZIP | anywhere; entries that are not compressed are found as they lie |

Nothing of it is believed: what begins there is read, and what cannot be read is no picture.
"""

import binascii
import codecs
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Code, undecodable
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window

# How each kind begins, and how many bytes after its start the signature stands.
_SIGNATURES: Final = (
    (re.compile(rb"\xff\xd8\xff[\xc0-\xfe]"), 0),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), 0),
    (re.compile(rb"GIF8[79]a"), 0),
    (re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL), 0),
    (re.compile(rb"ftyp[\w ]{4}"), 4),
    (re.compile(rb"\x00\x00\x00\x0cJXL \r\n\x87\n"), 0),
    (re.compile(rb"\x1a\x45\xdf\xa3"), 0),
)
# Looked for right after the end alone: two bytes are anywhere.
_BARE_JXL: Final = b"\xff\x0a"

# JPEG, PNG, GIF and WebP written out as text, their lines ended as in XML.
# A pattern each: one that begins with what is wanted is searched for three times as fast.
_BASE64: Final = tuple(
    re.compile(start + rb"[A-Za-z0-9+/]{60}")
    for start in (rb"/9j/", rb"iVBORw0K", rb"R0lGOD", rb"UklGR")
)
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=\s&#x;]")
_LINE_END: Final = re.compile(rb"&#x[0-9A-Fa-f];|\s")

# zTXt and iCCP, or iTXt: a name, and what is compressed by zlib.
_COMPRESSED: Final = re.compile(
    rb"[^\x00]{1,79}\x00(?:\x00|\x01\x00[^\x00]{0,99}\x00[^\x00]{0,400}\x00)"
    rb"(?=x[\x01\x5e\x9c\xda])"
)
_MOST_HEAD_BYTES: Final = 600

# The first file of an archive, and the record that ends one, without its comment.
_ZIP: Final = re.compile(rb"PK\x03\x04")
_ZIP_END: Final = re.compile(rb"PK\x05\x06")
_ZIP_END_BYTES: Final = 22

# Beyond these a file is refused: it is not one that a camera or a program made.
_MOST_STARTS: Final = 64
_MOST_ARCHIVES: Final = 8
_MOST_ZIPPED: Final = 64
_MOST_UNPACKED_BYTES: Final = 40 * 1024 * 1024

_MOST_BASE64_BYTES: Final = 512 * 1024

# The names in ZIP files are of this encoding, which could not be loaded where files cannot be read.
_ZIP_NAMES: Final = codecs.lookup("cp437")


def too_many() -> UndecodableImage:
    """The error for a file with more in it than is looked at."""
    return undecodable(Code.HIDDEN_PICTURE, "more further pictures than can be looked at")


class Candidates:
    """Finds them in all that one file holds beside its picture."""

    def __init__(self) -> None:
        self._left_bytes = _MOST_UNPACKED_BYTES

    def of(self, rest: Rest) -> Iterator[Window]:
        """From where a picture may begin, up to the end of what there is.

        Raises UndecodableImage if there are too many, or too much would have to be unpacked.
        """
        if rest.patches:
            yield rest.patched()
            return
        if rest.is_tail and rest.window[0:2] == _BARE_JXL:
            yield rest.window
        yield from self._found(rest.window)
        head = _COMPRESSED.match(rest.window[0:_MOST_HEAD_BYTES])
        if head is not None:
            yield from self._found(Window(self._inflated(rest.window.part(head.end()))))

    def _found(self, window: Window) -> Iterator[Window]:
        yield from _as_they_lie(window)
        for text in _from_base64(window):
            yield from _as_they_lie(Window(text))
        for archive in _archives(window):
            for file in self._unzipped(archive):
                yield from _as_they_lie(Window(file))

    def _inflated(self, packed: Window) -> bytes:
        """What a chunk of a PNG holds; nothing if that is broken."""
        try:
            data = zlib.decompressobj().decompress(packed.bytes(), self._left_bytes + 1)
        except zlib.error:
            return b""
        self._spend(len(data))
        return data

    def _unzipped(self, body: bytes) -> Iterator[bytes]:
        """The files of an archive; what is encrypted is no picture to anybody."""
        try:
            archive = zipfile.ZipFile(io.BytesIO(body))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, LookupError):
            return
        with archive:
            entries = [entry for entry in archive.infolist() if entry.file_size]
            if len(entries) > _MOST_ZIPPED:
                raise too_many()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED:
                    yield self._entry(archive, entry)

    def _entry(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
        data = b""
        with (
            suppress(
                zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error
            ),
            archive.open(entry) as file,
        ):
            data = file.read(self._left_bytes + 1)
        self._spend(len(data))
        return data

    def _spend(self, size: int) -> None:
        self._left_bytes -= size
        if self._left_bytes < 0:
            message = f"over {_MOST_UNPACKED_BYTES} bytes are packed in what no browser shows"
            raise undecodable(Code.TOO_LARGE, message)


def _as_they_lie(window: Window) -> Iterator[Window]:
    starts = sorted({start for start in _starts(window) if start >= 0})
    if len(starts) > _MOST_STARTS:
        raise too_many()
    for start in starts:
        yield window.part(start)


def _starts(window: Window) -> Iterator[int]:
    for pattern, offset in _SIGNATURES:
        at, count = 0, 0
        while count <= _MOST_STARTS and (found := window.search(pattern, at)) is not None:
            yield found - offset
            at, count = found + 1, count + 1


def _archives(window: Window) -> Iterator[bytes]:
    """Each with all that is before it, which may belong to it."""
    start = window.search(_ZIP)
    at, count = start, 0
    while at is not None and (end := window.search(_ZIP_END, at)) is not None:
        count += 1
        if count > _MOST_ARCHIVES:
            raise too_many()
        at = end + _ZIP_END_BYTES
        yield window[start:at]


def _from_base64(window: Window) -> Iterator[bytes]:
    count = 0
    for pattern in _BASE64:
        at = 0
        while (start := window.search(pattern, at)) is not None:
            count += 1
            if count > _MOST_STARTS:
                raise too_many()
            end = window.search(_NOT_BASE64, start)
            at = len(window) if end is None else end
            text = _LINE_END.sub(b"", window[start : min(at, start + _MOST_BASE64_BYTES)])
            text = text.partition(b"=")[0]
            with suppress(binascii.Error):
                yield binascii.a2b_base64(text[: len(text) // 4 * 4])
