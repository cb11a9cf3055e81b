"""Tests of safety_proxy/media/candidates.py: where in some bytes pictures may begin."""

import base64
import io
import zipfile
import zlib

import pytest

from safety_proxy.errors import UndecodableImage
from safety_proxy.media.candidates import Candidates
from safety_proxy.media.rest import Rest
from safety_proxy.media.window import Window
from tests.media.samples.boxes import film
from tests.media.samples.tools import scene, scenes
from tests.pictures import encoded

JPEG = encoded(scene(size=(24, 18)), "JPEG")
PNG = encoded(scene(size=(24, 18)), compress_level=0)  # so that it can be compressed


def found(data: bytes, *, is_tail: bool = False) -> list[bytes]:
    """What begins at each candidate."""
    return [window.bytes() for window in Candidates().of(Rest("", Window(data), is_tail=is_tail))]


def archive(*bodies: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP of these files."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as file:
        for number, one in enumerate(bodies):
            file.writestr(f"{number}.jpg", one)
    return body.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        JPEG,
        PNG,
        encoded(scene(), "GIF"),
        encoded(scene(), "WEBP"),
        encoded(scene(), "WEBP", lossless=True),
        encoded(scene(), "AVIF", speed=10),
        b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20),
        film(scenes(2)),
        film(scenes(2), "libvpx-vp9", "webm", speed="8"),
    ],
)
def test_each_kind_is_found_anywhere(body: bytes) -> None:
    """Whatever comes before."""
    assert body in found(b"some text" + body)


def test_pictures_come_in_order() -> None:
    """Each up to the end of what there is."""
    assert found(b"x" + PNG + JPEG) == [PNG + JPEG, JPEG]


def test_nothing_is_found_in_text() -> None:
    """Nor in nothing."""
    assert found(b"a long text of no picture " * 100) == []
    assert found(b"") == []


def test_brand_without_its_box_is_none() -> None:
    """A signature that would begin before the bytes do."""
    assert found(b"ftypavif") == []


def test_bare_codestream_right_after_the_end() -> None:
    """Of JPEG XL: two bytes, which mean nothing elsewhere."""
    body = b"\xff\x0a" + bytes(20)
    assert found(body, is_tail=True) == [body]
    assert found(body) == []
    assert found(b"x" + body, is_tail=True) == []


@pytest.mark.parametrize("body", [JPEG, PNG, encoded(scene(), "GIF"), encoded(scene(), "WEBP")])
@pytest.mark.parametrize("line_end", [b"", b"\n", b"&#xA;", b"\r\n"])
def test_picture_written_out_as_text(body: bytes, line_end: bytes) -> None:
    """In XML, its lines ended in any way; all but the last few bytes come back."""
    text = base64.b64encode(body)
    lines = line_end.join(text[at : at + 72] for at in range(0, len(text), 72))
    (one,) = found(b"<image>" + lines + b"</image>")
    assert body.startswith(one)
    assert len(one) >= len(body) - 2


def test_picture_within_what_is_packed() -> None:
    """Such as the thumbnail of a picture that is written out, or in a file of an archive."""
    both = JPEG + PNG
    assert len(found(b"<a>" + base64.b64encode(both) + b"</a>")) == 2
    assert found(archive(b"x" + PNG)) == [PNG]


def test_text_up_to_the_end() -> None:
    """Cut off with the file."""
    (one,) = found(b"image:" + base64.b64encode(JPEG)[:200])
    assert JPEG.startswith(one)


def test_several_texts() -> None:
    """Each is found."""
    text = base64.b64encode(JPEG)
    assert len(found(b"<a>" + text + b"</a><b>" + text + b"</b>")) == 2


@pytest.mark.parametrize("head", [b"name\0\0", b"name\0\1\0en\0name\0"])
def test_compressed_text_of_a_png(head: bytes) -> None:
    """Chunks zTXt and iTXt, and a picture within, written out or not."""
    assert found(head + zlib.compress(b"x" + PNG)) == [PNG]
    assert len(found(head + zlib.compress(base64.b64encode(JPEG)))) == 1


def test_compressed_text_that_is_broken_holds_nothing() -> None:
    """As for every decoder."""
    assert found(b"name\0\0x\x9c" + b"\xff" * 50) == []


def test_compressed_text_without_end_is_refused() -> None:
    """One of 45 MB, or many that come to so much."""
    with pytest.raises(UndecodableImage) as one:
        found(b"name\0\0" + zlib.compress(bytes(45_000_000), 1))
    assert one.value.code == "too-large"
    candidates = Candidates()
    rest = Rest("", Window(b"name\0\0" + zlib.compress(bytes(9_000_000), 1)))
    for _ in range(4):
        assert list(candidates.of(rest)) == []
    with pytest.raises(UndecodableImage):
        list(candidates.of(rest))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_files_of_an_archive(compression: int) -> None:
    """Compressed or as they are, which is found as it lies there."""
    bodies = found(b"x" + archive(JPEG, PNG, compression=compression))
    assert len(bodies) == 2
    assert bodies[0].startswith(JPEG)
    assert bodies[1].startswith(PNG)


def test_archive_that_is_broken_or_strange_holds_nothing() -> None:
    """Cut, encrypted, or of a method that nobody has."""
    whole = archive(JPEG)
    assert found(whole[:40]) == []
    central = whole.index(b"PK\x01\x02")
    encrypted, unknown, damaged = bytearray(whole), bytearray(whole), bytearray(whole)
    encrypted[central + 8] |= 1
    unknown[central + 10] = 77
    damaged[60:80] = bytes(20)
    for body in (encrypted, unknown, damaged):
        assert found(bytes(body)) == []


def test_two_archives_in_a_row() -> None:
    """Of which most programs see the last alone."""
    bodies = found(archive(b"x" + PNG) + b"between" + archive(b"text"))
    assert bodies == [PNG]


def test_entry_without_a_size_is_none() -> None:
    """A folder."""
    assert found(archive(b"")) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xe0" * 65,
        (b"<a>" + base64.b64encode(JPEG[:90]) + b"</a>") * 65,
        archive(*[b"text"] * 65),
        archive(b"text") * 9,
    ],
    ids=["starts", "texts", "files", "archives"],
)
def test_more_than_anything_has_is_refused(data: bytes) -> None:
    """It is not left out unseen."""
    with pytest.raises(UndecodableImage) as refused:
        found(data)
    assert refused.value.code == "hidden-picture"


def test_archive_of_too_much_is_refused() -> None:
    """A bomb, of which no more than the bound is unpacked."""
    with pytest.raises(UndecodableImage) as refused:
        found(archive(bytes(45_000_000)))
    assert refused.value.code == "too-large"


def test_copy_with_patches_is_a_candidate_itself() -> None:
    """And nothing else of it."""
    rest = Rest("", Window(b"xx" + JPEG), patches=((0, b"yy"),))
    assert [window.bytes() for window in Candidates().of(rest)] == [b"yy" + JPEG]
