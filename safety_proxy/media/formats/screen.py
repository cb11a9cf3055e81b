"""A decoded frame of a video -> the picture that a player shows of it, small enough to crop.

FFmpeg's swscale turns it into RGB by the matrix and the range that the frame names, 10 and 12 bits
into 8; what is left of wide colors and high dynamic range is for `color` to convert. Interlaced
lines stay woven, and what a container would have cut away at the borders stays.
"""

import math
import struct
from typing import Final, cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.media.likeness import Thumb

# A frame is averaged down to so many times the crop's side before the crop is made of it: for crops
# of 224 pixels, to 448 lines. A long one keeps more, up to the second.
_OVERSAMPLING: Final = 2
_MOST_PIXELS: Final = 1_000_000

# Side of the pictures that `likeness` compares.
_THUMB: Final = 32

# AVCOL_SPC_*: those that swscale converts; 2 is "unspecified".
_COLORSPACES: Final = frozenset({0, 1, 2, 4, 5, 6, 7, 9, 10})
_UNSPECIFIED: Final = 2

# By the signs of the numbers a, b, c, d of a display matrix: what is stored at (x, y) is shown at
# (a x + c y, b x + d y), from the top left corner.
_TURNS: Final[dict[tuple[int, ...], Image.Transpose]] = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Screen:
    """Makes pictures of frames; one for each track, whose frames are mostly of one size."""

    def __init__(self, spec: CropSpec, *, pixel_shape: float) -> None:
        """pixel_shape: width of a stored pixel over its height."""
        self._side = _OVERSAMPLING * max(spec.width, spec.height)
        self._pixel_shape = pixel_shape
        self._thumbs = VideoReformatter()
        self._pictures = VideoReformatter()

    def thumb(self, frame: VideoFrame, alpha: VideoFrame | None) -> Thumb:
        """For `likeness`; with four channels where there is transparency."""
        size = (_THUMB, _THUMB)
        kind = "rgba" if alpha is None and _has_alpha(frame) else "rgb24"
        color = _pixels(self._thumbs, frame, size, kind).astype(np.int16)
        if alpha is None:
            return color
        opacity = _pixels(self._thumbs, alpha, size, "gray").astype(np.int16)[..., None]
        return np.concatenate([color, opacity], axis=2)

    def picture(self, frame: VideoFrame, alpha: VideoFrame | None) -> Image.Image:
        """Upright, in its shape, in mode RGB, or RGBA where there is transparency.

        alpha: a frame whose brightness is the opacity, of any size; before the frame's own.
        """
        size = self._size(frame)
        if alpha is None and _has_alpha(frame):
            image = Image.fromarray(_pixels(self._pictures, frame, size, "rgba"))
        else:
            image = _image(_resized(self._pictures, frame, size, "rgb0"))
        if alpha is not None:
            image.putalpha(Image.fromarray(_pixels(self._pictures, alpha, size, "gray")))
        turn = _turn_of(frame)
        return image if turn is None else image.transpose(turn)

    def _size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height at which a frame is read, before it is turned; never more pixels."""
        width = frame.width * min(1, self._pixel_shape)
        height = frame.height / max(1, self._pixel_shape)
        if width * height < 1:
            return 1, 1
        scale = min(1, max(self._side / min(width, height), 1 / width, 1 / height))
        scale = min(scale, math.sqrt(_MOST_PIXELS / (width * height)))
        return max(1, round(width * scale)), max(1, round(height * scale))


def _has_alpha(frame: VideoFrame) -> bool:
    """As a PNG in a cover may have it; WebM keeps it apart."""
    return any(component.is_alpha for component in frame.format.components)


def _pixels(
    reformatter: VideoReformatter, frame: VideoFrame, size: tuple[int, int], kind: str
) -> UInt8Array:
    """The frame resized: (height, width, 3) for rgb24, 4 for rgba, (height, width) for gray."""
    return cast("UInt8Array", _resized(reformatter, frame, size, kind).to_ndarray())


def _image(frame: VideoFrame) -> Image.Image:
    """A frame of kind rgb0, whose pixels lie as Pillow has its own."""
    plane = frame.planes[0]
    size = (frame.width, frame.height)
    pixels = cast("bytes", plane)  # what has a buffer
    image = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", plane.line_size, 1)
    return image.convert("RGB")


def _resized(
    reformatter: VideoReformatter, frame: VideoFrame, size: tuple[int, int], kind: str
) -> VideoFrame:
    """The frame resized by averaging. rgb0 takes swscale a quarter of the time of rgb24."""
    if frame.colorspace not in _COLORSPACES:
        frame.colorspace = _UNSPECIFIED
    width, height = size
    # One thread: the default takes a processor each for a millisecond's work.
    return reformatter.reformat(
        frame, width, height, kind, interpolation=Interpolation.AREA, threads=1
    )


def _turn_of(frame: VideoFrame) -> Image.Transpose | None:
    """How the frame is turned or mirrored to stand upright, in steps of a quarter."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", cast("bytes", matrix))
    along, across = max(abs(a), abs(d)), max(abs(b), abs(c))
    numbers = (a, 0, 0, d) if along >= across else (0, b, c, 0)
    return _TURNS.get(tuple((number > 0) - (number < 0) for number in numbers))
