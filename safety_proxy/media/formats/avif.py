"""AVIF: a still or a sequence, and the further pictures that such a file can hold.

A file is a set of items, one of them the primary, and perhaps tracks of frames; the first brand
says which of the two is shown. What is not shown is made so by changing the number of the primary
item, the brand, or the names of references and tracks, in a copy.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from PIL.AvifImagePlugin import AvifImageFile

from safety_proxy.crops import CropSpec
from safety_proxy.media.animation import check_animation, judged
from safety_proxy.media.bounds import Bounds, Code, Frame, check_frame, undecodable
from safety_proxy.media.color import ColorNotes
from safety_proxy.media.formats.boxes import Box, boxes, first
from safety_proxy.media.formats.exif import orientation_of
from safety_proxy.media.regions import Box as Part
from safety_proxy.media.rest import Rest
from safety_proxy.media.stills import Picture, frames_of
from safety_proxy.media.window import Spliced, Window

_FULL: Final = 4  # version and flags of a full box
_OUTER: Final = frozenset(b"ftyp meta moov mdat free skip uuid moof sidx styp mfra".split())
_CODED: Final = frozenset({b"av01", b"grid", b"iovl", b"iden", b"tmap"})
_ALPHA: Final = re.compile(rb"auxiliary:alpha\0|hevc:2015:auxid:1\0")
_FOREIGN: Final = frozenset({b"hvc1", b"hev1", b"avc1", b"vvc1", b"evc1", b"j2k1", b"unci"})
_COLORS: Final = re.compile(rb"colrnclx", re.DOTALL)
_APERTURE: Final = re.compile(rb"\0\0\0\x28clap", re.DOTALL)

# Items beside the primary one: its thumbnail, transparency and gain map are usual, tiles are many.
_MOST_ITEMS: Final = 1_000
_MOST_PICTURES: Final = 8


@dataclass(slots=True)
class _Avif:
    """What the headers of an AVIF say.

    primary: offset and length of the primary item's number. tiles: of which items an item is made.
    auxiliary: which items go with an item. alphas: those that say that they are transparency.
    thumbnails: offsets of the names of references that make a thumbnail of an item, which no
    decoder shows. tracks: offsets of the names of picture tracks.
    """

    window: Window
    kinds: dict[int, bytes] = field(default_factory=dict)
    primary: tuple[int, int] | None = None
    tiles: dict[int, list[int]] = field(default_factory=dict)
    auxiliary: dict[int, list[int]] = field(default_factory=dict)
    alphas: set[int] = field(default_factory=set)
    thumbnails: list[int] = field(default_factory=list)
    tracks: list[int] = field(default_factory=list)
    code_points: tuple[int, int] | None = None
    aperture: tuple[int, ...] | None = None
    start: int = 0  # of what follows the first box
    end: int = 0

    def parse(self) -> None:
        """Fills everything that is there."""
        for box in boxes(self.window):
            if box.kind in _OUTER:  # what is in none of these after the last of them is a tail
                self.end = box.end
            if box.kind == b"ftyp":
                self.start = self.start or box.end
            elif box.kind == b"meta":
                self._note(box)
                self._meta(box)
            elif box.kind == b"moov":
                self._note(box)
                self.tracks += [
                    track.start + 4
                    for track in boxes(self.window, box.content, box.end)
                    if track.kind == b"trak" and self._has_pictures(track)
                ]

    def _note(self, box: Box) -> None:
        header = self.window.part(box.content, box.end)
        found = header.search(_COLORS)
        if self.code_points is None and found is not None:
            self.code_points = (header.number(found + 8, 2), header.number(found + 10, 2))
        found = header.search(_APERTURE)
        if self.aperture is None and found is not None:
            numbers = header[found + 8 : found + 40].ljust(32, b"\0")
            self.aperture = struct.unpack(">IIIIiIiI", numbers)

    def _meta(self, meta: Box) -> None:
        window = self.window
        for box in boxes(window, meta.content + _FULL, meta.end):
            version, at = window.number(box.content, 1), box.content + _FULL
            width = 4 if version else 2
            if box.kind == b"pitm":
                self.primary = (at, width)
            elif box.kind == b"iinf":
                for entry in boxes(window, at + width, box.end):
                    self._item(entry)
            elif box.kind == b"iref":
                for entry in boxes(window, at, box.end):
                    self._reference(entry, width)
            elif box.kind == b"iprp":
                self._properties(box)

    def _item(self, entry: Box) -> None:
        width = 4 if self.window.number(entry.content, 1) > 2 else 2  # noqa: PLR2004 -- of an infe
        at = entry.content + _FULL
        if len(self.kinds) < _MOST_ITEMS:
            number = self.window.number(at, width)
            self.kinds[number] = self.window[at + width + 2 : at + width + 6]

    def _reference(self, entry: Box, width: int) -> None:
        """dimg: the tiles that an item is made of. auxl: what it is the transparency of."""
        number = self.window.number(entry.content, width)
        count = self.window.number(entry.content + width, 2)
        at = entry.content + width + 2
        others = [
            self.window.number(at + place * width, width)
            for place in range(min(count, _MOST_ITEMS))
            if at + (place + 1) * width <= entry.end
        ]
        if entry.kind == b"dimg":
            self.tiles.setdefault(number, []).extend(others)
        elif entry.kind == b"thmb":
            self.thumbnails.append(entry.start + 4)
        elif entry.kind == b"auxl":
            for other in others:
                self.auxiliary.setdefault(other, []).append(number)

    def _properties(self, iprp: Box) -> None:
        """Finds out which items are transparency: by a property, which an index ties to them."""
        window = self.window
        shared = first(window, b"ipco", iprp.content, iprp.end)
        alpha = (
            {
                index
                for index, box in enumerate(boxes(window, shared.content, shared.end), 1)
                if box.kind == b"auxC"
                and window.part(box.content, box.end).search(_ALPHA) is not None
            }
            if shared
            else set()
        )
        for box in boxes(window, iprp.content, iprp.end):
            if box.kind == b"ipma":
                self._associations(box, alpha)

    def _associations(self, ipma: Box, alpha: set[int]) -> None:
        window, at = self.window, ipma.content + _FULL
        number_width = 4 if window.number(ipma.content, 1) else 2
        index_width = 2 if window.number(ipma.content + 3, 1) & 1 else 1
        most = (1 << 8 * index_width - 1) - 1  # the highest bit says that it is essential
        count, at = window.number(at, 4), at + 4
        for _ in range(min(count, _MOST_ITEMS)):
            number = window.number(at, number_width)
            indices = window.number(at + number_width, 1)
            at += number_width + 1
            for _ in range(indices):
                if window.number(at, index_width) & most in alpha:
                    self.alphas.add(number)
                at += index_width

    def _has_pictures(self, track: Box) -> bool:
        media = first(self.window, b"mdia", track.content, track.end)
        handler = media and first(self.window, b"hdlr", media.content, media.end)
        if handler is None:
            return False
        return self.window[handler.content + 8 : handler.content + 12] == b"pict"

    def _parts(self, shown: int) -> set[int]:
        """What the item that is shown consists of, and what is thereby seen with it."""
        parts = {shown}
        if self._is_grid(shown):
            parts.update(self.tiles.get(shown, []))
        for item in tuple(parts):
            alphas = self.alphas.intersection(self.auxiliary.get(item, []))
            if len(alphas) == 1:  # of several, a decoder takes one
                parts |= alphas
                parts.update(
                    *(self.tiles.get(alpha, []) for alpha in alphas if self._is_grid(alpha))
                )
        return parts

    def _is_grid(self, number: int) -> bool:
        return self.kinds.get(number) == b"grid"

    def further(self) -> Iterator[Rest]:
        """The pictures that are not shown, as copies in which they are."""
        if self.primary is not None:
            at, width = self.primary
            shown = self.window.number(at, width)
            parts = self._parts(shown)
            others = [
                number
                for number, kind in self.kinds.items()
                if kind in _CODED and number not in parts
            ]
            links = [(place, b"free") for place in self.thumbnails]
            for number in others:
                yield self._rest((8, b"avif"), (at, number.to_bytes(width, "big")), *links)
            if self.tracks and shown in self.kinds:
                is_sequence = self.window[8:12] == b"avis"
                yield self._rest((8, b"avif" if is_sequence else b"avis"))
        for place in self.tracks[1:]:
            before = [(track, b"free") for track in self.tracks if track < place]
            yield self._rest((8, b"avis"), *before)

    def _rest(self, *patches: tuple[int, bytes]) -> Rest:
        return Rest("second picture", self.window, patches=patches)

    def rests(self) -> list[Rest]:
        """What else the file holds."""
        if not _FOREIGN.isdisjoint(self.kinds.values()):
            raise undecodable(Code.UNSUPPORTED_TYPE, "an AVIF with pictures of other codecs")
        further = list(self.further())
        if len(further) > _MOST_PICTURES:
            raise undecodable(Code.HIDDEN_PICTURE, f"an AVIF with {len(further)} further pictures")
        inside = Rest("metadata", self.window.part(self.start, self.end))
        return [*further, inside, Rest("after the end", self.window.part(self.end), is_tail=True)]

    def part(self, size: tuple[int, int]) -> Part | None:
        """The part of a picture of this size that its clean aperture leaves, if that is less."""
        if self.aperture is None:
            return None
        sides = []
        for length, place in ((size[0], 0), (size[1], 2)):
            extent, one, offset, other = (
                *self.aperture[place : place + 2],
                *self.aperture[place + 4 : place + 6],
            )
            if not one or not other:
                return None
            share, middle = extent / one / length, 0.5 + offset / other / length
            sides.append((max(0.0, middle - share / 2), min(1.0, middle + share / 2)))
        (left, right), (top, bottom) = sides
        is_part = right - left < 1 or bottom - top < 1
        return (left, top, right, bottom) if is_part and left < right and top < bottom else None


def read_avif(
    window: Window, spec: CropSpec, bounds: Bounds, *, where: str = "", few: bool = False
) -> tuple[list[Frame], list[Rest]]:
    """The frames of an AVIF that are judged, and what else the file holds.

    Raises UndecodableImage, also for a file that breaks off within its picture.
    """
    avif = _Avif(window)
    avif.parse()
    with AvifImageFile(Spliced([window]).as_file()) as image:
        check_frame(*image.size, bounds)
        icc = image.info.get("icc_profile")
        notes = ColorNotes(icc=icc) if icc else ColorNotes(code_points=avif.code_points)
        orientation = orientation_of(image.info.get("exif", b""))
        picture = Picture(image, notes, orientation, aperture=avif.part(image.size))
        if image.n_frames == 1:
            return list(frames_of(picture, spec, where=where, few=few)), avif.rests()
        check_animation(image.size, image.n_frames, bounds)
        frames = judged(_shown(picture, image), spec, bounds, where=where, few=few)
    return frames, avif.rests()


def _shown(picture: Picture, image: AvifImageFile) -> Iterator[tuple[Picture, float]]:
    """Each frame and its seconds."""
    for number in range(image.n_frames):
        image.seek(number)
        image.load()
        yield picture, image.info["duration"] / 1000
