"""Videos whose tables claim what is not there, or let a few kilobytes pass for hours."""

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache

from PIL import Image

from tests.media.samples.boxes import box, content, element, film, full, numbers, replaced
from tests.media.samples.tools import scenes

_STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_EBML = element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", b"webm"))
_UNKNOWN = b"\x01\xff\xff\xff\xff\xff\xff\xff"


@cache
def mp4() -> bytes:
    """A small film, whose tables stand after its frames."""
    return film(scenes(10))


@cache
def webm() -> bytes:
    """The same, as WebM."""
    return film(scenes(10), "libvpx", "webm", speed="8")


def with_table(kind: bytes, *parts: bytes) -> bytes:
    """The film with another table of samples."""
    return replaced(mp4(), (*_STBL, kind), full(kind, *parts))


def with_edits(count: int) -> bytes:
    """The film, to be shown so many times over by its edit list."""
    edits = full(b"elst", numbers(count), numbers(10_000, 0, 1 << 16) * count)
    track = content(mp4(), (b"moov", b"trak"))
    if b"edts" in track:
        track = replaced(track, (b"edts",), b"")
    return replaced(mp4(), (b"moov", b"trak"), box(b"trak", box(b"edts", edits), track))


def with_reference(kind: bytes, target: bytes) -> bytes:
    """The film, said to be in another file."""
    reference = full(b"dref", numbers(1), full(kind, target))
    return replaced(mp4(), (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"), reference)


def alias(path: bytes) -> bytes:
    """What an `alis` reference of QuickTime says of a file, the one kind that FFmpeg can follow."""
    named = b"\0\2" + struct.pack(">H", len(path)) + path + b"\0" * (len(path) % 2)
    return bytes(130) + b"\0\1\0\1" + bytes(16) + named + b"\xff\xff\0\0"


def hours(images: Sequence[Image.Image]) -> bytes:
    """A film of these pictures, each shown for an hour; the first is the only key frame."""
    body = film(images, g="9999", sc_threshold="0", bf="0")
    scale = content(body, (b"moov", b"trak", b"mdia", b"mdhd"))[12:16]
    hour = 3600 * int.from_bytes(scale, "big")
    return replaced(body, (*_STBL, b"stts"), full(b"stts", numbers(1, len(images), hour)))


def ten_hours_of_black() -> bytes:
    """Ten frames of one color, in less than 5 kB."""
    return hours([Image.new("RGB", (1280, 720))] * 10)


def overlapping(count: int, side: int = 64) -> bytes:
    """One key frame, which is in the tables so many times."""
    body = film([Image.new("RGB", (side, side), (90, 90, 90))])
    table = content(body, (*_STBL, b"stsz"))
    size = int.from_bytes(table[4:8], "big") or int.from_bytes(table[12:16], "big")
    place = int.from_bytes(content(body, (*_STBL, b"stco"))[8:12], "big")
    for kind, rest in (
        (b"stsz", numbers(size, count)),
        (b"stco", numbers(count) + numbers(place) * count),
        (b"stsc", numbers(1, 1, 1, 1)),
        (b"stts", numbers(1, count, 100)),
        (b"ctts", numbers(1, count, 0)),
    ):
        body = replaced(body, (*_STBL, kind), full(kind, rest)) if kind in body else body
    return body


def many_tracks(count: int) -> bytes:
    """The film with its track so many times."""
    track = box(b"trak", content(mp4(), (b"moov", b"trak")))
    return replaced(mp4(), (b"moov", b"trak"), track * count)


def fragment(samples: int) -> bytes:
    """A fragment that claims so many samples, of which none has a size of its own."""
    return box(
        b"moof",
        full(b"mfhd", numbers(1)),
        box(
            b"traf", full(b"tfhd", numbers(1, 100, 1), flags=0x18), full(b"trun", numbers(samples))
        ),
    )


def fragmented(samples: int) -> bytes:
    """The film, to be continued by such a fragment."""
    extends = box(b"mvex", full(b"trex", numbers(1, 1, 100, 1, 0)))
    movie = replaced(mp4(), (b"moov",), box(b"moov", content(mp4(), (b"moov",)), extends))
    return movie + fragment(samples)


def other_size(width: int, height: int) -> bytes:
    """The film, whose description says that it has another size. Its frames know better."""
    entry = bytearray(content(mp4(), (*_STBL, b"stsd")))
    at = entry.index(b"avc1") + 4 + 24
    entry[at : at + 4] = struct.pack(">HH", width, height)
    return replaced(mp4(), (*_STBL, b"stsd"), box(b"stsd", bytes(entry)))


def golomb(value: int) -> str:
    """A number as H.264 writes it, in bits."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def huge_frames() -> bytes:
    """The film, whose H.264 parameters say that its frames have 16,384 x 16,384 pixels."""
    macroblocks = golomb(16_384 // 16 - 1)
    bits = golomb(0) + golomb(0) + golomb(2) + golomb(1) + "0" + macroblocks * 2 + "1100" + "1"
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    parameters = b"\x67\x42\x00\x3e" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    entry = bytearray(content(mp4(), (*_STBL, b"stsd")))
    at = entry.index(b"avcC")
    old = int.from_bytes(entry[at + 10 : at + 12], "big")
    record = bytes(entry[at + 4 : at + 10]) + struct.pack(">H", len(parameters)) + parameters
    record += bytes(entry[at + 12 + old : at - 4 + int.from_bytes(entry[at - 4 : at], "big")])
    size = int.from_bytes(entry[8:12], "big")
    first = bytes(entry[16 : at - 4]) + box(b"avcC", record)
    assert size
    return replaced(mp4(), (*_STBL, b"stsd"), box(b"stsd", bytes(entry[:8]), box(b"avc1", first)))


def huge_vp8() -> bytes:
    """A WebM whose key frames say 16,383 x 16,383."""
    body = bytearray(webm())
    at = body.index(b"\x9d\x01\x2a") + 3
    body[at : at + 4] = b"\xff\x3f\xff\x3f"
    return bytes(body)


def nested(depth: int, kind: bytes = b"moov") -> bytes:
    """Boxes in boxes."""
    body = b""
    for _ in range(depth):
        body = box(kind, body)
    return box(b"ftyp", b"isom", numbers(0)) + body


def matroska(*clusters: bytes, entry: bytes = b"") -> bytes:
    """A WebM of VP8, 64 x 64, with these clusters."""
    video = element(b"\xe0", element(b"\xb0", b"\x40"), element(b"\xba", b"\x40"))
    track = element(
        b"\xae", element(b"\xd7", b"\1"), element(b"\x73\xc5", b"\1"), element(b"\x83", b"\1"),
        element(b"\x86", b"V_VP8"), video, entry,
    )  # fmt: skip
    head = element(b"\x15\x49\xa9\x66", element(b"\x2a\xd7\xb1", b"\x0f\x42\x40"))
    tracks = element(b"\x16\x54\xae\x6b", track)
    return _EBML + element(b"\x18\x53\x80\x67", head, tracks, *clusters, size=_UNKNOWN)


def cluster(*blocks: bytes, size: bytes | None = None) -> bytes:
    """A cluster that begins at 0."""
    return element(b"\x1f\x43\xb6\x75", element(b"\xe7", b"\0"), *blocks, size=size)


def key_frame() -> bytes:
    """A key frame of VP8, 64 x 64."""
    body = film([Image.new("RGB", (64, 64))], "libvpx", "webm")
    at = body.index(b"\x9d\x01\x2a") - 3
    return body[at : at + 60]


def block(frame: bytes, *, time: int = 0, lacing: int = 0) -> bytes:
    """A block of track 1, which is a key frame."""
    return element(b"\xa3", b"\x81", struct.pack(">hB", time, 0x80 | lacing), frame)


def zipped(times: int) -> bytes:
    """Frames that the container compresses, 10 MB of zeros each."""
    compression = element(
        b"\x6d\x80",
        element(b"\x62\x40", element(b"\x50\x34", element(b"\x42\x54", b"\0"))),
    )
    packed = zlib.compress(bytes(9_900_000), 9)
    return matroska(cluster(*(block(packed, time=n) for n in range(times))), entry=compression)


def deep_ebml(depth: int) -> bytes:
    """Elements in elements."""
    body = b""
    for _ in range(depth):
        body = element(b"\x45\xb9", body)
    return _EBML + element(b"\x18\x53\x80\x67", element(b"\x10\x43\xa7\x70", body))


FILES: dict[str, Callable[[], bytes]] = {
    "stsz-of-2-to-the-28.mp4": lambda: with_table(b"stsz", numbers(1, 2**28)),
    "stsz-of-2-to-the-32.mp4": lambda: with_table(b"stsz", numbers(1, 2**32 - 1)),
    "stsz-without-end.mp4": lambda: with_table(b"stsz", numbers(0, 2**28)),
    "stsz-of-nothing.mp4": lambda: with_table(b"stsz", numbers(0, 0)),
    "stsz-samples-of-2-gb.mp4": lambda: with_table(b"stsz", numbers(2**31 - 1, 10)),
    "stts-of-a-million.mp4": lambda: with_table(b"stts", numbers(10**6) + numbers(1, 1) * 10**6),
    "stts-negative.mp4": lambda: with_table(b"stts", numbers(1, 10, 2**32 - 5)),
    "stsc-of-2-to-the-31.mp4": lambda: with_table(b"stsc", numbers(1, 1, 2**31 - 1, 1)),
    "stsc-no-entry.mp4": lambda: with_table(b"stsc", numbers(0)),
    "stco-nowhere.mp4": lambda: with_table(b"stco", numbers(1, 2**32 - 1)),
    "stsd-of-2-to-the-31.mp4": lambda: with_table(b"stsd", numbers(2**31)),
    "a-million-edits.mp4": lambda: with_edits(1_000_000),
    "moov-of-4-gb.mp4": lambda: mp4().replace(
        mp4()[mp4().index(b"moov") - 4 :][:4], b"\xff\xff\xff\xff"
    ),
    "moov-in-moov.mp4": lambda: nested(10_000),
    "trak-in-trak.mp4": lambda: nested(10_000, b"trak"),
    "meta-in-meta.mp4": lambda: nested(10_000, b"meta"),
    "compressed-moov.mp4": lambda: (
        box(b"ftyp", b"isom", numbers(0))
        + box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", numbers(2**31 - 1),
              zlib.compress(bytes(50_000_000)))))
    ),
    "200-tracks.mp4": lambda: many_tracks(200),
    "20-tracks.mp4": lambda: many_tracks(20),
    "fragment-of-2-to-the-31.mp4": lambda: fragmented(2**31 - 1),
    "fragment-of-50-million.mp4": lambda: fragmented(50_000_000),
    "20000-fragments.mp4": lambda: fragmented(1) + fragment(1) * 20_000,
    "overlapping-1000.mp4": lambda: overlapping(1000),
    "overlapping-a-million.mp4": lambda: overlapping(1_000_000),
    "overlapping-large.mp4": lambda: overlapping(1000, 2000),
    "description-65535.mp4": lambda: other_size(65_535, 65_535),
    "description-no-size.mp4": lambda: other_size(0, 0),
    "frames-16384.mp4": huge_frames,
    "ten-hours.mp4": ten_hours_of_black,
    "other-file.mp4": lambda: with_reference(b"url ", b"file:///etc/passwd\0"),
    "other-site.mp4": lambda: with_reference(b"url ", b"http://127.0.0.1:9/a.mp4\0"),
    "alias.mp4": lambda: with_reference(b"alis", alias(b"Disk:etc:passwd")),
    "box-of-size-7.mp4": lambda: mp4()[:40] + box(b"free", size=7) + mp4()[40:],
    "box-without-end.mp4": lambda: box(b"ftyp", b"isom", numbers(0)) + box(b"mdat", size=0),
    "only-ftyp.mp4": lambda: box(b"ftyp", b"isom", numbers(0)),
    "100000-boxes.mp4": lambda: box(b"ftyp", b"isom", numbers(0)) + box(b"free") * 100_000,
    "vp8-16383.webm": huge_vp8,
    "cluster-without-end.webm": lambda: matroska(cluster(block(key_frame()), size=_UNKNOWN) * 50),
    "100000-clusters.webm": lambda: matroska(cluster(block(key_frame())) * 100_000),
    "300000-blocks.webm": lambda: matroska(cluster(block(b"\1") * 300_000)),
    "laced-256.webm": lambda: matroska(
        cluster(block(b"\xff" + bytes(255) + b"\1" * 256, lacing=2) * 2000)
    ),
    "laced-empty.webm": lambda: matroska(cluster(block(b"\xff" + bytes(255), lacing=2) * 20_000)),
    "zipped-frames.webm": lambda: zipped(300),
    "size-of-2-to-the-56.webm": lambda: (
        _EBML + b"\x18\x53\x80\x67\x01" + b"\xff" * 6 + b"\xfe\x16\x54\xae\x6b\x01" + b"\xff" * 6
    ),
    "deep.webm": lambda: deep_ebml(500),
    "only-ebml.webm": lambda: _EBML,
    "playlist.m3u8": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat.txt": lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "session.sdp": lambda: b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
}  # fmt: skip
