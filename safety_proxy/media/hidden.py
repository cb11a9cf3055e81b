"""Pictures in a file that no browser shows: thumbnails, second pictures, what follows the end.

A file manager shows them, or who knows that they are there. So wherever a file has room for
something else, the signatures of all kinds are searched for, and what can be decoded is looked at,
unless it shows what has been seen already, as thumbnails mostly do. What is no picture to any
decoder is ignored. `Bounds.hidden = "refuse"` refuses a file for a further picture, and for data
after the end beyond a few KB that is not padding.
"""

import binascii
import codecs
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Code, Frame, undecodable
from safety_proxy.media.likeness import ALIKE, Thumb, thumb_of_crop, turned_distance
from safety_proxy.media.readers import read_any
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window

# Where a picture or video may begin, and how many bytes after its start the signature stands.
_SIGNATURES: Final = (
    (re.compile(rb"\xff\xd8\xff[\xc0-\xfe]"), 0),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), 0),
    (re.compile(rb"GIF8[79]a"), 0),
    (re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL), 0),
    (re.compile(rb"ftyp[\w ]{4}"), 4),
    (re.compile(rb"\x00\x00\x00\x0cJXL \r\n\x87\n"), 0),
    (re.compile(rb"\x1a\x45\xdf\xa3"), 0),
)
_ZIP: Final = re.compile(rb"PK\x03\x04")
_BASE64_JPEG: Final = re.compile(rb"/9j/[A-Za-z0-9+/]{60}")
_NOT_BASE64: Final = re.compile(rb"[^A-Za-z0-9+/=\s&#x;]")
_LINE_END: Final = re.compile(rb"&#x[0-9A-Fa-f];|\s")
_NOT_PADDING: Final = re.compile(rb"[^\x00\xff\s]")

# Beyond these a file is refused: it is not one that a camera or a program made.
_MOST_STARTS: Final = 64
_MOST_PICTURES: Final = 16
_MOST_ZIPPED: Final = 64

# Of the bounds, what one hidden picture may cost.
_SHARE: Final = 16
_MOST_FRAMES: Final = 8

_MOST_BASE64_BYTES: Final = 512 * 1024
_MOST_UNZIPPED_BYTES: Final = 40 * 1024 * 1024
_MOST_TAIL_BYTES: Final = 4096

# The names in ZIP files are of this encoding, which could not be loaded where files cannot be read.
_ZIP_NAMES: Final = codecs.lookup("cp437")


def hidden_frames(
    rests: Iterable[Rest], shown: Sequence[Frame], spec: CropSpec, bounds: Bounds
) -> list[Frame]:
    """The frames of all pictures in `rests` that do not look like one of `shown`.

    Raises UndecodableImage if there are more than can be looked at, if one is too large, and for
    any if `bounds.hidden` says so.
    """
    known = [thumb_of_crop(frame.crop) for frame in shown]
    found: list[Frame] = []
    pictures = 0
    for rest in rests:
        if bounds.hidden == "refuse" and rest.is_tail:
            _check_tail(rest.window)
        for window in _windows(rest):
            frames = _read(window, rest.where, spec, bounds)
            pictures += bool(frames)
            if pictures > _MOST_PICTURES:
                raise _too_many()
            for frame in frames:
                thumb = thumb_of_crop(frame.crop)
                if not _is_known(thumb, known):
                    known.append(thumb)
                    found.append(frame)
    if found and bounds.hidden == "refuse":
        raise undecodable(Code.HIDDEN_PICTURE, f"a further picture: {found[0].where}")
    return found


def _check_tail(tail: Window) -> None:
    start = tail.search(_NOT_PADDING)
    if start is not None and len(tail) - start > _MOST_TAIL_BYTES:
        raise undecodable(Code.HIDDEN_PICTURE, f"{len(tail) - start} bytes after the end")


def _too_many() -> UndecodableImage:
    return undecodable(Code.HIDDEN_PICTURE, "more further pictures than can be looked at")


def _is_known(thumb: Thumb, known: Sequence[Thumb]) -> bool:
    return any(turned_distance(thumb, other) <= ALIKE for other in known)


def _read(window: Window, where: str, spec: CropSpec, bounds: Bounds) -> list[Frame]:
    """The frames of what begins here; none if that is no picture."""
    less = replace(
        bounds,
        frames=min(bounds.frames, _MOST_FRAMES),
        total_pixels=max(bounds.frame_pixels, bounds.total_pixels // _SHARE),
    )
    try:
        frames, _ = read_any(window, spec, less, where=where, few=True)
    except UndecodableImage as error:
        if error.code in {Code.TOO_LARGE, Code.HIDDEN_PICTURE}:
            raise
        return []
    except Exception:  # noqa: BLE001 -- what decoders raise on bytes that only look like a picture
        return []
    return frames


def _windows(rest: Rest) -> Iterator[Window]:
    """Where pictures may begin."""
    if rest.patches:
        yield rest.patched()
        return
    window = rest.window
    starts = sorted({start for start in _starts(window) if start >= 0})
    if len(starts) > _MOST_STARTS:
        raise _too_many()
    for start in starts:
        yield window.part(start)
    if rest.is_tail:
        yield from _unzipped(window)
    else:
        yield from _from_base64(window)


def _starts(window: Window) -> Iterator[int]:
    for pattern, offset in _SIGNATURES:
        at, count = 0, 0
        while count <= _MOST_STARTS and (found := window.search(pattern, at)) is not None:
            yield found - offset
            at, count = found + 1, count + 1


def _from_base64(window: Window) -> Iterator[Window]:
    """JPEGs written out as text, as XMP has thumbnails."""
    at, count = 0, 0
    while count < _MOST_STARTS and (start := window.search(_BASE64_JPEG, at)) is not None:
        end = window.search(_NOT_BASE64, start)
        end = len(window) if end is None else end
        text = _LINE_END.sub(b"", window[start : min(end, start + _MOST_BASE64_BYTES)])
        text = text.partition(b"=")[0]
        with suppress(binascii.Error):
            yield Window(binascii.a2b_base64(text[: len(text) // 4 * 4]))
        at, count = end, count + 1


def _unzipped(tail: Window) -> Iterator[Window]:
    """The files of an archive, each bounded; what is encrypted is no picture to anybody."""
    start = tail.search(_ZIP)
    if start is None:
        return
    try:
        archive = zipfile.ZipFile(io.BytesIO(tail.part(start).bytes()))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, LookupError):
        return
    with archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
        if len(entries) > _MOST_ZIPPED:
            raise _too_many()
        for entry in entries:
            if entry.compress_type == zipfile.ZIP_STORED:
                continue  # it has been found as it lies there
            with (
                suppress(
                    zipfile.BadZipFile,
                    NotImplementedError,
                    RuntimeError,
                    EOFError,
                    OSError,
                    zlib.error,
                ),
                archive.open(entry) as file,
            ):
                yield Window(file.read(_MOST_UNZIPPED_BYTES))
