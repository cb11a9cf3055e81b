"""The boxes of MP4 and the elements of Matroska, to make files that no program would write."""

import io
import os
import struct
from collections.abc import Sequence

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

Path = Sequence[bytes]


def box(kind: bytes, *parts: bytes, size: int | None = None) -> bytes:
    """An MP4 box; `size`: what its header says, if not its size."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body) if size is None else size) + kind + body


def full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    """A box with a version, 0, and flags."""
    return box(kind, flags.to_bytes(4, "big"), *parts)


def numbers(*values: int) -> bytes:
    """32 bits each, as MP4 has them."""
    return struct.pack(f">{len(values)}I", *values)


def replaced(body: bytes, path: Path, new: bytes) -> bytes:
    """The file with the first box at `path` replaced by `new`, and sizes set right around it."""
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        if body[at + 4 : at + 8] == path[0]:
            if len(path) > 1:
                new = box(path[0], replaced(body[at + 8 : at + size], path[1:], new))
            return body[:at] + new + body[at + size :]
        at += size
    raise AssertionError(path)


def content(body: bytes, path: Path) -> bytes:
    """What is in the first box at `path`."""
    at = 0
    while at < len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        if body[at + 4 : at + 8] == path[0]:
            inner = body[at + 8 : at + size]
            return content(inner, path[1:]) if len(path) > 1 else inner
        at += size
    raise AssertionError(path)


def element(number: bytes, *parts: bytes, size: bytes | None = None) -> bytes:
    """A Matroska element; `size`: the bytes that say how long it is, if they are to be others."""
    body = b"".join(parts)
    if size is None:
        length = 1 if len(body) < 127 else 8
        size = ((1 << 7 * length) | len(body)).to_bytes(length, "big")
    return number + size + body


def film(
    images: Sequence[Image.Image],
    codec: str = "libx264",
    kind: str = "mp4",
    *,
    rate: int = 10,
    **options: str,
) -> bytes:
    """A film of these pictures, `rate` a second."""
    try:
        return _encoded(images, codec, kind, rate=rate, **options)
    finally:
        # SVT-AV1 gives the thread that calls it real-time priority where it may, and every process
        # that is started from there inherits it: a server that spins starves the whole machine.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _encoded(
    images: Sequence[Image.Image], codec: str, kind: str, *, rate: int, **options: str
) -> bytes:
    body = io.BytesIO()
    with av.open(body, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return body.getvalue()
