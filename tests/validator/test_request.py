"""Tests of safety_proxy/validator/request.py: the one picture of a body, bounded."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.errors import BodyTooLarge, Busy, MalformedRequest
from safety_proxy.media.spool import Spooler
from safety_proxy.validator.request import read_picture
from tests.pictures import RED, plain
from tests.validator.pictrs import BOUNDARY, FORM_TYPE, form

PICTURE = plain(RED)
FILE_BYTES = 1000
RAW = ["image/png"]
FORM = ["image/png", FORM_TYPE]
START, PART_HEAD, _, _, END = form(b"")


class Body:
    """A body that arrives in the chunks it was given."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = iter(chunks)
        self.taken_bytes = 0

    async def arrive(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.taken_bytes += len(chunk)
            yield chunk


async def read(chunks: Iterable[bytes], types: list[str], **headers: str) -> bytes:
    """The picture of such a request, as it lies on disk and as its digest says."""
    return await read_body(Body(chunks), types, **headers)


async def read_body(body: Body, types: list[str], **headers: str) -> bytes:
    lines = [(b"content-type", kind.encode()) for kind in types]
    lines += [(name.replace("_", "-").encode(), v.encode()) for name, v in headers.items()]
    spooler = Spooler(file_bytes=FILE_BYTES, total_bytes=10 * FILE_BYTES)
    with ExitStack() as opened:
        media = await read_picture(lines, body.arrive(), spooler, opened)
        found = b"".join([block async for block in media.blocks()])
        assert media.sha256 == hashlib.sha256(found).hexdigest()
        assert spooler.used_bytes == media.size_bytes == len(found)
    assert spooler.used_bytes == 0
    return found


def split(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    """A body cut at these places, which may lie beyond its end."""
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    return [body[a:b] for a, b in pairwise(places) if a < b]


@pytest.mark.parametrize(
    "types",
    [
        [],
        RAW,
        ["video/webm"],
        ["application/x-www-form-urlencoded"],
        ["image/png", "image/jpeg"],
    ],
)
async def test_body_of_another_type_is_the_picture_itself(types: list[str]) -> None:
    """As 0.5 sends it; what it is shows when it is decoded, not in a header."""
    assert await read([PICTURE[:9], PICTURE[9:]], types) == PICTURE


@pytest.mark.parametrize(
    "types",
    [
        FORM,
        FORM[::-1],
        [FORM_TYPE],
        [f"image/png, {FORM_TYPE}"],
        [f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY}"'],
    ],
)
async def test_form_is_its_one_part(types: list[str]) -> None:
    """As 0.6 sends it, and with its two header lines joined, as a server in between may do."""
    assert await read(form(PICTURE), types) == PICTURE


@pytest.mark.parametrize(
    "part_head",
    [
        'Content-Disposition: form-data; name="short.png"',
        'Content-Disposition: form-data; name="images[]"; filename="x.png"',
        "Content-Disposition: form-data\r\nContent-Type: image/png",
    ],
)
async def test_name_of_the_part_does_not_matter(part_head: str) -> None:
    """It is written as `name=` where nothing needs an escape, and `name*=` elsewhere."""
    body = [START, part_head.encode() + b"\r\n\r\n", PICTURE, b"\r\n", END]
    assert await read(body, FORM) == PICTURE


@given(
    picture=st.binary(min_size=1, max_size=FILE_BYTES)
    | st.lists(
        st.sampled_from([b"\r", b"\n", b"--", b"\r\n--", BOUNDARY[:40].encode(), b"x"]), min_size=1
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 1400), max_size=30),
)
async def test_any_chunks_give_the_same_picture(picture: bytes, cuts: list[int]) -> None:
    """Where the network cuts a body does not change a byte of what is judged."""
    assert await read(split(picture, cuts), RAW) == picture
    assert await read(split(b"".join(form(picture)), cuts), FORM) == picture


BODIES: dict[str, tuple[list[bytes], list[str]]] = {
    "no bytes": ([], RAW),
    "a form of no bytes": ([], FORM),
    "an empty part": (form(b""), FORM),
    "no part": ([END], FORM),
    "a picture in the place of a form": ([PICTURE], FORM),
    "another boundary": (form(PICTURE), ["multipart/form-data; boundary=other"]),
    "no boundary": (form(PICTURE), ["multipart/form-data"]),
    "two boundaries": (form(PICTURE), [FORM_TYPE, FORM_TYPE]),
    "another multipart": (form(PICTURE), ["multipart/mixed"]),
    "two parts": ([*form(PICTURE)[:4], *form(PICTURE)], FORM),
    "cut before the part": (form(PICTURE)[:1], FORM),
    "cut in its head": ([START, PART_HEAD[:20]], FORM),
    "cut in the picture": (form(PICTURE)[:3], FORM),
    "cut before the last boundary": (form(PICTURE)[:4], FORM),
    "cut in the last boundary": ([b"".join(form(PICTURE))[:-4]], FORM),
    "not the last boundary": ([*form(PICTURE)[:4], START], FORM),
    "a part of another kind": ([START, b"Content-Disposition: file\r\n\r\n", PICTURE, END], FORM),
    "no disposition": ([START, b"X: y\r\n\r\n", PICTURE, b"\r\n", END], FORM),
    "a picture that holds the boundary": (form(b"x\r\n" + END + b"hidden"), FORM),
    "a picture that holds a part": (form(b"x\r\n" + START + PART_HEAD + b"hidden"), FORM),
    "another body after the end": ([*form(PICTURE), *form(PICTURE)], FORM),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "byte by byte"])
async def test_damaged_body_is_refused(name: str, whole: bool) -> None:  # noqa: FBT001 -- by pytest
    """Never is a part of what came taken for the picture."""
    chunks, types = BODIES[name]
    body = b"".join(chunks)
    with pytest.raises(MalformedRequest):
        await read([body] if whole and body else split(body, range(len(body))), types)


@pytest.mark.parametrize("types", [RAW, FORM])
async def test_compressed_body_is_refused(types: list[str]) -> None:
    """Nobody would look inside."""
    body = Body(form(PICTURE))
    with pytest.raises(MalformedRequest, match="compressed"):
        await read_body(body, types, content_encoding="gzip")
    assert body.taken_bytes == 0


def endless(chunk: bytes, *first: bytes) -> Iterable[bytes]:
    """Chunks without end."""
    yield from first
    while True:
        yield chunk


@pytest.mark.parametrize(
    ("types", "first", "chunk"),
    [
        (RAW, [], b"x" * 100),
        (FORM, [START, PART_HEAD], b"x" * 100),
        (FORM, [], b"a preamble\r\n"),
        (FORM, [START], b"X-Y: z\r\n"),
        (FORM, [START], b"an endless header line"),
        (FORM, [START, PART_HEAD, b"\r\n"], b"--" + BOUNDARY.encode()[:20] + b"\r\n"),
    ],
    ids=["picture", "part", "preamble", "headers", "header line", "almost boundaries"],
)
async def test_endless_body_is_refused_early(
    types: list[str], first: list[bytes], chunk: bytes
) -> None:
    """Wherever in it the bytes are, they count."""
    body = Body(endless(chunk, *first))
    with pytest.raises((BodyTooLarge, MalformedRequest)):
        await read_body(body, types)
    assert body.taken_bytes <= FILE_BYTES + 16 * 1024 + 100


@pytest.mark.parametrize("types", [RAW, FORM])
async def test_largest_picture_passes_and_one_byte_more_does_not(types: list[str]) -> None:
    """The limit is that of the picture, not of what stands around it."""
    for size in (FILE_BYTES, FILE_BYTES + 1):
        picture = b"x" * size
        chunks = form(picture) if types is FORM else [picture]
        if size == FILE_BYTES:
            assert await read(chunks, types) == picture
        else:
            with pytest.raises(BodyTooLarge):
                await read(chunks, types)


@pytest.mark.parametrize(("types", "length"), [(RAW, FILE_BYTES + 1), (FORM, FILE_BYTES + 20_000)])
async def test_length_over_the_limit_is_refused_before_a_byte_is_read(
    types: list[str], length: int
) -> None:
    """The client learns it while its picture is still at home."""
    body = Body([PICTURE])
    with pytest.raises(BodyTooLarge):
        await read_body(body, types, content_length=str(length))
    assert body.taken_bytes == 0


async def test_no_room_for_the_picture_is_busy(spooled: Callable[[], set[str]]) -> None:
    """All doors share the room; what was written is freed."""
    spooler = Spooler(file_bytes=FILE_BYTES, total_bytes=FILE_BYTES)
    spooler.take(FILE_BYTES - 10)
    with ExitStack() as opened, pytest.raises(Busy):
        await read_picture([], Body([b"x" * 11]).arrive(), spooler, opened)
    assert spooler.used_bytes == FILE_BYTES - 10
    assert spooled() == set()
