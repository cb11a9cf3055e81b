"""Sample pictures, made when asked for."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
PURPLE = (255, 0, 255)  # red and blue: what the test policy blocks

Color = tuple[int, int, int]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file that Pillow writes of an image."""
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()


def plain(color: Color, *, size: tuple[int, int] = (16, 16), kind: str = "PNG") -> bytes:
    """A picture of one color."""
    return encoded(Image.new("RGB", size, color), kind)


def animation(colors: Sequence[Color], kind: str = "GIF", **options: Any) -> bytes:
    """An animation with one frame of each color."""
    first, *rest = (Image.new("RGB", (16, 16), color) for color in colors)
    return encoded(first, kind, save_all=True, append_images=rest, duration=100, **options)
