"""Tests of safety_proxy/media/pdq.py: the reference's vectors, odd modes, flat and turned pictures.

The pictures of the reference that are small are in pdq_reference/. Of the others its hashes are
here, and say how far apart hashes of changed and turned copies may be.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from safety_proxy.evidence import Pdq
from safety_proxy.media.pdq import pdq_of, turned_pdqs

REFERENCE = Path(__file__).with_name("pdq_reference")

MATCHES = 31  # bits; the reference's threshold
GOOD = 50  # quality; the reference's threshold


def distance(one: Pdq, other: Pdq) -> int:
    return (int.from_bytes(one.bits) ^ int.from_bytes(other.bits)).bit_count()


def reference(name: str) -> Image.Image:
    with Image.open(REFERENCE / name) as image:
        image.load()
        return image


def unlike(seed: int, *, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture of soft blots and sharp edges, like no other seed's."""
    random = np.random.default_rng(seed)
    blots = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = blots.resize(size, Image.Resampling.BICUBIC)
    for _ in range(12):
        left, top = int(random.integers(0, size[0])), int(random.integers(0, size[1]))
        width, height = (int(side) for side in random.integers(10, 90, 2))
        color = tuple(int(part) for part in random.integers(0, 256, 3))
        image.paste(color, (left, top, left + width, top + height))
    return image


@pytest.mark.parametrize(
    ("name", "expected", "quality"),
    [
        # PdqSignal.get_examples and PDQMD5TestData.csv of the reference
        (
            "shrink-a-lot.jpg",
            "d0f8f1ccc0f4a84d0a370a3a228f67f0b36e2ed5b6623e1d33e6339c4e9c9b22",
            100,
        ),
        (
            "square-128x128.jpg",
            "d8f8f1eec0f4a84f0e37022a078f63f0b36e2ed596621e1d33e6239c4e9c9b22",
            100,
        ),
        (
            "square-256x256.jpg",
            "d8f8f0cec4f4a84f0637022a078f67f0b36e2ee5b6621e1d33e6239c4e9c9b22",
            100,
        ),
        ("small.jpg", "0007001f003f003f007f00ff00ff00ff01ff01ff01ff03ff03ff03ff03ff03ff", 0),
    ],
)
def test_the_reference_s_pictures_have_its_hashes(name: str, expected: str, quality: int) -> None:
    """To the bit, for those that need no reduction; the nearly black one has no quality."""
    assert pdq_of(reference(name)) == Pdq(bytes.fromhex(expected), quality)


def test_a_large_picture_keeps_its_hash_within_the_reference_s_tolerance() -> None:
    """Enlarged beyond 512 x 512 it is reduced again; its README allows a distance of 10."""
    small = reference("square-256x256.jpg")
    for size in ((2000, 2000), (513, 513), (1024, 700)):
        large = small.resize(size, Image.Resampling.BICUBIC)
        assert distance(pdq_of(large), pdq_of(small)) <= 10


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_hashed_as_it_looks(mode: str) -> None:
    """Within what counts as a match; one bit a pixel is dithered, and so off the most."""
    image = reference("square-256x256.jpg")
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
    elif mode == "I":
        converted = Image.fromarray(np.asarray(image.convert("L"), dtype=np.int32) * 257)
    elif mode == "PA":
        converted = image.convert("P").convert("PA")
    elif mode == "HSV":
        converted = image.convert("HSV")
    else:
        converted = image.convert(mode)
    assert converted.mode == mode
    hashed = pdq_of(converted)
    assert hashed.quality >= GOOD
    assert distance(hashed, pdq_of(image)) <= (MATCHES if mode == "1" else 14)


def test_transparency_is_shown_over_white() -> None:
    """What lies hidden under it does not count; in a palette neither."""
    image = reference("square-256x256.jpg")
    shown = image.copy()
    shown.paste("white", (0, 0, 128, 256))
    hidden = image.convert("RGBA")
    hidden.putalpha(Image.new("L", image.size, 255))
    hidden.paste((200, 0, 0, 0), (0, 0, 128, 256))
    assert pdq_of(hidden) == pdq_of(shown)
    palette = hidden.quantize(256)
    assert distance(pdq_of(palette), pdq_of(shown)) <= MATCHES


def test_sixteen_bit_are_scaled() -> None:
    """Not clipped at 255, which would leave a white picture."""
    gray = reference("square-256x256.jpg").convert("L")
    wide = Image.fromarray(np.asarray(gray, dtype=np.uint16) * 256)
    assert distance(pdq_of(wide), pdq_of(gray)) <= 2


def flat_pictures() -> Iterator[Image.Image]:
    for color in ("black", "white", "gray", "navy"):
        yield Image.new("RGB", (300, 200), color)
    yield Image.linear_gradient("L").resize((300, 200))
    yield Image.radial_gradient("L").resize((600, 600)).point(lambda value: value // 8)


@pytest.mark.parametrize("image", list(flat_pictures()))
def test_flat_pictures_have_no_quality(image: Image.Image) -> None:
    """So that no list matches them."""
    assert pdq_of(image).quality < GOOD


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (1, 600), (600, 1), (4000, 3)])
def test_tiny_pictures_are_hashed(size: tuple[int, int]) -> None:
    """Of some quality or none: what matters is that they do not fail."""
    assert len(pdq_of(Image.new("L", size, 9)).bits) == 32


def encoded_anew(image: Image.Image, kind: str, **options: int) -> Image.Image:
    body = io.BytesIO()
    image.save(body, kind, **options)
    return Image.open(body)


def changed(image: Image.Image) -> Iterator[Image.Image]:
    """What uploads and sites do to a picture."""
    width, height = image.size
    yield encoded_anew(image, "JPEG", quality=30)
    yield encoded_anew(image, "WEBP", quality=30)
    yield image.resize((width // 2, height // 2))
    yield image.resize((width * 3, height * 3))
    yield image.crop((2, 2, width - 2, height - 2))  # PDQ does not bear much more
    yield image.convert("L")
    yield image.filter(ImageFilter.GaussianBlur(2))
    yield image.point(lambda value: min(255, int(value * 1.2)))


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_changed_copy_stays_near(seed: int | None) -> None:
    """Encoded anew, resized, cropped by two pixels on each side, gray, blurred, brighter."""
    image = reference("square-256x256.jpg") if seed is None else unlike(seed)
    original = pdq_of(image)
    assert original.quality >= GOOD
    for copy in changed(image):
        assert distance(pdq_of(copy), original) <= MATCHES


def test_pictures_that_have_nothing_in_common_are_far_apart() -> None:
    """500 of them, each with each: none comes near a match."""
    hashes = [pdq_of(unlike(seed, size=(128, 128))) for seed in range(500)]
    words = np.frombuffer(b"".join(pdq.bits for pdq in hashes), np.uint64).reshape(-1, 4)
    apart = np.bitwise_count(words[:, np.newaxis] ^ words).sum(axis=2)
    assert apart[np.triu_indices(500, 1)].min() > 2 * MATCHES


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
def test_every_turned_and_mirrored_copy_is_found(seed: int | None) -> None:
    """One of the eight hashes of the copy is that of the picture itself."""
    image = reference("square-256x256.jpg") if seed is None else unlike(seed, size=(900, 600))
    original = pdq_of(image)
    for turn in (None, *Image.Transpose):
        copy = image if turn is None else image.transpose(turn)
        hashes = turned_pdqs(encoded_anew(copy, "JPEG", quality=70))
        assert len(hashes) == 8
        assert min(distance(pdq, original) for pdq in hashes) <= 16


def test_the_first_of_the_turned_is_the_picture_as_it_is() -> None:
    """And the others differ from it, unless the picture is symmetric."""
    hashes = turned_pdqs(unlike(7))
    assert hashes[0] == pdq_of(unlike(7))
    assert len(set(hashes)) == 8


# Of pdq/data/reg-test-input/dih, as the reference's own test (pdq_test.py) has them: a bridge,
# turned by 90, 180 and 270 degrees, and mirrored at both axes and both diagonals.
BRIDGES = [
    "d8f8f0cce0f4a84f0e370a22028f67f0b36e2ed596623e1d33e6b39c4e9c9b22",
    "38a50efd71c83f429013d68d0ffffc52e34e0e15ada952a9d29684214aa9e5af",
    "2dadda64b5a142e5d362209057da895ae63b8c7fc277b4b766b319361f893188",
    "a5f0a457248995e8c9065c275aaa54d8b61ba4bdf8fcfc0387c32f8b0bfc4f05",
    "d8f80f31e0f417b00e37f5dd028f980fb36ed12a9662c1e233e64c634e9c64dd",
    "0dad259bb1a1bd18d362576556da32a1e63b7380c2374b4866b3c6c91b89ce77",
    "f0a5e10271dcc0bd9c5309720fff018de34ef1e8ada9a956d2967ade1ea91a50",
    "69f05aa8a4996a17c146a2da5aaaab07b61b5b60f8fc07fc83c3d0740bfcb0fa",
]


def test_the_reference_s_turned_bridges_match_those_of_the_small_bridge() -> None:
    """Each of its hashes is near one of ours, of the same bridge at a hundredth of the size."""
    ours = turned_pdqs(reference("shrink-a-lot.jpg"))
    for bits in BRIDGES:
        near = [distance(Pdq(bytes.fromhex(bits), 100), pdq) for pdq in ours]
        assert sum(bits <= MATCHES for bits in near) == 1
