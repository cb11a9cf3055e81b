"""Tests of safety_proxy/proxy/ingest.py: the files of a multipart body, bounded."""

import asyncio
import gzip
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, cast

import pytest
from aiohttp import ClientSession, StreamReader, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.deadline import Deadline
from safety_proxy.errors import BodyTooLarge, MalformedRequest, RequestError
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.proxy.ingest import UploadedFile, read_upload
from safety_proxy.settings import LimitsSettings
from tests.fakes import BOUNDARY, FakeServer, Running, ask, multipart, running_proxy
from tests.pictures import RED, plain

MEBIBYTE = 1024 * 1024
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
SMALL = LimitsSettings(max_file_bytes=1000, max_files=3)


class Body:
    """A request's content that arrives in the chunks it was given."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = iter(chunks)
        self.taken_bytes = 0

    async def iter_any(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.taken_bytes += len(chunk)
            yield chunk


def request_of(body: Body, **headers: str) -> web.BaseRequest:
    """An upload whose body arrives as `body` does."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request(
        "POST", "/image", {"Content-Type": TYPE, **named}, payload=cast("StreamReader", body)
    )


async def receive(
    request: web.BaseRequest,
    opened: ExitStack,
    limits: LimitsSettings = SMALL,
    deadline: Deadline | None = None,
) -> list[UploadedFile]:
    """`read_upload` within these limits."""
    spooler = Spooler(file_bytes=limits.max_file_bytes, total_bytes=10**9)
    deadline = deadline or Deadline.after(60)
    return await read_upload(
        request, spooler, opened, max_files=limits.max_files, deadline=deadline
    )


async def contents(media: Media) -> bytes:
    """The bytes of media, whose digest and size are checked on the way."""
    body = b"".join([block async for block in media.blocks()])
    assert media.sha256 == hashlib.sha256(body).hexdigest()
    assert media.size_bytes == len(body)
    return body


async def read(
    chunks: Iterable[bytes], limits: LimitsSettings = SMALL, **headers: str
) -> list[bytes]:
    """The files of a body that arrives in these chunks."""
    with ExitStack() as opened:
        files = await receive(request_of(Body(chunks), **headers), opened, limits)
        return [await contents(file.media) for file in files]


def split(body: bytes, size: int) -> list[bytes]:
    """A body in chunks of this size."""
    return [body[start : start + size] for start in range(0, len(body), size)]


NASTY = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [
                b"\r\n",
                b"\r",
                b"\n",
                b"--",
                f"\r\n--{BOUNDARY[:-1]}".encode(),
                b"\r\n--",
                b"\r\r\n--",
            ]
        ),
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=150)
@given(
    files=st.lists(NASTY.filter(bool), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
async def test_any_split_into_chunks_gives_the_same_files(
    files: list[bytes], cuts: list[int]
) -> None:
    """Files full of almost-boundaries come out byte for byte, wherever the body is cut."""
    body = multipart(*files)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[a:b] for a, b in pairwise(edges) if a < b]
    assert await read(chunks) == files


async def test_body_in_single_bytes_gives_the_same_file() -> None:
    """A boundary may be cut anywhere."""
    file = f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY[:5]}\r\n--".encode() * 3
    assert await read(split(multipart(file), 1)) == [file]


NAMES: dict[str, str] = {
    "guillemets": 'filename="«a».png"',
    "emoji": 'filename="🔥.png"',
    "quote escaped": 'filename="a\\"b.png"',
    "quote as browsers do": 'filename="a%22b.png"',
    "path": 'filename="../../x.png"',
    "windows path": 'filename="C:\\x\\y.png"',
    "nul": 'filename="a\0b.png"',
    "5,000 characters": f'filename="{"a" * 5000}"',
    "5,000 emoji": f'filename="{"🔥" * 5000}"',
    "empty": 'filename=""',
    "unquoted": "filename=x.png",
    "both forms": "filename=\"x.png\"; filename*=utf-8''%C3%A9.png",
    "line breaks escaped": 'filename="a%0D%0Ab.png"',
    "semicolons": 'filename="a;b;name=c.png"',
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
async def test_odd_file_name_changes_nothing(name: str) -> None:
    """The bytes arrive; a name decides nothing and reaches nobody."""
    body = multipart(b"file", head=f'Content-Disposition: form-data; name="images[]"; {name}')
    assert await read(split(body, 997)) == [b"file"]


async def test_file_name_in_latin1_bytes_changes_nothing() -> None:
    """Not every client knows UTF-8."""
    body = multipart(b"file").replace(b"x.png", b"\xe9\xab\xff.png")
    assert await read([body]) == [b"file"]


@pytest.mark.parametrize(
    "head",
    [
        'content-disposition:form-data;name="images[]";filename="x"',
        'CONTENT-DISPOSITION: form-data; filename="x"; name="images[]"',
        (
            "Content-Type: text/html; charset=nonsense\r\n"
            'Content-Disposition: form-data; name="images[]"; filename="x"'
        ),
    ],
)
async def test_part_headers_in_odd_spelling_are_read(head: str) -> None:
    """Case, order and spaces vary."""
    assert await read([multipart(b"file", head=head)]) == [b"file"]


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "gzip", "nonsense"])
async def test_transfer_encoding_of_a_part_is_ignored(encoding: str) -> None:
    """pict-rs stores the bytes as they came, so these are what is judged."""
    head = (
        'Content-Disposition: form-data; name="images[]"; filename="x"\r\n'
        f"Content-Transfer-Encoding: {encoding}"
    )
    assert await read([multipart(b"aGVsbG8=", head=head)]) == [b"aGVsbG8="]


@pytest.mark.parametrize(
    "content_type",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"MULTIPART/Form-Data; BOUNDARY={BOUNDARY}",
        f"multipart/mixed; boundary={BOUNDARY}",
        f"multipart/related; charset=x; boundary={BOUNDARY}",
    ],
)
async def test_multipart_of_any_kind_is_taken(content_type: str) -> None:
    """As pict-rs takes it."""
    assert await read([multipart(b"file")], Content_Type=content_type) == [b"file"]


async def test_junk_around_the_parts_is_skipped() -> None:
    """Before the first boundary and after the last."""
    body = b"some preamble\r\n" + multipart(b"file") + b"some epilogue"
    assert await read(split(body, 7)) == [b"file"]


def head_of(disposition: str) -> bytes:
    """A body with one part of this Content-Disposition."""
    return multipart(b"file", head=f"Content-Disposition: {disposition}")


REFUSED: dict[str, tuple[bytes, str]] = {
    "no file": (f"--{BOUNDARY}--\r\n".encode(), "validate-no-files"),
    "empty file": (multipart(b""), "validate-file-empty"),
    "empty second file": (multipart(b"x", b""), "validate-file-empty"),
    "too many files": (multipart(b"a", b"b", b"c", b"d"), "file-upload-error"),
    "other field": (head_of('form-data; name="file"; filename="x"'), "file-upload-error"),
    "no name": (head_of('form-data; filename="x"'), "file-upload-error"),
    "no file name": (head_of('form-data; name="images[]"'), "file-upload-error"),
    "filename* only": (
        head_of("form-data; name=\"images[]\"; filename*=utf-8''x.png"),
        "file-upload-error",
    ),
    "no form-data": (head_of('attachment; name="images[]"; filename="x"'), "file-upload-error"),
    "no disposition": (multipart(b"x", head="Content-Type: image/png"), "file-upload-error"),
    "extra field": (
        multipart(b"x")[: -len(f"--{BOUNDARY}--\r\n")] + head_of('form-data; name="extra"'),
        "file-upload-error",
    ),
    "cut in the body": (multipart(b"file")[:-25], "file-upload-error"),
    "cut in the last boundary": (multipart(b"file")[:-4], "file-upload-error"),
    "cut in the headers": (multipart(b"file")[:30], "file-upload-error"),
    "empty body": (b"", "file-upload-error"),
    "other boundary": (multipart(b"file").replace(b"boundary", b"border"), "file-upload-error"),
    "header of 1 MiB": (
        multipart(b"file", head=f"X: {'a' * MEBIBYTE}"),
        "file-upload-error",
    ),
    "100 headers": (
        multipart(b"file", head="\r\n".join(["X: a"] * 100)),
        "file-upload-error",
    ),
    "bare line feeds": (multipart(b"file").replace(b"\r\n", b"\n"), "file-upload-error"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("size", [1, 1000])
async def test_broken_form_is_refused(
    body: bytes, code: str, size: int, spooled: Callable[[], set[str]]
) -> None:
    """With pict-rs' code, and nothing of it stays on disk, however it was cut."""
    with pytest.raises(MalformedRequest) as caught:
        await read(split(body, size if len(body) < MEBIBYTE else 1000))
    assert (caught.value.code, caught.value.status) == (code, 400)
    assert not spooled()


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content_Type": "text/plain"}, "not multipart"),
        ({"Content_Type": "multipart/form-data"}, "not multipart"),
        ({"Content_Type": "multipart/form-data; boundary="}, "not multipart"),
        ({"Content_Type": "x-multipart/form-data; boundary=a"}, "not multipart"),
        ({"Content_Encoding": "gzip"}, "compressed"),
        ({"Content_Encoding": "identity"}, "compressed"),
    ],
)
async def test_request_that_is_no_multipart_is_refused_unread(
    headers: dict[str, str], message: str
) -> None:
    """Its headers tell, so its body is not asked for."""
    body = Body([multipart(b"file")])
    with ExitStack() as opened, pytest.raises(MalformedRequest, match=message):
        await receive(request_of(body, **headers), opened)
    assert body.taken_bytes == 0


async def test_request_without_content_type_is_refused() -> None:
    """In pict-rs' words."""
    request = make_mocked_request("POST", "/image", payload=cast("StreamReader", Body([])))
    with ExitStack() as opened, pytest.raises(MalformedRequest, match="No Content-Type header"):
        await receive(request, opened)


async def test_files_of_exactly_the_limit_pass() -> None:
    """As many as may be, each as large as may be."""
    files = [bytes([n]) * SMALL.max_file_bytes for n in range(SMALL.max_files)]
    assert await read(split(multipart(*files), 333)) == files


@pytest.mark.parametrize("number", range(3))
async def test_one_byte_over_the_limit_is_refused(
    number: int, spooled: Callable[[], set[str]]
) -> None:
    """In whichever file it is."""
    files = [b"x", b"x", b"x"]
    files[number] = bytes(SMALL.max_file_bytes + 1)
    with pytest.raises(BodyTooLarge) as caught:
        await read(split(multipart(*files), 100))
    assert (caught.value.status, caught.value.code) == (413, "validate-file-size")
    assert not spooled()


def endless(start: bytes, chunk: bytes) -> Iterable[bytes]:
    """A body that never ends."""
    if start:
        yield start
    while True:
        yield chunk


OPEN_PART = multipart(b"").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
ENDLESS: dict[str, tuple[bytes, bytes, type[RequestError]]] = {
    "preamble": (b"", b"x" * 1000, BodyTooLarge),
    "preamble of line breaks": (b"", b"\r\n" * 500, BodyTooLarge),
    "file": (OPEN_PART, b"x" * 1000, BodyTooLarge),
    "almost boundaries": (OPEN_PART, f"\r\n--{BOUNDARY[:-1]}".encode(), BodyTooLarge),
    "header line": (f"--{BOUNDARY}\r\n".encode(), b"x" * 1000, MalformedRequest),
    "header lines": (f"--{BOUNDARY}\r\n".encode(), b"X: y\r\n", MalformedRequest),
    "parts": (b"", multipart(b"x").removesuffix(f"--{BOUNDARY}--\r\n".encode()), MalformedRequest),
    "empty parts": (
        f"--{BOUNDARY}\r\n\r\n".encode(),
        f"--{BOUNDARY}\r\n".encode(),
        MalformedRequest,
    ),
    "epilogue": (multipart(b"file"), b"x" * 1000, BodyTooLarge),
}


@pytest.mark.parametrize(("start", "chunk", "error"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_endless_body_ends_early(
    start: bytes, chunk: bytes, error: type[RequestError], spooled: Callable[[], set[str]]
) -> None:
    """No more is read than all files at their limits, and room for what frames them."""
    body = Body(endless(start, chunk))
    with ExitStack() as opened, pytest.raises(error):
        await receive(request_of(body), opened)
    assert body.taken_bytes <= 3 * SMALL.max_file_bytes + 65 * 1024
    assert not spooled()


async def test_too_large_by_its_own_word_is_refused_unread() -> None:
    """Content-Length tells before a byte is read."""
    body = Body([b"x"])
    with ExitStack() as opened, pytest.raises(BodyTooLarge):
        await receive(request_of(body, Content_Length="1000000"), opened)
    assert body.taken_bytes == 0


async def test_slow_client_is_given_up() -> None:
    """As pict-rs gives up, with its code."""

    class Stalled(Body):
        async def iter_any(self) -> AsyncIterator[bytes]:
            yield multipart(b"file")[:50]
            await asyncio.Event().wait()

    deadline = Deadline.after(0.01)
    with ExitStack() as opened, pytest.raises(MalformedRequest) as caught:
        await receive(request_of(Stalled([])), opened, deadline=deadline)
    assert caught.value.code == "stream-too-slow"


async def test_owner_closes_the_files(spooled: Callable[[], set[str]]) -> None:
    """They live as long as the stack that was handed in."""
    with ExitStack() as opened:
        files = await receive(request_of(Body([multipart(b"a", b"b")])), opened)
        assert len(spooled()) == len(files) == 2
    assert not spooled()


TEN = {"max_file_bytes": 10 * MEBIBYTE, "max_files": 2}


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    """A body without a length."""
    for chunk in split(body, 64 * 1024):
        yield chunk


async def send(client: ClientSession, proxy: Running, data: Any, **headers: str) -> Any:
    """The answer to an upload of these raw bytes."""
    sent = {"Content-Type": TYPE, **{n.replace("_", "-"): v for n, v in headers.items()}}
    return await ask(client, "POST", proxy.url, "/image", data=data, headers=sent)


async def test_limits_hold_over_a_real_connection(
    client: ClientSession, pictrs: FakeServer, spooled: Callable[[], set[str]]
) -> None:
    """11 MiB in one part, by length and chunked; a gzip bomb; then a good upload."""
    large = multipart(bytes(11 * MEBIBYTE))
    async with running_proxy(pictrs.url, limits=TEN) as proxy:
        assert (await send(client, proxy, io.BytesIO(large))).status == 413
        assert (await send(client, proxy, chunked(large))).status == 413
        bomb = await asyncio.to_thread(gzip.compress, large)
        assert (await send(client, proxy, bomb, Content_Encoding="gzip")).status == 400
        assert pictrs.received == []
        assert not spooled()
        assert (await send(client, proxy, chunked(multipart(plain(RED))))).status == 201


async def test_careful_client_is_invited_after_its_headers_were_checked(proxy: Running) -> None:
    """`Expect: 100-continue` gets its 100 for a body that may come, and the refusal alone else."""
    host, port = proxy.url.removeprefix("http://").split(":")
    for length, first in ((100, b"HTTP/1.1 100 "), (10**12, b"HTTP/1.1 413 ")):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /image HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: {TYPE}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        assert (await reader.readline()).startswith(first)
        writer.close()
        await writer.wait_closed()
