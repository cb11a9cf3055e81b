"""The body of pict-rs' validation request -> the picture in it, spooled and hashed.

    pict-rs   Content-Type lines                                  body
    0.5       the picture's                                       the picture
    0.6       the picture's, then `multipart/form-data; ...`      one part, which is the picture

Source: 0.5.25 `src/ingest.rs`, 0.6.0-rc.6 `src/client.rs`. The part of 0.6 has no file name, and
its name is `name*=utf-8''...`, which RFC 7578 forbids: `multipart` reads it as a part without a
name, and strict parsers refuse it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from typing import Final

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from safety_proxy.errors import BodyTooLarge, MalformedRequest
from safety_proxy.media.spool import Media, Spool, Spooler

Headers = Sequence[tuple[bytes, bytes]]

# Room for what stands around the part; pict-rs 0.6 sends about 300 bytes.
_OVERHEAD_BYTES: Final = 16 * 1024

_DAMAGED: Final = "The multipart body is incomplete or damaged"


async def read_picture(
    headers: Headers, body: AsyncIterator[bytes], spooler: Spooler, opened: ExitStack
) -> Media:
    """The picture of a request; `opened` closes it.

    headers: names in lower case. body: not asked for a byte before the headers are found fine.
    Raises MalformedRequest, BodyTooLarge or Busy, and what `body` raises.
    """
    boundary = _boundary(headers)
    most_bytes = spooler.file_bytes + (_OVERHEAD_BYTES if boundary else 0)
    if any(int(value) > most_bytes for value in _values(headers, b"content-length")):
        raise BodyTooLarge("Upload too large")
    spool = spooler.open(opened)
    bounded = _bounded(body, most_bytes)
    if boundary is None:
        async for chunk in bounded:
            await spool.write(chunk)
    else:
        try:
            await _spool_part(bounded, boundary, spool)
        except MultipartError as error:
            raise MalformedRequest(_DAMAGED) from error
    if not spool.size_bytes:
        raise MalformedRequest("Uploaded file is empty", code="validate-file-empty")
    return await spool.finish()


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _boundary(headers: Headers) -> str | None:
    """That of a multipart body, None if the body is the picture itself."""
    if _values(headers, b"content-encoding"):
        raise MalformedRequest("A compressed request body is not supported")
    # HTTP lets whatever stands in between join several lines of one name by commas.
    lines = b",".join(_values(headers, b"content-type")).decode("latin1").split(",")
    forms = [line for line in lines if line.strip().lower().startswith("multipart/")]
    if not forms:
        return None
    boundaries = [parse_options_header(form.strip())[1].get("boundary", "") for form in forms]
    if len(boundaries) > 1 or not boundaries[0]:
        raise MalformedRequest("The Content-Type is not multipart with one boundary")
    boundary: str = boundaries[0]
    return boundary


async def _bounded(body: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[bytes]:
    seen = 0
    async for chunk in body:
        seen += len(chunk)
        if seen > most_bytes:
            raise BodyTooLarge("Upload too large")
        yield chunk


async def _spool_part(body: AsyncIterator[bytes], boundary: str, spool: Spool) -> None:
    """Spools the content of the one part.

    It ends where the body ends and not before: a picture that holds the boundary, so that only its
    beginning would be looked at, is refused.
    """
    parser = PushMultipartParser(
        boundary, header_charset="latin1", max_header_size=_OVERHEAD_BYTES, max_segment_count=1
    )
    ended = False
    async for piece in _end_apart(body, len(f"\r\n--{boundary}--\r\n".encode())):
        if ended:
            raise MalformedRequest(_DAMAGED)
        for event in parser.parse(piece):
            if event is None:
                ended = True
            elif not isinstance(event, MultipartSegment):
                await spool.write(bytes(event))
    parser.close()  # raises MultipartError if the last boundary did not come


async def _end_apart(body: AsyncIterator[bytes], end_bytes: int) -> AsyncIterator[bytes]:
    """The same bytes, the last `end_bytes` of them as the last piece; pieces are never empty."""
    held = b""
    async for chunk in body:
        held += chunk
        if len(held) > end_bytes:
            yield held[:-end_bytes]
            held = held[-end_bytes:]
    if held:
        yield held
