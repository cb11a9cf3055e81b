"""AVIF files of several items, as cameras and editors write them, and as nobody should."""

import struct
from collections.abc import Sequence

from tests.media.samples.animations import animated
from tests.media.samples.boxes import box, content, full, numbers
from tests.media.samples.tools import Make, scene, scenes
from tests.pictures import Color, encoded

# From one item to others: kind, number of the one, numbers of the others.
Reference = tuple[bytes, int, Sequence[int]]

_DEPTH = b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0"
ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


def avif_of(
    *pictures: bytes,
    references: Sequence[Reference] = (),
    auxiliary: bytes = b"",
    ghosts: Sequence[bytes] = (),
    wide: bool = False,
) -> bytes:
    """One file of the pictures of several AVIFs, numbered from 1; the first is the primary.

    auxiliary: what all but the first say that they are to it. ghosts: kinds of further items, of
    which there is no data. wide: properties are named by two bytes each.
    """
    properties: list[bytes] = []
    ties: list[list[int]] = []
    for number, picture in enumerate(pictures):
        shared = content(picture, (b"meta",))[4:]
        own = _boxes(content(shared, (b"iprp", b"ipco")))
        if number and auxiliary:
            own.append(full(b"auxC", auxiliary))
        ties.append([len(properties) + place + 1 for place in range(len(own))])
        properties += own
    kinds = [b"av01"] * len(pictures) + list(ghosts)
    data = [content(picture, (b"mdat",)) for picture in pictures]
    head = box(b"ftyp", b"avif", numbers(0), b"avifmif1miaf")
    tied = _associations(ties, wide=wide)
    size = len(head + _meta(kinds, properties, tied, references, [0] * len(data), data))
    places = [size + 8 + sum(map(len, data[:number])) for number in range(len(data))]
    return head + _meta(kinds, properties, tied, references, places, data) + box(b"mdat", *data)


def _boxes(body: bytes) -> list[bytes]:
    found = []
    while body:
        size = int.from_bytes(body[:4], "big")
        found.append(body[:size])
        body = body[size:]
    return found


def _associations(ties: Sequence[Sequence[int]], *, wide: bool) -> bytes:
    """The box that says which item has which properties."""
    entries = b"".join(
        struct.pack(">HB", number, len(own)) + b"".join(n.to_bytes(1 + wide, "big") for n in own)
        for number, own in enumerate(ties, 1)
    )
    return full(b"ipma", numbers(len(ties)), entries, flags=int(wide))


def _meta(
    kinds: Sequence[bytes],
    properties: Sequence[bytes],
    tied: bytes,
    references: Sequence[Reference],
    places: Sequence[int],
    data: Sequence[bytes],
) -> bytes:
    items = [
        box(b"infe", numbers(2 << 24), struct.pack(">HH4s", number, 0, kind), b"\0")
        for number, kind in enumerate(kinds, 1)
    ]
    extents = b"".join(
        struct.pack(">HHHII", number, 0, 1, place, len(body))
        for number, (place, body) in enumerate(zip(places, data, strict=True), 1)
    )
    links = [
        box(kind, struct.pack(f">HH{len(others)}H", one, len(others), *others))
        for kind, one, others in references
    ]
    return full(
        b"meta",
        full(b"hdlr", numbers(0), b"pict", bytes(13)),
        full(b"pitm", struct.pack(">H", 1)),
        full(b"iloc", b"\x44\0", struct.pack(">H", len(data)), extents),
        full(b"iinf", struct.pack(">H", len(items)), *items),
        *([full(b"iref", *links)] if links else []),
        box(b"iprp", box(b"ipco", *properties), tied),
    )


def small(color: Color | None = None) -> bytes:
    """An AVIF of one item."""
    return encoded(scene(color, size=(96, 80)), "AVIF", speed=10)


def with_thumbnail(color: Color) -> bytes:
    """A second item that says that it is the first one, smaller."""
    return avif_of(small(), small(color), references=[(b"thmb", 2, [1])])


def without_reference(color: Color) -> bytes:
    """A second item that has nothing to do with the first."""
    return avif_of(small(), small(color))


def as_depth(color: Color) -> bytes:
    """A second item that says that it is the depth of the first."""
    return avif_of(small(), small(color), references=[(b"auxl", 2, [1])], auxiliary=_DEPTH)


def as_second_alpha(color: Color) -> bytes:
    """A third item that says that it is the transparency of the first, as the second does."""
    references = [(b"auxl", 2, [1]), (b"auxl", 3, [1])]
    return avif_of(small(), small(), small(color), references=references, auxiliary=ALPHA)


def as_tile_of_nothing(color: Color) -> bytes:
    """A second item that is a tile of a third, of which there is nothing."""
    return avif_of(small(), small(color), references=[(b"dimg", 3, [2])], ghosts=[b"grid"])


def of_two_tracks(first: bytes, second: bytes) -> bytes:
    """One sequence with the frames of another as a second track, behind its own."""
    body = first.replace(b"moov", b"free", 1)
    start = len(body) - (second.index(b"mdat") - 4)  # by how much the other's data moves
    track = box(b"trak", content(second, (b"moov", b"trak")))
    at = track.index(b"stco") + 12
    places = struct.unpack(">I", track[at : at + 4])
    track = track[:at] + numbers(*(place + start for place in places)) + track[at + 4 :]
    header = box(b"moov", content(first, (b"moov",)), track)
    return body + second[second.index(b"mdat") - 4 :] + header


def as_second_track(color: Color) -> bytes:
    """In a sequence that is not shown."""
    clean, other = (animated(scenes(4, {2}, one), "AVIF") for one in (None, color))
    return of_two_tracks(clean, other)


PAIRS: dict[str, Make] = {
    "second-track.avif": as_second_track,
    "second-item.avif": without_reference,
    "thumbnail.avif": with_thumbnail,
    "depth.avif": as_depth,
    "second-alpha.avif": as_second_alpha,
    "tile-of-nothing.avif": as_tile_of_nothing,
}
