"""What a decoder may spend, what it gives back, and how it says no."""

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from PIL import Image

from safety_proxy.crops import UInt8Array
from safety_proxy.errors import UndecodableImage
from safety_proxy.evidence import Pdq

_SALT: Final = secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on one file, all of them checked before the memory or time they bound is spent.

    frame_pixels: width x height of one frame.
    total_pixels: of all frames that are decoded.
    frames: most frames of an animation or video that are looked at.
    seconds: longest video whose whole length is sampled.
    gap_seconds: no shown stretch longer than this goes unseen, where `frames` allows.
    hidden: what becomes of pictures and data that no browser shows, see media/hidden.py.
    turned: hash turned and mirrored copies too, see media/pdq.py.
    salt: where frames are left out, nobody who does not know it can tell which; the same salt
        gives the same frames. A new one with each start of the program.
    """

    frame_pixels: int = 40_000_000
    total_pixels: int = 2_000_000_000
    frames: int = 32
    seconds: float = 300.0
    gap_seconds: float = 1.0
    hidden: Literal["scan", "refuse"] = "scan"
    turned: bool = False
    salt: str = _SALT


@dataclass(frozen=True, slots=True)
class Frame:
    """One crop to be judged.

    crop: (height, width, 3) uint8 RGB, of the size that the CropSpec has.
    where: for people: "" for a still as the model's own preprocessing has it, else such as
        "whole picture", "frame 7 at 0.70 s, lower part", "EXIF thumbnail", "after the end".
    whole: the picture that this is the first crop of, small, as long as it is to be hashed.
    pdq: its hashes: one, or those of its turned copies too.
    """

    crop: UInt8Array
    where: str
    whole: Image.Image | None = None
    pdq: tuple[Pdq, ...] = ()


class Code(StrEnum):
    """Why a file is refused."""

    NOT_A_PICTURE = "not-a-picture"  # of no type that pict-rs takes
    UNSUPPORTED_TYPE = "unsupported-type"  # pict-rs takes it, this build cannot read it
    DAMAGED = "damaged"  # nothing of it could be decoded
    TOO_LARGE = "too-large"
    HIDDEN_PICTURE = "hidden-picture"


def undecodable(code: Code, message: str) -> UndecodableImage:
    """The error to raise; `message` is for the log."""
    error = UndecodableImage(message)
    error.code = code.value
    return error


def check_frame(width: int, height: int, bounds: Bounds) -> None:
    """Raises UndecodableImage if one frame of this size is too large, or has no size."""
    if width < 1 or height < 1:
        raise undecodable(Code.DAMAGED, f"a picture of {width} x {height} pixels")
    if width * height > bounds.frame_pixels:
        raise undecodable(
            Code.TOO_LARGE,
            f"{width} x {height} is over the bound of {bounds.frame_pixels} pixels",
        )


def check_total(pixels: int, bounds: Bounds) -> None:
    """Raises UndecodableImage if all frames together are too large."""
    if pixels > bounds.total_pixels:
        raise undecodable(
            Code.TOO_LARGE,
            f"all frames together are over the bound of {bounds.total_pixels} pixels",
        )


def joined(*parts: str) -> str:
    """A `where` of parts, those that are empty left out."""
    return ", ".join(part for part in parts if part)
