"""Bytes -> frames -> crops of the size that the model takes.

A crop is made exactly as open_clip's own preprocessing makes it (resize, then center crop, on the
decoded picture), but left as 8 bit RGB: 150 KB for a 224 x 224 model, whatever the upload's size.
"""

import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.errors import UndecodableImage

# What pict-rs stores and Pillow reads. Everything else (JPEG XL, video, and what Pillow could read
# but pict-rs would not take) is undecodable here, so that no exotic decoder sees foreign bytes.
FORMATS = ("AVIF", "GIF", "JPEG", "PNG", "WEBP")

# Pixels of all frames that have to be decoded to reach those that are looked at. GIF and APNG
# build each frame on the one before, so a late frame costs all earlier ones.
MAX_TOTAL_PIXELS = 2_000_000_000

# A picture of 40,000,000 x 1 would be resized to gigabytes before most of it is cut away. From so
# many crops' area on, only the part that stays is resized.
_STRETCHED = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """One looked-at frame: its index in the file and its crop, (height, width, 3) uint8 RGB."""

    index: int
    crop: UInt8Array


def read_frames(
    data: mmap.mmap | bytes, spec: CropSpec, *, max_frame_pixels: int, max_frames: int
) -> list[Frame]:
    """The frames of a picture that are to be judged, at least one.

    A still has one; of an animation up to `max_frames` are taken, evenly spread, first and last
    among them. Blocks for the time of the decode: call it on a thread.
    Raises UndecodableImage if the bytes are no picture that this build reads, are damaged, or
    pass a bound. Nothing is returned for a picture that was read in part only.
    """
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with Image.open(cast("IO[bytes]", source), formats=FORMATS) as image:
            _check_bounds(image, max_frame_pixels=max_frame_pixels)
            return [
                Frame(index, _crop(frame, spec))
                for index, frame in _selected_frames(image, spec, max_frames=max_frames)
            ]
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage("not a picture of a known format") from error
    except Exception as error:
        # Decoders fail on hostile bytes with whatever exception the broken invariant gives.
        raise UndecodableImage(f"decoder failed: {type(error).__name__}: {error}") from error


def _check_bounds(image: Image.Image, *, max_frame_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_frame_pixels:
        raise UndecodableImage(
            f"{image.width} x {image.height} is over the bound of {max_frame_pixels} pixels"
        )
    total = pixels * getattr(image, "n_frames", 1)
    if total > MAX_TOTAL_PIXELS:
        raise UndecodableImage(
            f"all frames together are over the bound of {MAX_TOTAL_PIXELS} pixels"
        )


def _selected_frames(
    image: Image.Image, spec: CropSpec, *, max_frames: int
) -> Iterator[tuple[int, Image.Image]]:
    for index in _spread(getattr(image, "n_frames", 1), max_frames):
        if index:
            image.seek(index)
        elif image.format == "JPEG":
            # The DCT can halve a picture while decoding; never below what the crop is made from.
            image.draft("RGB", (4 * spec.width, 4 * spec.height))
        yield index, _to_rgb(image)


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of range(count), evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)})


def _to_rgb(image: Image.Image) -> Image.Image:
    """As a browser shows it: upright, transparency over white, 16 bit gray scaled, not clipped."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        wide = np.asarray(upright, dtype=np.uint16)
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return upright.convert("RGB")


def _crop(image: Image.Image, spec: CropSpec) -> UInt8Array:
    width, height = _resized(image.size, spec)
    left = round((width - spec.width) / 2)
    top = round((height - spec.height) / 2)
    if width * height > _STRETCHED * spec.width * spec.height:
        across, down = image.width / width, image.height / height
        kept = (left * across, top * down, (left + spec.width) * across, (top + spec.height) * down)
        return np.asarray(
            image.resize(
                (spec.width, spec.height), Image.Resampling[spec.interpolation.upper()], box=kept
            )
        )
    resized = image.resize((width, height), Image.Resampling[spec.interpolation.upper()])
    if spec.resize_mode == "longest":
        canvas = Image.new("RGB", (spec.width, spec.height), (spec.fill_color,) * 3)
        canvas.paste(resized, ((spec.width - width) // 2, (spec.height - height) // 2))
        return np.asarray(canvas)
    return np.asarray(resized.crop((left, top, left + spec.width, top + spec.height)))


def _resized(size: tuple[int, int], spec: CropSpec) -> tuple[int, int]:
    """Width and height before cropping; the rounding is torchvision's and open_clip's."""
    width, height = size
    match spec.resize_mode:
        case "squash":
            return spec.width, spec.height
        case "shortest" if spec.width != spec.height:
            scale = min(height / spec.height, width / spec.width)
            return round(width / scale), round(height / scale)
        case "shortest" if width <= height:
            return spec.width, int(spec.width * height / width)
        case "shortest":
            return int(spec.height * width / height), spec.height
        case "longest":
            scale = max(height / spec.height, width / spec.width)
            return max(1, round(width / scale)), max(1, round(height / scale))
