"""What a list of frames shows, for tests: purple stands in for what has to be found."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from safety_proxy.crops import CropSpec
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.frames import read_frames
from tests.pictures import Color

SPEC = CropSpec(32, 32)


def look(data: bytes, spec: CropSpec = SPEC, bounds: Bounds | None = None) -> list[Frame]:
    """All frames of a file."""
    return read_frames(data, spec, bounds or Bounds(salt="a"))


def places(frames: Sequence[Frame]) -> list[str]:
    """Where each is."""
    return [frame.where for frame in frames]


def hits(frames: Sequence[Frame]) -> list[str]:
    """Where a frame has more red and blue than green by far: what the test policy blocks."""
    return [frame.where for frame in frames if is_purple(color_of(frame))]


def is_purple(color: Color) -> bool:
    """As the test policy has it, about."""
    return min(color[0], color[2]) > color[1] + 60


def color_of(frame: Frame) -> Color:
    """The mean color of a crop."""
    red, green, blue = (round(float(value)) for value in frame.crop.mean(axis=(0, 1)))
    return red, green, blue


def near(one: Color, other: Color, levels: int = 8) -> bool:
    """Whether two colors are about the same."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= levels


def made_by(folder: Path, command: str, output: str) -> bytes:
    """What a program of the system writes, run in `folder`; skips the test without it."""
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return (folder / output).read_bytes()
