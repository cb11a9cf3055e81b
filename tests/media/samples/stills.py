"""Stills: the purple is in the picture itself, in each way to store one."""

import struct
import zlib
from functools import partial

import numpy as np
from PIL import Image, ImageCms

from tests.media.samples.tools import SIZE, Make, converted, made_by, scene
from tests.pictures import Color, encoded

STRIP = (300, 12_000)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(
    rows: bytes, size: tuple[int, int], *, depth: int, color: int, extra: bytes = b""
) -> bytes:
    """A PNG of filtered rows; `extra` chunks come before the pixels."""
    head = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def png_16_bit(color: Color) -> bytes:
    """RGB of 16 bits each."""
    wide = np.asarray(scene(color)).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    return png_of(rows, (wide.shape[1], wide.shape[0]), depth=16, color=2)


def jpeg_without_adobe(color: Color) -> bytes:
    """CMYK as most decoders take it: the numbers as they are, no mark that they are inverted."""
    body = encoded(scene(color).convert("CMYK"), "JPEG", quality=95)
    at = body.index(b"\xff\xee")
    return body[:at] + body[at + 2 + int.from_bytes(body[at + 2 : at + 4], "big") :]


def with_swapped_profile(color: Color) -> bytes:
    """What is purple is green and blue by its numbers: the profile exchanges two colors."""
    red, green, blue = scene(color).split()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    first, second = tags[b"rXYZ"], tags[b"gXYZ"]
    one, other = profile[first + 4 : first + 12], profile[second + 4 : second + 12]
    profile[first + 4 : first + 12], profile[second + 4 : second + 12] = other, one
    return encoded(Image.merge("RGB", (green, red, blue)), icc_profile=bytes(profile))


def with_wide_profile(color: Color) -> bytes:
    """Numbers of a gamut wider than a screen's, by a profile of the widest."""
    wide = ImageCms.createProfile("XYZ")
    image = ImageCms.profileToProfile(scene(color), ImageCms.createProfile("sRGB"), wide)
    assert image is not None
    return encoded(image, icc_profile=ImageCms.ImageCmsProfile(wide).tobytes())


def over_black_only(color: Color) -> bytes:
    """A small area in faint green: lost in the light over white, the brightest over black."""
    image = Image.new("RGBA", (200, 200), (0, 255, 0, 26))
    image.paste((*color, 255), (60, 60, 142, 142))  # 17 % of the area
    return encoded(image)


def clear(color: Color) -> bytes:
    """Fully transparent, with colors beneath: what is left when a thumbnail drops transparency."""
    image = scene(color).convert("RGBA")
    image.putalpha(0)
    return encoded(image)


def holey(color: Color, kind: str, **options: object) -> bytes:
    """The picture, with transparent corners."""
    image = scene(color).convert("RGBA")
    for corner in ((0, 0), (150, 0), (0, 110), (150, 110)):
        image.paste((0, 0, 0, 0), (*corner, corner[0] + 10, corner[1] + 10))
    return encoded(image, kind, **options)


def few_colors(color: Color, bits: int) -> bytes:
    """A palette of as few colors as so many bits can name."""
    image = scene(color).quantize(2**bits, dither=Image.Dither.NONE)
    return encoded(image, bits=bits)


def see_through_palette(color: Color) -> bytes:
    """A palette with a transparent entry, in a PNG."""
    image = scene(color).quantize(16)
    return encoded(image, transparency=image.getpixel((0, 0)))


def turned(color: Color, orientation: int, kind: str = "JPEG") -> bytes:
    """At one end of a long picture that is stored on its side, upside down or mirrored."""
    width, height = size = (480, 120)
    upright = scene(color, size=size, box=(width - 110, 0, width, height))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, kind, exif=exif)


def at_the_end(color: Color, kind: str) -> bytes:
    """At the bottom of a strip, forty times as high as wide."""
    width, height = STRIP
    box = (0, height - 300, width, height)
    return encoded(
        scene(color, size=STRIP, box=box), kind, **({"quality": 60} if kind == "JPEG" else {})
    )


def at_the_border(color: Color, end: str) -> bytes:
    """At one end of a picture that is three times as wide as high."""
    width, height = size = (720, 240)
    left = {"left": 0, "right": width - 180}[end]
    return encoded(scene(color, size=size, box=(left, 0, left + 180, height)), "JPEG")


def framed(color: Color) -> bytes:
    """Small, in the middle of a black poster."""
    poster = Image.new("RGB", (640, 640))
    poster.paste(scene(color, size=(120, 120), box=(0, 0, 120, 120)), (260, 260))
    return encoded(poster)


def apart(color: Color) -> bytes:
    """Small, in a corner of a white page, with a speck in the opposite one."""
    page = Image.new("RGB", (640, 640), "white")
    page.paste(scene(color, size=(64, 64), box=(0, 0, 64, 64)), (560, 560))
    page.paste((40, 60, 40), (6, 6, 16, 16))
    return encoded(page)


def saturated_and_clear(color: Color) -> bytes:
    """One color, fully transparent: each of its channels is that of black or of white."""
    return encoded(Image.new("RGBA", SIZE, (*color, 0)))


def avif(color: Color, *options: str, depth: int = 8) -> bytes:
    """By avifenc, whose speed is set for tests."""
    return made_by(
        "avifenc", "-s", "10", "-j", "1", "-d", str(depth), *options, "a.png", "a.avif",
        out="a.avif", a_png=encoded(scene(color, size=(192, 160))),
    )  # fmt: skip


def avif_of_tiles(color: Color) -> bytes:
    """Four AV1 pictures that are one."""
    return avif(color, "--grid", "2x2")


def avif_turned(color: Color) -> bytes:
    """Turned by the container, at one end of a long picture."""
    image = scene(color, size=(480, 120), box=(370, 0, 480, 120))
    return made_by(
        "avifenc", "-s", "10", "-j", "1", "--irot", "1", "--imir", "0", "a.png", "a.avif",
        out="a.avif", a_png=encoded(image),
    )  # fmt: skip


def avif_see_through(color: Color) -> bytes:
    """With transparent corners."""
    return made_by(
        "avifenc", "-s", "10", "-j", "1", "a.png", "a.avif", out="a.avif", a_png=holey(color, "PNG")
    )


def jxl(color: Color, *options: str, body: bytes | None = None, kind: str = "png") -> bytes:
    """By cjxl."""
    body = encoded(scene(color)) if body is None else body
    return made_by(
        "cjxl", f"a.{kind}", "a.jxl", "--quiet", "-e", "3", *options,
        out="a.jxl", **{f"a_{kind}": body},
    )  # fmt: skip


def jxl_of_jpeg(color: Color) -> bytes:
    """A JPEG, packed so that it can be had back."""
    return jxl(color, "--lossless_jpeg=1", body=encoded(scene(color), "JPEG"), kind="jpg")


PAIRS: dict[str, Make] = {
    "plain.png": lambda color: encoded(scene(color)),
    "rgba.png": partial(holey, kind="PNG"),
    "16-bit.png": png_16_bit,
    "16-bit-rgba.png": lambda color: converted(
        holey(color, "PNG"), "-depth", "16", "-define", "png:color-type=6", out="a.png"
    ),
    "palette-8.png": partial(few_colors, bits=8),
    "palette-4.png": partial(few_colors, bits=4),
    "palette-2.png": partial(few_colors, bits=2),
    "palette-transparent.png": see_through_palette,
    "interlaced.png": lambda color: converted(scene(color), "-interlace", "PNG", out="a.png"),
    "over-black-only.png": over_black_only,
    "all-transparent.png": clear,
    "profile-swaps-colors.png": with_swapped_profile,
    "framed.png": framed,
    "apart.png": apart,
    "saturated-transparent.png": saturated_and_clear,
    "bottom-of-strip.png": partial(at_the_end, kind="PNG"),
    "bottom-of-strip.jpg": partial(at_the_end, kind="JPEG"),
    "left-end.jpg": partial(at_the_border, end="left"),
    "right-end.jpg": partial(at_the_border, end="right"),
    "baseline.jpg": lambda color: encoded(scene(color), "JPEG"),
    "progressive.jpg": lambda color: encoded(scene(color), "JPEG", progressive=True),
    "full-chroma.jpg": lambda color: encoded(scene(color), "JPEG", subsampling=0, quality=98),
    "restart-markers.jpg": lambda color: encoded(scene(color), "JPEG", restart_marker_rows=1),
    "rgb.jpg": lambda color: encoded(scene(color), "JPEG", keep_rgb=True),
    "cmyk-adobe.jpg": lambda color: encoded(scene(color).convert("CMYK"), "JPEG", quality=95),
    "cmyk-no-adobe.jpg": jpeg_without_adobe,
    **{f"orientation-{n}.jpg": partial(turned, orientation=n) for n in range(1, 9)},
    "orientation-6.png": partial(turned, orientation=6, kind="PNG"),
    "orientation-6.webp": partial(turned, orientation=6, kind="WEBP"),
    "still.gif": lambda color: encoded(scene(color), "GIF"),
    "interlaced.gif": lambda color: converted(scene(color), "-interlace", "GIF", out="a.gif"),
    "lossy.webp": lambda color: encoded(scene(color), "WEBP"),
    "lossless.webp": lambda color: encoded(scene(color), "WEBP", lossless=True),
    "rgba.webp": partial(holey, kind="WEBP"),
    "8-bit.avif": avif,
    "10-bit.avif": partial(avif, depth=10),
    "12-bit.avif": partial(avif, depth=12),
    "full-chroma.avif": lambda color: avif(color, "-y", "444"),
    "lossless.avif": lambda color: avif(color, "-l"),
    "limited-range.avif": lambda color: avif(color, "-r", "limited"),
    "tiles.avif": avif_of_tiles,
    "turned.avif": avif_turned,
    "rgba.avif": avif_see_through,
    "lossy.jxl": jxl,
    "lossless.jxl": lambda color: jxl(color, "-d", "0"),
    "progressive.jxl": lambda color: jxl(color, "-p"),
    "16-bit.jxl": lambda color: jxl(color, "-d", "0", body=png_16_bit(color)),
    "rgba.jxl": lambda color: jxl(color, body=holey(color, "PNG")),
    "from-jpeg.jxl": jxl_of_jpeg,
    "container.jxl": lambda color: jxl(color, "--container=1"),
}
