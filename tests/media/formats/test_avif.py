"""Tests of media/formats/avif.py."""

import struct

import pytest

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.formats.avif import _Avif, read_avif
from safety_proxy.media.hidden import hidden_frames
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window
from tests.media.looks import SPEC, hits, places
from tests.media.making import made_by_or_skip
from tests.media.samples import bad_stills, items
from tests.media.samples.animations import animated
from tests.media.samples.boxes import box, full, numbers
from tests.media.samples.tools import made_by, scene, scenes
from tests.pictures import PURPLE, encoded

BOUNDS = Bounds(salt="a")


def rests_of(body: bytes) -> list[Rest]:
    """What else the file holds."""
    return read_avif(Window(body), SPEC, BOUNDS)[1]


def further(body: bytes) -> list[str]:
    """Where purple is, beside the picture that is shown; which is none."""
    frames, rests = read_avif(Window(body), SPEC, BOUNDS)
    assert not hits(frames)
    return hits(hidden_frames(rests, frames, SPEC, BOUNDS))


def code_of(body: bytes, bounds: Bounds = BOUNDS) -> str:
    """What the file is refused with."""
    with pytest.raises(UndecodableImage) as refused:
        read_avif(Window(body), SPEC, bounds)
    return refused.value.code


def test_still_is_read_and_holds_no_other_picture() -> None:
    """From anywhere in a file."""
    body = items.small(PURPLE)
    frames, rests = read_avif(Window(b"xy" + body, 2), SPEC, BOUNDS, where="a", few=True)
    assert hits(frames) == places(frames) == ["a", "a, whole picture"]
    assert [rest.where for rest in rests] == ["metadata", "after the end"]


def test_sequence_is_read() -> None:
    """Frame by frame, with its still picture as another one."""
    body = animated(scenes(6, {3}, PURPLE), "AVIF")
    frames, rests = read_avif(Window(body), SPEC, BOUNDS)
    assert any(where.startswith("frame 4 at 0.30 s") for where in hits(frames))
    still = rests[0].patched()
    assert still[8:12] == b"avif"
    assert not hits(read_avif(still, SPEC, BOUNDS)[0])


def test_still_with_frames_behind_it() -> None:
    """The same file with the brand of a still: the frames are looked at as well."""
    body = bytearray(animated(scenes(6, {3}, PURPLE), "AVIF"))
    body[8:12] = b"avif"
    assert further(bytes(body))


def test_header_without_items_or_with_odd_tracks() -> None:
    """Has no further pictures: what is no picture track is none."""
    sound = box(b"trak", box(b"mdia", full(b"hdlr", numbers(0), b"soun", bytes(13))))
    body = box(b"ftyp", b"avis", numbers(0)) + box(
        b"moov", sound, box(b"trak"), box(b"trak", box(b"mdia"))
    )
    avif = _Avif(Window(body))
    avif.parse()
    assert not avif.tracks
    assert not list(avif.further())


@pytest.mark.parametrize("name", items.PAIRS)
def test_second_item_is_looked_at(name: str) -> None:
    """Whatever it says of itself."""
    assert further(items.PAIRS[name](PURPLE))


@pytest.mark.parametrize("wide", [False, True])
def test_transparency_is_no_picture_of_its_own(wide: bool) -> None:  # noqa: FBT001 -- a parameter
    """It is seen with the picture; by associations of either width."""
    body = items.avif_of(
        items.small(),
        items.small(PURPLE),
        references=[(b"auxl", 2, [1])],
        auxiliary=items.ALPHA,
        wide=wide,
    )
    assert not any(rest.patches for rest in rests_of(body))


@pytest.mark.parametrize("see_through", [False, True])
def test_tiles_are_no_pictures_of_their_own(see_through: bool) -> None:  # noqa: FBT001 -- a parameter
    """Nor are those of the transparency."""
    image = scene(size=(192, 160)).convert("RGBA")
    image.putalpha(120 if see_through else 255)
    body = made_by_or_skip(
        lambda: made_by(
            "avifenc", "-s", "10", "--grid", "2x2", "a.png", "a.avif",
            out="a.avif", a_png=encoded(image),
        )
    )  # fmt: skip
    assert not any(rest.patches for rest in rests_of(body))


def test_many_further_pictures_are_refused() -> None:
    """More than can be looked at."""
    assert code_of(items.avif_of(*[items.small()] * 10)) == "hidden-picture"
    assert rests_of(items.avif_of(*[items.small()] * 9))


def test_pictures_of_other_codecs_are_refused() -> None:
    """Somebody can see them, and this build cannot; it can do without metadata."""
    assert code_of(items.avif_of(items.small(), ghosts=[b"hvc1"])) == "unsupported-type"
    assert rests_of(items.avif_of(items.small(), ghosts=[b"Exif"]))


def test_data_after_the_end_is_a_tail() -> None:
    """Of what is no box."""
    tail = rests_of(items.small() + b"\xff\xd8\xff\xe0 and more")[-1]
    assert tail.is_tail
    assert tail.window.bytes() == b"\xff\xd8\xff\xe0 and more"


@pytest.mark.parametrize(
    ("numbers_of", "hit"),
    [
        ((24, 1, 20, 1, 32, 1, 24, 1), True),  # the lower right quarter
        ((24, 1, 20, 1, -32 & 0xFFFFFFFF, 1, -24 & 0xFFFFFFFF, 1), False),  # the upper left one
        ((96, 1, 80, 1, 0, 1, 0, 1), False),  # all
        ((24, 0, 20, 1, 0, 1, 0, 1), False),  # broken
        ((24, 1, 20, 1, 5000, 1, 0, 1), False),  # nothing
    ],
)
def test_part_that_a_browser_cuts_out(numbers_of: tuple[int, ...], hit: bool) -> None:  # noqa: FBT001 -- a parameter
    """Enlarged, as it would show it."""
    image = scene(size=(96, 80), box=(68, 54, 90, 74), color=PURPLE)
    body = items.avif_of(encoded(image, "AVIF", speed=10))
    aperture = numbers(0x28) + b"clap" + numbers(*numbers_of)
    header = full(b"meta", full(b"free", aperture))
    frames, _ = read_avif(Window(body + header), SPEC, BOUNDS)
    assert ("part that is cut out" in hits(frames)) is hit


def test_colors_by_code_points() -> None:
    """High dynamic range is shown as such."""
    body = bytearray(encoded(scene(), "AVIF", speed=10))
    at = body.index(b"colrnclx") + 8
    plain = read_avif(Window(bytes(body)), SPEC, BOUNDS)[0]
    body[at : at + 4] = struct.pack(">HH", 9, 16)
    bright = read_avif(Window(bytes(body)), SPEC, BOUNDS)[0]
    assert bright[0].crop.mean() > plain[0].crop.mean() + 10


@pytest.mark.parametrize(
    "body",
    [
        bad_stills.avif(size=(65_535, 65_535)),
        bad_stills.avif(size=(0, 0)),
        bad_stills.avif_of_items(2000),
        bad_stills.avif_grid(),
        box(b"ftyp", b"avif", numbers(0), b"avifmif1"),
    ],
)
def test_picture_that_is_none_is_left_to_the_decoder(body: bytes) -> None:
    """It refuses what claims a size that nobody has, items that are nowhere, or no picture."""
    with pytest.raises((ValueError, OSError, RuntimeError, SyntaxError)):
        read_avif(Window(body), SPEC, BOUNDS)


def test_picture_over_the_bound_is_refused() -> None:
    """Before it is decoded."""
    assert code_of(items.small(), Bounds(frame_pixels=96 * 80 - 1)) == "too-large"


def test_sequence_is_bounded() -> None:
    """By all its frames."""
    body = animated(scenes(6), "AVIF")
    assert code_of(body, Bounds(total_pixels=500_000)) == "too-large"
