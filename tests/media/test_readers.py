"""Tests of safety_proxy/media/readers.py: which module reads what."""

import pytest
from PIL import AvifImagePlugin, Image, ImageFile

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.readers import prepare_decoders, read_any
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, places
from tests.media.samples.animations import animated
from tests.media.samples.boxes import film
from tests.media.samples.tools import scene, scenes
from tests.pictures import encoded


def test_decoders_are_set_for_good() -> None:
    """Damaged files give what they can, and no bound but ours holds; twice is as once."""
    for _ in range(2):
        prepare_decoders()
        assert ImageFile.LOAD_TRUNCATED_IMAGES
        assert Image.MAX_IMAGE_PIXELS is None
        assert AvifImagePlugin.DEFAULT_MAX_THREADS == 2


@pytest.mark.parametrize(
    "body",
    [
        encoded(scene()),
        encoded(scene(), "JPEG"),
        encoded(scene(), "GIF"),
        encoded(scene(), "WEBP"),
        encoded(scene(), "AVIF", speed=10),
        encoded(scene(), "JXL"),
        *(animated(scenes(2), kind) for kind in ("PNG", "WEBP", "AVIF")),
    ],
)
def test_every_kind_has_its_reader(body: bytes) -> None:
    """From anywhere in a file, with the place before what is seen there."""
    window = Window(b"xy" + body, 2)
    frames, _ = read_any(window, SPEC, Bounds(salt="a"), where="the place", few=True)
    assert frames
    assert all(where.startswith("the place") for where in places(frames))


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_video_is_read_by_its_reader(kind: str) -> None:
    """And all of it may hold something else: a picture in its metadata, or after its end."""
    body = film(scenes(5), "libx264" if kind == "mp4" else "libvpx-vp9", kind)
    frames, rests = read_any(Window(body), SPEC, Bounds(salt="a"), where="the place")
    assert places(frames)[0].startswith("the place")
    assert [rest.window.bytes() for rest in rests] == [body[8:]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"text", "not a picture of a known format"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "not a picture of a known format: heic"),
    ],
)
def test_what_has_no_reader_is_no_picture(body: bytes, said: str) -> None:
    """And what it is, where that is known."""
    with pytest.raises(UndecodableImage) as refused:
        read_any(Window(body), SPEC, Bounds())
    assert refused.value.code == "not-a-picture"
    assert str(refused.value) == said
