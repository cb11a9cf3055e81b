"""Colors under full transparency, which no browser shows: the purple is there.

Who makes a JPEG or a video of such a file, as pict-rs does, may show them.
"""

import struct

from PIL import Image

from tests.media.samples.animations import animated
from tests.media.samples.tools import HARMLESS, SIZE, Make, scene
from tests.pictures import Color, encoded


def beneath(color: Color, *, size: tuple[int, int] = SIZE) -> Image.Image:
    """The picture in what is fully transparent, with a thin frame around it that is seen."""
    image = scene(color, size=size).convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (4, 4, image.width - 4, image.height - 4))
    image.putalpha(alpha)
    return image


def frames(color: Color, *, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Of which the third has the color, and all look alike."""
    return [beneath(color if number == 2 else HARMLESS, size=size) for number in range(4)]


def clear_frames(color: Color, *, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Nothing is seen of any; the third is of the color, the others of black and white."""
    levels: list[Color] = [(0, 0, 0), (255, 255, 255), color, (0, 0, 0)]
    return [Image.new("RGBA", size, (*level, 0)) for level in levels]


def webp_of(images: list[Image.Image]) -> bytes:
    """An animation that keeps these colors, which Pillow's own writer drops."""
    width, height = images[0].size
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = _chunk(b"VP8X", struct.pack("<I", 0x12) + sides) + _chunk(b"ANIM", bytes(6))
    for image in images:
        still = encoded(image, "WEBP", lossless=True, exact=True)
        data = still[still.index(b"VP8L") :]
        body += _chunk(b"ANMF", bytes(6) + sides + (100).to_bytes(3, "little") + b"\x02" + data)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)


def transparent_index(color: Color) -> Image.Image:
    """Nearly all of it in the color of index 1."""
    image = Image.new("P", SIZE, 1)
    image.putpalette((200, 220, 200, *color))
    image.paste(0, (0, 0, SIZE[0], 6))
    return image


PAIRS: dict[str, Make] = {
    "beneath.png": lambda color: encoded(beneath(color)),
    "beneath.webp": lambda color: encoded(beneath(color), "WEBP", lossless=True, exact=True),
    "beneath.apng": lambda color: animated(frames(color), "PNG", disposal=1, blend=0),
    "beneath-large.apng": lambda color: animated(
        frames(color, size=(400, 300)), "PNG", disposal=1, blend=0
    ),
    "all-clear.apng": lambda color: animated(clear_frames(color), "PNG", disposal=1, blend=0),
    "all-clear-large.apng": lambda color: animated(
        clear_frames(color, size=(400, 300)), "PNG", disposal=1, blend=0
    ),
    "beneath-animation.webp": lambda color: webp_of(frames(color)),
    "transparent-index.png": lambda color: encoded(transparent_index(color), transparency=1),
    "transparent-index.gif": lambda color: encoded(
        transparent_index(color), "GIF", transparency=1, optimize=False
    ),
}
