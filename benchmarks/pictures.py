"""Pictures to upload: photograph-like JPEGs of a wanted size, each as often as new ones are needed.

A number in the quantization table makes new bytes that decode to a slightly other picture: a copy
that looks the same would cost the proxy no forward pass. What a decoder has to do stays the same.
"""

import io
from dataclasses import dataclass
from itertools import count

import numpy as np
from PIL import Image

_BOUNDARY = "0123456789abcdef"
CONTENT_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass(frozen=True, slots=True)
class PictureKind:
    """A JPEG of width x height pixels and about `size_bytes`.

    noise: standard deviation, of 255; chosen so that the size comes at an everyday quality.
    """

    name: str
    width: int
    height: int
    size_bytes: int
    noise: float


SMALL = PictureKind("100 KB", 1024, 768, 100_000, noise=6)
LARGE = PictureKind("8 MB", 4000, 3000, 8_000_000, noise=16)


class Pictures:
    """One picture of a kind in 59,049 variations, each with contrasts of its own."""

    def __init__(self, kind: PictureKind) -> None:
        self.kind = kind
        self._jpeg = _jpeg_of_size(_scene(kind), kind.size_bytes)
        # The first table follows marker, length and its number; its entries are in zigzag order.
        self._table = self._jpeg.index(b"\xff\xdb") + 5
        self._numbers = count()

    @property
    def size_bytes(self) -> int:
        return len(self._jpeg)

    def new(self) -> bytes:
        """A picture that no call has returned before."""
        number, jpeg = next(self._numbers), bytearray(self._jpeg)
        for entry in range(self._table + 1, self._table + 11):  # low frequencies, but the mean
            number, digit = divmod(number, 3)
            jpeg[entry] = min(255, jpeg[entry] + digit)
        return bytes(jpeg)


def form(picture: bytes) -> bytes:
    """A multipart body with this picture, to be sent with CONTENT_TYPE."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="images[]"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _scene(kind: PictureKind) -> Image.Image:
    """Large soft shapes under the noise of a sensor: compresses about as photographs do."""
    random = np.random.default_rng(0)
    shapes = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    soft = Image.fromarray(shapes).resize((kind.width, kind.height), Image.Resampling.BICUBIC)
    noise = random.normal(0, kind.noise, (kind.height, kind.width, 3)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8))


def _jpeg_of_size(scene: Image.Image, size_bytes: int) -> bytes:
    """The JPEG whose quality brings it closest to that size from below."""
    low, high, best = 1, 100, b""
    while low <= high:
        quality = (low + high) // 2
        encoded = io.BytesIO()
        scene.save(encoded, "JPEG", quality=quality)
        if encoded.tell() <= size_bytes:
            low, best = quality + 1, encoded.getvalue()
        else:
            high = quality - 1
    return best
