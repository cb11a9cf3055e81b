"""Pictures that claim what they do not hold, or hold more than anybody wants to decode."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.media.samples.boxes import box, full, numbers
from tests.media.samples.stills import chunk
from tests.media.samples.tools import scene
from tests.pictures import RED, encoded

PNG = b"\x89PNG\r\n\x1a\n"


def header(width: int, height: int, *, depth: int = 8, color: int = 2) -> bytes:
    """The first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))


def png(*chunks: bytes, size: tuple[int, int] = (16, 16)) -> bytes:
    """A small PNG with further chunks before its pixels."""
    rows = zlib.compress((b"\0" + b"\x80" * 3 * size[0]) * size[1])
    return PNG + header(*size) + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def solid_png(width: int, height: int) -> bytes:
    """One color, a thousandth of its pixels in bytes."""
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(3 * width)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return PNG + header(width, height) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(megabytes: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def apng(frames: int, claimed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """An APNG that has so many frames of one pixel each, and claims another number."""
    pixel = zlib.compress(b"\0\xff\0\0")
    first = chunk(b"IDAT", zlib.compress((b"\0" + bytes(3 * size[0])) * size[1], 1))
    parts = [PNG, header(*size), chunk(b"acTL", numbers(claimed, 0)), first]
    for number in range(frames):
        control = numbers(2 * number, 1, 1, 0, 0) + struct.pack(">HHBB", 1, 100, 0, 0)
        parts += chunk(b"fcTL", control), chunk(b"fdAT", numbers(2 * number + 1) + pixel)
    return b"".join(parts) + chunk(b"IEND", b"")


def jpeg(size: tuple[int, int] | None = None, *segments: bytes) -> bytes:
    """A small JPEG that says that it has another size, with further segments."""
    body = bytearray(encoded(scene(size=(64, 48)), "JPEG"))
    if size is not None:
        at = body.index(b"\xff\xc0")
        body[at + 5 : at + 9] = struct.pack(">HH", size[1], size[0])
    return bytes(body[:2]) + b"".join(segments) + bytes(body[2:])


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def many_scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again, each over the whole picture."""
    body = encoded(Image.new("RGB", (side, side), RED), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    table = body.rindex(b"\xff\xc4", 0, last)
    return body[:-2] + body[table:-2] * count + body[-2:]


def exif(*, entries: bytes, count: int, after: int = 0) -> bytes:
    """A JPEG with one directory of entries."""
    tiff = b"MM\0*" + numbers(8) + struct.pack(">H", count) + entries + numbers(after)
    return jpeg(None, segment(0xE1, b"Exif\0\0" + tiff))


def deep_exif(depth: int) -> bytes:
    """Directories, each of which points to the next."""
    entry = 18
    tiff = b"MM\0*" + numbers(8)
    for number in range(depth):
        place = 8 + (number + 1) * entry
        tiff += struct.pack(">HHHII", 1, 0x8769, 4, 1, place) + numbers(place)
    return jpeg(None, segment(0xE1, b"Exif\0\0" + tiff[:65_000]))


def mpo(count: int, offset: int) -> bytes:
    """A JPEG that declares further pictures where there are none."""
    entries = b"".join(numbers(0x30000, 1000, offset + n, 0) for n in range(min(count, 3000)))
    tags = struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
    tags += struct.pack(">HHII", 0xB001, 4, 1, count)
    tags += struct.pack(">HHII", 0xB002, 7, len(entries), 50)
    head = b"MM\0*" + numbers(8) + struct.pack(">H", 3) + tags + numbers(0)
    return jpeg(None, segment(0xE2, b"MPF\0" + head + entries))


def gif(
    size: tuple[int, int], frames: int, frame: tuple[int, int] = (1, 1), *, loops: bool = False
) -> bytes:
    """So many frames of a size on a canvas of another."""
    body = b"GIF89a" + struct.pack("<HHBBB", *size, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    if loops:
        body += b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    # Single-pixel frames of code size 2: clear, 0, end. Larger ones break off, as far as LZW goes.
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0"
    return body + (b"!\xf9\x04\0\x02\0\0\0" + image) * frames + b";"


def full_gif(count: int) -> bytes:
    """So many frames of 800 x 600, each of one color, in full."""
    images = [Image.new("P", (800, 600), n % 2) for n in range(2)]
    first = encoded(images[0], "GIF", save_all=True, append_images=images[1:], duration=20)
    start = first.index(b"!\xf9")
    return first[:start] + first[start:-1] * (count // 2) + b";"


def noisy_gif(size: tuple[int, int], count: int, *, transparent: bool) -> bytes:
    """A slope that moves in 16 colors, with noise; `size[0]` is even.

    transparent: a corner of each frame, which is put on an empty canvas.
    """
    chance = np.random.default_rng(0)
    slope = np.arange(size[0]) * 13 // size[0]
    palette = [level for number in range(16) for level in (number * 16, 250 - number * 12, 90)]
    images = []
    for number in range(count):
        noise = 2 * chance.integers(0, 2, (size[1], size[0] // 2), np.uint8).repeat(2, axis=1)
        pixels = (noise + np.roll(slope, number * 3)).astype(np.uint8)
        if transparent:
            pixels[:40, :40] = 15
        images.append(Image.fromarray(pixels).copy())
        images[-1].putpalette(palette)
    options = {"transparency": 15, "disposal": 2} if transparent else {"disposal": 1}
    return encoded(
        images[0], "GIF", save_all=True, append_images=images[1:], duration=50,
        optimize=False, **options,
    )  # fmt: skip


def webp(count: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """An animation of so many frames that are the same."""
    images = [Image.new("RGB", size, RED), Image.new("RGB", size, (0, 0, 99))]
    body = encoded(images[0], "WEBP", save_all=True, append_images=images[1:], lossless=True)
    start = body.index(b"ANMF")
    body = body[:start] + body[start:] * (count // 2)
    return b"RIFF" + struct.pack("<I", len(body) - 8) + body[8:]


def webp_canvas() -> bytes:
    """A canvas of 2^24 x 2^24 with a small picture on it."""
    body = bytearray(webp(2))
    body[24:30] = b"\xff" * 6
    return bytes(body)


def avif(*, size: tuple[int, int] | None = None) -> bytes:
    """A small AVIF that says that it has another size."""
    body = bytearray(encoded(scene(size=(64, 48)), "AVIF", speed=10))
    if size is not None:
        at = body.index(b"ispe") + 8
        body[at : at + 8] = numbers(*size)
    return bytes(body)


def avif_of_items(count: int) -> bytes:
    """A header of so many items, none of which is anywhere."""
    items = b"".join(
        full(b"infe", struct.pack(">HH4s", n % 65_535 + 1, 0, b"av01"), b"\0") for n in range(count)
    )
    return box(b"ftyp", b"avif", numbers(0), b"avifmif1") + full(
        b"meta",
        full(b"hdlr", numbers(0), b"pict", bytes(13)),
        full(b"pitm", b"\0\1"),
        full(b"iinf", struct.pack(">H", min(count, 65_535)), items),
    )


def avif_grid() -> bytes:
    """A picture of 256 x 256 tiles, all of them the same one that is not there."""
    grid = b"\0\1\xff\xff" + numbers(2**31 - 1, 2**31 - 1)
    references = box(b"dimg", struct.pack(">HH", 1, 65_000) + b"\0\2" * 65_000)
    return box(b"ftyp", b"avif", numbers(0), b"avifmif1") + full(
        b"meta",
        full(b"hdlr", numbers(0), b"pict", bytes(13)),
        full(b"pitm", b"\0\1"),
        full(b"iinf", b"\0\1", full(b"infe", struct.pack(">HH4s", 1, 0, b"grid"), b"\0")),
        full(b"iref", references),
        box(b"idat", grid),
    )


def jxl_header() -> bytes:
    """A codestream that begins with the largest size there is, and ends there."""
    bits = "0" + "11" + "1" * 30 + "000" + "11" + "1" * 30
    number = int(bits[::-1], 2)
    return b"\xff\x0a" + number.to_bytes(-(-len(bits) // 8), "little") + b"\x50" * 64


def jxl_boxes(count: int) -> bytes:
    """A container of so many boxes, and no picture in any."""
    start = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    return start + box(b"jxlp", numbers(0)) * count


def archive_before_png() -> bytes:
    """An archive that is a picture too, by its end."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("a.txt", "text")
    return body.getvalue() + png()


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg-64250.jpg": lambda: jpeg((64_250, 64_250)),
    "jpeg-no-size.jpg": lambda: jpeg((0, 0)),
    "jpeg-no-height.jpg": lambda: jpeg((64, 0)),
    "jpeg-1000-scans.jpg": lambda: many_scans(1000, 2000),
    "jpeg-10000-comments.jpg": lambda: jpeg(None, segment(0xFE, b"text") * 10_000),
    "jpeg-2-mb-profile.jpg": lambda: jpeg(
        None, *(segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 32)) + bytes(65_000)) for n in range(32))
    ),
    "jpeg-segment-without-end.jpg": lambda: b"\xff\xd8\xff\xe1\xff\xff" + bytes(100),
    "jpeg-only-markers.jpg": lambda: b"\xff\xd8" + b"\xff\xd0" * 500_000,
    "jpeg-5000-starts.jpg": lambda: jpeg() + b"\xff\xd8\xff\xe0\0\x10JFIF\0" * 5000,
    "exif-of-65535-entries.jpg": lambda: exif(entries=b"", count=65_535),
    "exif-to-itself.jpg": lambda: exif(
        entries=struct.pack(">HHII", 0x8769, 4, 1, 8), count=1, after=8
    ),
    "exif-huge-count.jpg": lambda: exif(
        entries=struct.pack(">HHII", 0x9286, 7, 2**32 - 1, 26), count=1
    ),
    "exif-3000-deep.jpg": lambda: deep_exif(3000),
    "mpo-2-to-the-31.jpg": lambda: mpo(2**31, 100),
    "mpo-3000-nowhere.jpg": lambda: mpo(3000, 2**31),
    "mpo-to-itself.jpg": lambda: mpo(1000, 0),
    "png-100000.png": lambda: PNG + header(100_000, 100_000) + chunk(b"IEND", b""),
    "png-12000-x-10000.png": lambda: solid_png(12_000, 10_000),
    "png-at-the-bound.png": lambda: solid_png(6300, 6300),
    "png-long-line.png": lambda: solid_png(39_000_000, 1),
    "png-16-bit-at-the-bound.png": lambda: (
        PNG
        + header(6300, 6300, depth=16)
        + chunk(b"IDAT", zlib.compress(bytes(6300 * (6 * 6300 + 1)), 1))
        + chunk(b"IEND", b"")
    ),
    "png-no-size.png": lambda: PNG + header(0, 0) + chunk(b"IEND", b""),
    "png-no-depth.png": lambda: PNG + header(8, 8, depth=3) + chunk(b"IDAT", b""),
    "png-length-of-4-gb.png": lambda: PNG + header(8, 8) + b"\xff\xff\xff\xffIDAT",
    "png-200000-empty-chunks.png": lambda: png(chunk(b"IDAT", b"") * 200_000),
    "png-10000-texts.png": lambda: png(chunk(b"tEXt", b"a\0text") * 10_000),
    "png-text-of-400-mb.png": lambda: png(chunk(b"zTXt", b"a\0\0" + zeros(400))),
    "png-1000-text-bombs.png": lambda: png(chunk(b"zTXt", b"a\0\0" + zeros(1)) * 1000),
    "png-profile-of-200-mb.png": lambda: png(chunk(b"iCCP", b"a\0\0" + zeros(200))),
    "png-pixels-without-end.png": lambda: PNG + header(16, 16) + chunk(b"IDAT", zeros(500)),
    "apng-2-to-the-31.apng": lambda: apng(2, 2**31 - 1),
    "apng-large-canvas.apng": lambda: apng(5000, 5000, (6000, 6000)),
    "apng-50000-frames.apng": lambda: apng(50_000, 50_000),
    "gif-65535.gif": lambda: gif((65_535, 65_535), 100),
    "gif-large-frames.gif": lambda: gif((16, 16), 100, (65_535, 65_535)),
    "gif-2000-frames.gif": lambda: full_gif(2000),
    "gif-100000-frames.gif": lambda: gif((16, 16), 100_000),
    "gif-endless.gif": lambda: gif((16, 16), 3, loops=True),
    "gif-no-size.gif": lambda: gif((0, 0), 3),
    "gif-no-frame.gif": lambda: gif((16, 16), 0),
    "gif-40000-comments.gif": lambda: gif((4, 4), 0)[:-1] + b"!\xfe\x04text\0" * 40_000 + b";",
    "webp-1000-frames.webp": lambda: webp(1000),
    "webp-1000-large-frames.webp": lambda: webp(1000, (1000, 1000)),
    "webp-16383.webp": lambda: encoded(
        Image.new("L", (16_383, 16_383)).convert("RGB"), "WEBP", lossless=True, method=0, quality=0
    ),
    "webp-canvas.webp": webp_canvas,
    "webp-wrong-length.webp": lambda: b"RIFF\xff\xff\xff\xffWEBP" + webp(2)[12:],
    "webp-no-chunk.webp": lambda: b"RIFF\x04\0\0\0WEBP",
    "avif-65535.avif": lambda: avif(size=(65_535, 65_535)),
    "avif-no-size.avif": lambda: avif(size=(0, 0)),
    "avif-100000-items.avif": lambda: avif_of_items(100_000),
    "avif-grid.avif": avif_grid,
    "jxl-2-to-the-30.jxl": jxl_header,
    "jxl-100000-boxes.jxl": lambda: jxl_boxes(100_000),
    "gif-and-script.gif": lambda: (
        b"GIF89a/*" + gif((16, 16), 1)[8:] + b"*/=1;alert(1)//" + b"GIF89a" * 100
    ),
    "pdf-and-jpeg.jpg": lambda: b"%PDF-1.4\n" + jpeg() + b"\n%%EOF",
    "jpeg-and-html.jpg": lambda: jpeg() + b"<script>alert(1)</script>" * 1000,
    "zip-and-png.png": archive_before_png,
    "svg.svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///'/></svg>",
    "empty": lambda: b"",
    "text": lambda: b"text " * 1000,
}
