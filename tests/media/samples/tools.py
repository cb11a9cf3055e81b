"""Scenes to put into files, and the programs that make files Pillow cannot."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pillow_jxl  # noqa: F401 -- registers JPEG XL with Pillow
from PIL import Image, ImageDraw

from tests.pictures import Color, encoded

Make = Callable[[Color], bytes]
Size = tuple[int, int]
Box = tuple[int, int, int, int]

SIZE = (160, 120)

# What stands in the place of the purple.
HARMLESS: Color = (110, 150, 90)

# Debian's packages, by program.
_PACKAGES = {
    "ffmpeg": "ffmpeg",
    "convert-im6.q16": "imagemagick-6.q16",
    "avifenc": "libavif-bin",
    "cjxl": "libjxl-tools",
    "exiftool": "libimage-exiftool-perl",
}


class MissingTool(Exception):
    """A program that makes this file is not installed; the message names its package."""


def scene(
    color: Color | None = None, *, size: Size = SIZE, box: Box | None = None, step: int = 0
) -> Image.Image:
    """A light picture with slopes and edges, and an area of a color, if one is given.

    box: where the area is; most of the picture unless given. step: of a slow change.
    """
    width, height = size
    across = np.linspace(170, 235, width)[None, :].repeat(height, 0)
    down = np.linspace(235, 180, height)[:, None].repeat(width, 1)
    light = (across + down) / 2
    image = Image.fromarray(np.stack([light * 0.93, light, light * 0.9], 2).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    left = width // 10 + step * width // 100
    pen.ellipse((left, height // 6, left + width // 4, height // 2), fill=(90, 150, 70))
    pen.line((0, height - 5, width, height * 2 // 3), fill=(70, 90, 60), width=max(1, height // 40))
    if color is not None:
        image.paste(color, box or (width // 10, height // 10, width * 9 // 10, height * 9 // 10))
    return image


def scenes(
    count: int, numbers: Iterable[int] = (), color: Color | None = None, *, size: Size = SIZE
) -> list[Image.Image]:
    """Frames in which little moves; those with these numbers, from 0, have the area."""
    shown = set(numbers)
    return [
        scene(color if number in shown else None, size=size, step=number % 20)
        for number in range(count)
    ]


def made_by(program: str, *arguments: str, out: str, **files: bytes) -> bytes:
    """What a program writes to `out`, in a folder of its own with `files`: `a_png=...` is `a.png`.

    Raises MissingTool if it is not installed, AssertionError with what it said if it fails.
    """
    found = shutil.which(program)
    if found is None:
        raise MissingTool(f"no {program}: Debian has it in {_PACKAGES[program]}")
    with tempfile.TemporaryDirectory() as folder:
        for name, body in files.items():
            (Path(folder) / name.replace("_", ".")).write_bytes(body)
        done = subprocess.run(
            [found, *arguments], cwd=folder, capture_output=True, check=False, timeout=60
        )
        output = Path(folder) / out
        assert done.returncode == 0, (program, arguments, done.stderr[-2000:])
        return output.read_bytes()


def converted(image: Image.Image | bytes, *arguments: str, out: str) -> bytes:
    """What ImageMagick makes of a picture."""
    body = image if isinstance(image, bytes) else encoded(image)
    return made_by("convert-im6.q16", "in.png", *arguments, out, out=out, in_png=body)


def with_metadata(body: bytes, kind: str, *arguments: str, **files: bytes) -> bytes:
    """What exiftool makes of a file; `kind` is how its name ends."""
    name = f"a.{kind}"
    return made_by(
        "exiftool",
        "-q",
        "-overwrite_original",
        *arguments,
        name,
        out=name,
        **{f"a_{kind}": body},
        **files,
    )


def filmed(
    frames: Iterable[Image.Image], *arguments: str, out: str, rate: int = 10, **files: bytes
) -> bytes:
    """What ffmpeg makes of frames; `arguments` follow the input, which is number 0."""
    images = [frame.convert("RGB") for frame in frames]
    width, height = images[0].size
    raw = b"".join(image.tobytes() for image in images)
    return made_by(
        "ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
        "-r", str(rate), "-i", "in.raw", *arguments, "-threads", "1", out,
        out=out, in_raw=raw, **files,
    )  # fmt: skip
