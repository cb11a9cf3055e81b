"""Tests of safety_proxy/media/frames.py: crops as open_clip makes them, bounded, or an error."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.frames import Frame, read_frames
from tests.pictures import BLUE, GREEN, RED, animation, encoded, plain

SPEC = CropSpec(32, 32)
Mode = Literal["shortest", "longest", "squash"]


def frames_of(data: bytes, spec: CropSpec = SPEC, *, pixels: int = 40_000_000) -> list[Frame]:
    """The frames, four at most."""
    return read_frames(data, spec, max_frame_pixels=pixels, max_frames=4)


def crop_of(data: bytes, spec: CropSpec = SPEC) -> UInt8Array:
    """The crop of a still."""
    (frame,) = frames_of(data, spec)
    assert frame.index == 0
    return frame.crop


def color_of(frame: Frame) -> tuple[int, ...]:
    """The mean color of a crop."""
    return tuple(round(float(value)) for value in frame.crop.mean(axis=(0, 1)))


def scene(size: tuple[int, int]) -> Image.Image:
    """A picture with slopes and edges, nothing symmetric in it."""
    width, height = size
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(255, 0, height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.stack([across, down, (across + down) / 2], 2).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((width // 8, height // 8, width // 2, height // 2), fill=(250, 20, 60))
    pen.line((0, height, width, height // 3), fill=(10, 240, 30), width=max(1, width // 30))
    return image


def reference(image: Image.Image, spec: CropSpec) -> UInt8Array:
    """What open_clip itself gives its models, with mean and deviation taken out again."""
    transform = image_transform_v2(
        PreprocessCfg(
            size=(spec.height, spec.width),
            mean=(0, 0, 0),
            std=(1, 1, 1),
            interpolation=spec.interpolation,
            resize_mode=spec.resize_mode,
            fill_color=spec.fill_color,
        ),
        is_train=False,
    )
    pixels: UInt8Array = (transform(image).numpy().transpose(1, 2, 0) * 255).round().astype("uint8")
    return pixels


SIZES = [(64, 64), (32, 32), (100, 75), (75, 100), (333, 97), (97, 333), (20, 31), (7, 5), (1, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("fill", [0, 127])
def test_crop_is_the_one_of_open_clip(
    size: tuple[int, int], interpolation: Literal["bicubic", "bilinear"], mode: Mode, fill: int
) -> None:
    """Pixel for pixel, in each mode and for any shape."""
    spec = CropSpec(32, 32, mode, interpolation, fill)
    image = scene(size)
    np.testing.assert_array_equal(crop_of(encoded(image), spec), reference(image, spec))


@pytest.mark.parametrize("size", [(100, 75), (75, 100), (333, 97), (97, 333)], ids=str)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_crop_for_a_model_that_is_not_square(size: tuple[int, int], mode: Mode) -> None:
    """The same, where width and height differ."""
    spec = CropSpec(24, 48, mode)
    image = scene(size)
    np.testing.assert_array_equal(crop_of(encoded(image), spec), reference(image, spec))


def test_large_jpeg_is_decoded_smaller_and_looks_the_same() -> None:
    """A level or two apart from a full decode, even at a sharp edge's sides."""
    image = scene((1500, 1100))
    data = encoded(image, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as whole:
        expected = reference(whole, SPEC).astype(int)
    difference = np.abs(crop_of(data).astype(int) - expected)
    assert difference.mean() < 2
    assert np.percentile(difference, 99) <= 16


def peak_bytes() -> int:
    """The most memory that this process had resident since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("size", [(20_000, 3), (3, 20_000), (20_000, 1)], ids=str)
def test_stretched_picture_costs_little_memory(size: tuple[int, int]) -> None:
    """Resized whole it would take gigabytes; what stays of it is its middle."""
    image = Image.new("RGB", size, RED)
    left, top = (length // 2 if length > 3 else 0 for length in size)
    image.paste(BLUE, (left, top, *size))
    data = encoded(image)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_bytes()
    crop = crop_of(data, CropSpec(224, 224)).astype(int)
    assert peak_bytes() - before < 100_000_000
    first, last = (crop[0, 0], crop[-1, -1])
    assert first[0] > first[2]
    assert last[2] > last[0]


def test_part_of_a_stretched_picture_is_the_crop_of_the_whole() -> None:
    """Only as much as is rounded on the way differs."""
    image = scene((1200, 40))
    spec = CropSpec(32, 32)
    whole = reference(image, spec).astype(int)
    assert np.abs(crop_of(encoded(image), spec).astype(int) - whole).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF"])
def test_every_format_that_pillow_and_pictrs_share_is_read(kind: str) -> None:
    """In about its colors."""
    (frame,) = frames_of(plain((200, 60, 30), kind=kind, size=(64, 64)))
    assert np.abs(np.array(color_of(frame)) - (200, 60, 30)).max() <= 6


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM", "JPEG2000", "TGA", "PDF", "DDS"])
def test_format_that_pictrs_does_not_store_is_undecodable(kind: str) -> None:
    """No exotic decoder sees foreign bytes."""
    with pytest.raises(UndecodableImage, match="not a picture"):
        frames_of(plain(RED, kind=kind))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"\x00\x00\x00\x20ftypisom",
        b"\x1a\x45\xdf\xa3webm",
        b"\xff\x0a jpeg xl",
        b"RIFF\x00\x00\x00\x00WEBP",
    ],
)
def test_bytes_that_are_no_picture_are_undecodable(data: bytes) -> None:
    """Text, video, active content, or a bare signature."""
    with pytest.raises(UndecodableImage):
        frames_of(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_upright(orientation: int) -> None:
    """As a browser shows it, in all eight orientations."""
    upright = scene((60, 40))
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(crop_of(encoded(stored, exif=exif)), crop_of(encoded(upright)))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0Exif\0\0MM\0*"])
def test_broken_metadata_hides_no_picture(exif: bytes) -> None:
    """The picture is read as it is stored."""
    assert crop_of(encoded(scene((40, 40)), "JPEG", exif=exif)).shape == (32, 32, 3)


def drawn() -> Image.Image:
    """A picture of few colors, which every mode can hold."""
    image = Image.new("RGB", (32, 32), RED)
    image.paste(BLUE, (8, 8, 24, 24))
    return image


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_mode_of_the_file_does_not_change_the_picture(mode: str) -> None:
    """Palette, opaque alpha, and the print colors of JPEG."""
    image = drawn().convert(mode)
    data = encoded(image, "JPEG", quality=100) if mode == "CMYK" else encoded(image)
    difference = np.abs(crop_of(data).astype(int) - crop_of(encoded(drawn())).astype(int))
    assert difference.mean() < 4
    assert np.percentile(difference, 90) <= 8


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_is_gray(mode: str) -> None:
    """All three channels alike."""
    crop = crop_of(encoded(scene((40, 40)).convert(mode)))
    assert (crop[..., 0] == crop[..., 1]).all()
    assert (crop[..., 0] == crop[..., 2]).all()
    assert np.ptp(crop) > 100


def test_16_bit_gray_is_scaled_and_not_clipped() -> None:
    """A ramp stays a ramp, where a plain conversion would be nearly white."""
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    crop = crop_of(encoded(Image.fromarray(ramp)))
    np.testing.assert_array_equal(crop[..., 1], (ramp >> 8).astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (32, 32), (0, 0, 0, 0)),
        Image.new("LA", (32, 32), (0, 0)),
    ],
    ids=["RGBA", "LA"],
)
def test_transparency_is_white(image: Image.Image) -> None:
    """What lies below it, unseen, is not judged."""
    assert (crop_of(encoded(image)) == 255).all()


def test_transparent_palette_entry_is_white() -> None:
    """In a GIF, as in a PNG."""
    image = drawn().convert("P", palette=Image.Palette.ADAPTIVE)
    corner = image.getpixel((0, 0))
    for kind in ("PNG", "GIF"):
        crop = crop_of(encoded(image, kind, transparency=corner))
        assert tuple(crop[0, 0]) == (255, 255, 255)
        assert tuple(crop[16, 16]) == BLUE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animation_is_looked_at_from_first_to_last(kind: str) -> None:
    """Evenly spread, at most as many as asked for, in their own colors."""
    colors = [RED, GREEN, BLUE] * 3 + [(255, 255, 0)]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = frames_of(animation(colors, kind, **options))
    assert [frame.index for frame in frames] == [0, 3, 6, 9]
    for frame in frames:
        assert np.abs(np.array(color_of(frame)) - colors[frame.index]).max() <= 8


@pytest.mark.parametrize(
    ("count", "most", "indices"),
    [
        (1, 4, [0]),
        (2, 4, [0, 1]),
        (4, 4, [0, 1, 2, 3]),
        (5, 4, [0, 1, 3, 4]),
        (5, 1, [0]),
        (9, 2, [0, 8]),
    ],
)
def test_frames_are_spread(count: int, most: int, indices: list[int]) -> None:
    """All of a short one, first and last of a long one."""
    data = animation([(n * 20, 0, 0) for n in range(count)])
    frames = read_frames(data, SPEC, max_frame_pixels=10_000, max_frames=most)
    assert [frame.index for frame in frames] == indices


def test_both_pictures_of_a_multi_picture_jpeg_are_looked_at() -> None:
    """A second picture in the file is a frame."""
    frames = frames_of(animation([RED, BLUE], "MPO"))
    assert [color_of(frame)[0] > 200 for frame in frames] == [True, False]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (64_250, 64_250), (101, 100), (2**31 - 1, 1)])
def test_picture_over_the_bound_is_not_decoded(size: tuple[int, int]) -> None:
    """Whatever its header claims."""
    with pytest.raises(UndecodableImage):
        frames_of(png_header(*size), pixels=10_000)


def test_picture_at_the_bound_is_decoded() -> None:
    """The bound itself is allowed."""
    assert frames_of(plain(RED, size=(100, 100)), pixels=10_000)
    with pytest.raises(UndecodableImage, match="101 x 100 is over the bound of 10000 pixels"):
        frames_of(plain(RED, size=(101, 100)), pixels=10_000)


def test_animation_is_bounded_by_all_its_frames() -> None:
    """A small file with many large frames costs as much as one giant picture."""
    data = bytearray(animation([(n * 4, 0, 0) for n in range(60)]))
    data[6:10] = struct.pack("<HH", 6000, 6000)  # the canvas, 36 million pixels for each frame
    with pytest.raises(UndecodableImage, match="all frames together"):
        frames_of(bytes(data))


def truncations() -> list[tuple[str, bytes]]:
    """Files cut at several places, by kind."""
    files = {
        kind: encoded(scene((200, 150)), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
    }
    files["animated GIF"] = animation([RED, GREEN, BLUE, RED])
    return [
        (f"{kind} {share:.0%}", data[: int(len(data) * share)])
        for kind, data in files.items()
        for share in (0.2, 0.6, 0.9)
    ]


@pytest.mark.parametrize(("name", "data"), truncations(), ids=[name for name, _ in truncations()])
def test_truncated_file_is_never_read_in_part(name: str, data: bytes) -> None:
    """An error, unless every frame that it still has was read whole."""
    try:
        frames = frames_of(data)
    except UndecodableImage:
        return
    assert name.startswith("animated")
    assert [color_of(frame) for frame in frames] == [RED, GREEN, BLUE, RED][: len(frames)]


def test_damaged_late_frame_makes_an_animation_undecodable() -> None:
    """No verdict rests on the frames before it."""
    data = bytearray(
        encoded(scene((99, 99)), "PNG", save_all=True, append_images=[scene((99, 98))])
    )
    data[-60] ^= 255
    with pytest.raises(UndecodableImage):
        frames_of(bytes(data))


KINDS: dict[str, bytes] = {
    "PNG": encoded(scene((24, 18))),
    "JPEG": encoded(scene((24, 18)), "JPEG"),
    "GIF": animation([RED, BLUE]),
    "WEBP": animation([RED, BLUE], "WEBP"),
    "AVIF": encoded(scene((24, 18)), "AVIF"),
}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 10_000),
)
def test_mutated_bytes_raise_nothing_but_undecodable(
    kind: str, edits: list[tuple[int, int]], cut: int
) -> None:
    """Whatever a decoder makes of them, the caller sees frames or one error."""
    data = bytearray(KINDS[kind])
    for place, value in edits:
        data[place % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    try:
        frames = read_frames(bytes(data), SPEC, max_frame_pixels=100_000, max_frames=4)
    except UndecodableImage:
        return
    assert frames
    assert all(frame.crop.shape == (32, 32, 3) for frame in frames)
    assert all(frame.crop.dtype == np.uint8 for frame in frames)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise_raises_nothing_but_undecodable(data: bytes) -> None:
    """Bytes of no format at all."""
    with pytest.raises(UndecodableImage):
        frames_of(data)


async def test_mapped_file_is_read_like_bytes(spooled: Callable[[], set[str]]) -> None:
    """And let go of afterwards."""
    from safety_proxy.media.spool import Spool, Spooler  # noqa: PLC0415 -- this test alone joins the two

    spool = Spool(Spooler(file_bytes=10_000, total_bytes=10_000))
    await spool.write(KINDS["GIF"])
    with await spool.finish() as media:
        view = media.map()
    frames = read_frames(view, SPEC, max_frame_pixels=10_000, max_frames=4)
    assert [color_of(frame) for frame in frames] == [RED, BLUE]
    view.close()
    assert not spooled()
