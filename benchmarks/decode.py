"""Decoding and cropping, beside the best single call of a library that gives the model's crop.

In this process, by processor time: what several threads take is added up, and what other programs
take of the processor counts for neither side. Both sides take turns, and the best of each counts.

Ours does more for its time: it looks for further pictures in the file, at views beside the model's
own, and at how unlike each frame of a film is to others; the calls make one crop of a still, and of
a film or animation one each of as many frames.
"""

import importlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageSequence

from benchmarks import samples
from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.frames import read_frames

_SPEC: Final = CropSpec(224, 224)
_SIDE: Final = _SPEC.width
_BOUNDS: Final = Bounds(salt="the same frames each time")

Call = Callable[[bytes], object]


@dataclass(slots=True)
class Decoding:
    """One file, and the processor seconds of each call, repeat by repeat.

    crops: that ours makes.
    """

    name: str
    size_bytes: int
    crops: int
    ours: list[float] = field(default_factory=list)
    calls: dict[str, list[float]] = field(default_factory=dict)

    @property
    def best_call(self) -> str:
        """The name of the fastest."""
        return min(self.calls, key=lambda name: min(self.calls[name]))

    @property
    def ratio(self) -> float:
        """Our best time over the best of the fastest call."""
        return min(self.ours) / min(self.calls[self.best_call])


def decodings(repeats: int) -> Iterator[Decoding]:
    """One for each format, measured so many times."""
    vips = _vips()
    for name, make in samples.stills().items():
        calls: dict[str, Call] = {"Pillow": _pillow}
        if vips is not None and not name.startswith("JPEG XL"):  # which its wheel lacks
            calls["pyvips"] = partial(_vips_still, vips)
        yield _measure(name, make(), calls, repeats)
    calls = {"Pillow": _pillow_animation}
    if vips is not None:
        calls["pyvips"] = partial(_vips_animation, vips)
    yield _measure("GIF, 200 frames", samples.gif(), calls, repeats)
    far, near = samples.mp4(key_frame_every=300), samples.mp4(key_frame_every=30)
    yield _measure("MP4, key frame each second", near, {"PyAV, key frames": _key_frames}, repeats)
    yield _measure("MP4, key frame each 10 s", far, {"PyAV, all frames": _all_frames}, repeats)


def _measure(name: str, body: bytes, calls: dict[str, Call], repeats: int) -> Decoding:
    crops = len(read_frames(body, _SPEC, _BOUNDS))
    decoding = Decoding(name, len(body), crops, calls={call: [] for call in calls})
    for _ in range(repeats):
        decoding.ours.append(_seconds(lambda: read_frames(body, _SPEC, _BOUNDS)))
        for call_name, call in calls.items():
            decoding.calls[call_name].append(_seconds(partial(call, body)))
    return decoding


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _pillow(body: bytes) -> UInt8Array:
    with Image.open(io.BytesIO(body)) as image:
        image.draft("RGB", (_SIDE, _SIDE))
        return _crop(image)


def _crop(image: Image.Image) -> UInt8Array:
    scale = _SIDE / min(image.size)
    size = max(_SIDE, round(image.width * scale)), max(_SIDE, round(image.height * scale))
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - _SIDE) // 2, (size[1] - _SIDE) // 2
    return np.asarray(resized.crop((left, top, left + _SIDE, top + _SIDE)))


def _pillow_animation(body: bytes) -> list[UInt8Array]:
    with Image.open(io.BytesIO(body)) as image:
        frames = enumerate(ImageSequence.Iterator(image))
        return [_crop(frame) for number, frame in frames if _is_kept(number, 200)]


def _is_kept(number: int, count: int) -> bool:
    """Whether it is one of as many as we look at."""
    return number * _BOUNDS.frames // count != (number - 1) * _BOUNDS.frames // count


def _vips() -> Any | None:
    """The library, with one thread and no memory of earlier calls; None where it is missing."""
    os.environ["VIPS_CONCURRENCY"] = "1"
    try:
        vips = importlib.import_module("pyvips")
    except (ImportError, OSError):
        return None
    vips.cache_set_max(0)
    return vips


def _vips_still(vips: Any, body: bytes) -> UInt8Array:
    image = vips.Image.thumbnail_buffer(body, _SIDE, height=_SIDE, crop="centre")
    return np.asarray(image.numpy())


def _vips_animation(vips: Any, body: bytes) -> UInt8Array:
    """All frames below each other; it cannot leave some out."""
    image = vips.Image.thumbnail_buffer(body, 2 * _SIDE, height=_SIDE, option_string="n=-1")
    return np.asarray(image.numpy())


def _key_frames(body: bytes) -> list[np.ndarray]:
    return _film(body, "NONKEY", 30)


def _all_frames(body: bytes) -> list[np.ndarray]:
    return _film(body, "DEFAULT", 900)


def _film(body: bytes, skip_frame: str, count: int) -> list[np.ndarray]:
    with av.open(io.BytesIO(body), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = skip_frame  # type: ignore[assignment]
        stream.codec_context.thread_count = 1
        frames: Iterable[tuple[int, av.VideoFrame]] = enumerate(container.decode(stream))
        small = partial(
            VideoReformatter().reformat,
            width=398,
            height=_SIDE,
            format="rgb24",
            interpolation=Interpolation.AREA,
            threads=1,
        )
        return [
            small(frame).to_ndarray()[:, 87:311]
            for number, frame in frames
            if _is_kept(number, count)
        ]
