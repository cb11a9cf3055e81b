"""Files to decode: large soft shapes that move, under the noise of a sensor; made on the spot."""

import io
from collections.abc import Callable, Iterator
from typing import Final

import av
import numpy as np
import pillow_jxl  # noqa: F401 -- registers JPEG XL with Pillow
from av.video.stream import VideoStream
from PIL import Image

from benchmarks.pictures import LARGE, Pictures

_STILL: Final = (2304, 1728)
_GIF: Final = (480, 360)
_VIDEO: Final = (1280, 720)
_FRAMES_A_SECOND: Final = 30


def stills() -> dict[str, Callable[[], bytes]]:
    """By name: 12 MP as cameras make them, 4 MP as the web has them."""
    return {
        "JPEG, 12 MP": lambda: Pictures(LARGE).new(),
        "PNG, 4 MP": lambda: _still("PNG"),
        "WebP, 4 MP": lambda: _still("WEBP", quality=80),
        "AVIF, 4 MP": lambda: _still("AVIF", speed=9),
        "JPEG XL, 4 MP": lambda: _still("JXL", quality=85, effort=3),
    }


def gif() -> bytes:
    """200 frames of 480 x 360, in the colors of the first."""
    frames = [Image.fromarray(frame) for frame in _moving(_GIF, 200)]
    palette = frames[0].quantize(256)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    body = io.BytesIO()
    indexed[0].save(body, "GIF", save_all=True, append_images=indexed[1:], duration=50)
    return body.getvalue()


def mp4(*, key_frame_every: int, seconds: int = 30, size: tuple[int, int] = _VIDEO) -> bytes:
    """H.264 as x264 makes it, B-frames included, with a key frame each so many frames."""
    options = {"preset": "superfast", "g": str(key_frame_every), "sc_threshold": "0"}
    body = io.BytesIO()
    with av.open(body, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FRAMES_A_SECOND, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for pixels in _moving(size, seconds * _FRAMES_A_SECOND):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return body.getvalue()


def _still(kind: str, **options: object) -> bytes:
    body = io.BytesIO()
    Image.fromarray(next(_moving(_STILL, 1))).save(body, kind, **options)
    return body.getvalue()


def _moving(size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """Frames of (height, width, 3) uint8: the view wanders over a scene of twice the size."""
    width, height = size
    random = np.random.default_rng(0)
    shapes = Image.fromarray(random.integers(0, 256, (18, 24, 3), dtype=np.uint8))
    scene = np.asarray(shapes.resize((2 * width, 2 * height), Image.Resampling.BICUBIC))
    # The same noise, shifted, looks new to a codec and costs nothing to make.
    noise = random.normal(0, 3, (2 * height, 2 * width, 1)).astype(np.int8)
    for number in range(count):
        left, top = number * width // count, number * height // count
        across, down = random.integers(width), random.integers(height)
        view = scene[top : top + height, left : left + width].astype(np.int16)
        view += noise[down : down + height, across : across + width]
        yield np.clip(view, 0, 255).astype(np.uint8)
