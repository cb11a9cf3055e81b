"""Tests of safety_proxy/media/hidden.py: further pictures are looked at once, or refused."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFilter

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.hidden import hidden_frames
from safety_proxy.media.rest import Rest
from safety_proxy.media.stills import crops_of
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, hits, places
from tests.media.samples.animations import animated
from tests.media.samples.boxes import box, film
from tests.media.samples.tools import scene, scenes
from tests.pictures import PURPLE, encoded

BOUNDS = Bounds(salt="a")
REFUSING = dataclasses.replace(BOUNDS, hidden="refuse")

SHOWN = crops_of(scene(), SPEC, "")
PICTURE = encoded(scene(PURPLE), "JPEG")
SMALL = scene().resize((80, 60))
SAME = encoded(SMALL, "JPEG")


def tail(data: bytes) -> Rest:
    """What follows the end."""
    return Rest("after the end", Window(data), is_tail=True)


def found(*rests: Rest, shown: Sequence[Frame] = SHOWN, bounds: Bounds = BOUNDS) -> list[Frame]:
    """The frames of what is hidden."""
    return hidden_frames(rests, shown, SPEC, bounds)


def refused(*rests: Rest, bounds: Bounds = BOUNDS) -> str:
    """The code that these are refused with."""
    with pytest.raises(UndecodableImage) as error:
        found(*rests, bounds=bounds)
    return error.value.code


def test_picture_is_found_and_named_by_its_place() -> None:
    """All crops of it."""
    frames = found(Rest("EXIF thumbnail", Window(b"xyz" + PICTURE)))
    assert places(frames) == ["EXIF thumbnail", "EXIF thumbnail, whole picture"]
    assert hits(frames) == places(frames)


def test_thumbnail_of_what_is_shown_is_not_judged_again() -> None:
    """As most are; nor one that is turned or mirrored, since the file may say to turn it."""
    turned = SMALL.transpose(Image.Transpose.TRANSVERSE)
    for body in (SAME, encoded(turned, "JPEG")):
        assert found(Rest("EXIF thumbnail", Window(body))) == []
        assert found(Rest("EXIF thumbnail", Window(body)), bounds=REFUSING) == []


def textured() -> Image.Image:
    """Of fine detail."""
    noise = np.random.default_rng(3).integers(0, 256, (24, 24, 3), np.uint8)
    return Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("box", [(0, 0, 96, 96), (40, 40, 80, 80)])
def test_thumbnail_of_what_is_blurred_is_judged(box: tuple[int, int, int, int]) -> None:
    """All of it or a part, as old thumbnails show what a picture was blurred for."""
    spec = CropSpec(96, 96)
    sharp = textured()
    blurred = sharp.copy()
    blurred.paste(sharp.filter(ImageFilter.GaussianBlur(4)).crop(box), box)
    rest = Rest("EXIF thumbnail", Window(encoded(sharp.resize((80, 80)), "JPEG")))
    assert hidden_frames([rest], crops_of(blurred, spec, ""), spec, BOUNDS)
    assert not hidden_frames([rest], crops_of(sharp, spec, ""), spec, BOUNDS)


def test_same_picture_twice_is_judged_once() -> None:
    """Wherever it is."""
    assert len(found(tail(PICTURE), Rest("metadata", Window(PICTURE)))) == 2


def test_picture_of_a_patched_copy() -> None:
    """The bytes of the whole file, with another picture in front."""
    rest = Rest("second picture", Window(b"??" + PICTURE[2:]), patches=((0, PICTURE[:2]),))
    assert hits(found(rest))


def test_film_and_animation() -> None:
    """A few frames of each."""
    many = scenes(20, {11}, PURPLE)
    assert hits(found(tail(film(many))))
    assert hits(found(tail(animated(many, "GIF"))))


def test_few_frames_of_each_are_judged() -> None:
    """However many are allowed to the file itself."""
    colors = [Image.fromarray(np.full((40, 40, 3), n * 12, np.uint8)) for n in range(20)]
    assert len(found(tail(animated(colors, "GIF")))) <= 8


def test_what_is_no_picture_is_ignored() -> None:
    """Text, or a signature with noise behind it."""
    noise = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom", b"GIF89a"]
    assert found(*(tail(start + b"noise" * 50) for start in noise)) == []


def test_exception_of_a_decoder_means_no_picture() -> None:
    """Whatever it is: here a size that is cut off."""
    assert found(tail(b"GIF89a")) == []


def test_picture_over_the_bound_is_refused() -> None:
    """It would be seen by somebody, and cannot be looked at."""
    small = dataclasses.replace(BOUNDS, frame_pixels=1000)
    assert refused(tail(PICTURE), bounds=small) == "too-large"


def test_picture_that_this_build_cannot_read_is_refused() -> None:
    """Others can: HEIC, and what a reader says that it is."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
    moving = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxlc", b"\xff\x0aG\x04\x01" + bytes(60))
    assert refused(tail(heic)) == "unsupported-type"
    assert refused(tail(moving)) == "unsupported-type"


def test_too_many_pictures_are_refused() -> None:
    """Of which each is one, even if all are alike."""
    assert refused(tail(SAME * 17)) == "hidden-picture"
    assert found(tail(SAME * 16)) == []


def test_refused_by_setting() -> None:
    """For any further picture."""
    assert refused(Rest("metadata", Window(PICTURE)), bounds=REFUSING) == "hidden-picture"


def test_data_after_the_end_is_refused_by_setting() -> None:
    """But a little of it, padding, and what is within the file."""
    assert refused(tail(b"x" * 5000), bounds=REFUSING) == "hidden-picture"
    for data in (b"x" * 4096, bytes(100_000), b"\xff" * 9000 + b" \n" * 9000 + b"x"):
        assert found(tail(data), bounds=REFUSING) == []
    assert found(tail(b"x" * 5000)) == []
    assert found(Rest("metadata", Window(b"x" * 5000)), bounds=REFUSING) == []


def test_nothing_is_hidden_in_nothing() -> None:
    """The usual case."""
    assert found() == []
