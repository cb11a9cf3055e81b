"""A multipart upload -> its files, spooled and hashed while they arrive.

Which forms pict-rs takes (its surface, section 2; actix-form-data 0.7):

    Content-Type        multipart/* of any kind, quoted boundary        taken here too
    part                `images[]`, also unquoted, with a file name     taken; anything else is 400
    Content-Transfer-Encoding of a part                                 ignored, as pict-rs does
    Content-Encoding of the request                                     refused, as pict-rs does
    junk before the first boundary                                      skipped

What is forwarded is written anew from the files alone, so a form that is read differently here
and there can at worst be refused.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Final, NamedTuple

from aiohttp import web
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from safety_proxy.deadline import Deadline
from safety_proxy.errors import BodyTooLarge, MalformedRequest
from safety_proxy.media.spool import Media, Spool, Spooler

FIELD: Final = "images[]"

# Room in the whole body for boundaries, part headers and what stands before the first boundary.
_OVERHEAD_BYTES: Final = 64 * 1024

# A part's header line, for the sake of its file name: 5,000 characters of any script.
_HEADER_BYTES: Final = 32 * 1024

# Of a name that becomes an alias; a URL holds more, a file system less.
_NAME_LENGTH: Final = 200


class UploadedFile(NamedTuple):
    """A file as it came, and the last part of the name that the client gave it."""

    media: Media
    name: str


async def read_upload(
    request: web.BaseRequest,
    spooler: Spooler,
    opened: ExitStack,
    *,
    max_files: int,
    deadline: Deadline,
) -> list[UploadedFile]:
    """The files of a multipart body in order, at least one; `opened` closes them.

    Raises MalformedRequest or BodyTooLarge, as early as the bytes seen allow, and Busy.
    """
    most_bytes = max_files * spooler.file_bytes + _OVERHEAD_BYTES
    if (request.content_length or 0) > most_bytes:
        raise BodyTooLarge("Upload too large")
    parser = PushMultipartParser(
        _boundary(request),
        header_charset="latin1",
        max_header_size=_HEADER_BYTES,
        max_segment_count=max_files + 1,
    )
    await _invite(request)
    body = _bounded(request, most_bytes)
    try:
        async with asyncio.timeout(deadline.left):
            files = [file async for file in _files(parser, body, spooler, opened, max_files)]
    except TimeoutError as error:
        raise MalformedRequest(
            "Client took too long to send request", code="stream-too-slow"
        ) from error
    except ParserLimitReached as error:
        raise MalformedRequest("Too many parts, or too many headers in one") from error
    except MultipartError as error:
        raise MalformedRequest("Multipart stream is incomplete or damaged") from error
    if not files:
        raise MalformedRequest("No files present in upload", code="validate-no-files")
    return files


def _boundary(request: web.BaseRequest) -> str:
    if "Content-Encoding" in request.headers:
        raise MalformedRequest("A compressed request body is not supported")
    value = request.headers.get("Content-Type")
    if value is None:
        raise MalformedRequest("No Content-Type header found")
    options: dict[str, str]
    media_type, options = parse_options_header(value)
    boundary = options.get("boundary", "")
    if not media_type.startswith("multipart/") or not boundary:
        raise MalformedRequest("The Content-Type is not multipart with a boundary")
    return boundary


async def _invite(request: web.BaseRequest) -> None:
    """Sends the `100 Continue` that a careful client waits for, now that its headers are fine."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _bounded(request: web.BaseRequest, most_bytes: int) -> AsyncIterator[bytes]:
    """The body as it arrives; aiohttp's own limit does not count a body that is streamed."""
    seen = 0
    async for chunk in request.content.iter_any():
        seen += len(chunk)
        if seen > most_bytes:
            raise BodyTooLarge("Upload too large")
        yield chunk


async def _files(
    parser: PushMultipartParser,
    body: AsyncIterator[bytes],
    spooler: Spooler,
    opened: ExitStack,
    max_files: int,
) -> AsyncIterator[UploadedFile]:
    spool: Spool | None = None
    name = ""
    count = 0
    async for chunk in body:
        for event in parser.parse(chunk):
            if isinstance(event, MultipartSegment):
                name = _name_of(event)
                count += 1
                if count > max_files:
                    raise MalformedRequest("Too many files in request")
                spool = spooler.open(opened)
            elif spool is None:
                raise MalformedRequest("Multipart stream is incomplete or damaged")
            elif event is None:
                yield UploadedFile(await _finish(spool), name)
                spool = None
            else:
                await spool.write(bytes(event))
    parser.close()  # raises MultipartError if the last boundary did not come


def _name_of(part: MultipartSegment) -> str:
    """The file name of a part. Raises MalformedRequest unless it is a file of the one field."""
    if not _is_field(part):
        raise MalformedRequest("Found field with unexpected name or type")
    if part.filename is None:
        raise MalformedRequest("Failed to parse filename")
    # The parser was told latin1, which every byte is; what was meant is UTF-8.
    name: str = part.filename.encode("latin1").decode("utf-8", errors="replace")
    return re.split(r"[/\\]", name)[-1]


def _is_field(part: MultipartSegment) -> bool:
    """Whether pict-rs takes it for `images[]`, which it does in three spellings."""
    if part.name == "images":  # where the parser's reading of an unquoted name ends
        return "name=images[]" in (part.header("Content-Disposition") or "")
    return part.name in {FIELD, "images][]"}


def is_file_name(name: str) -> bool:
    """Whether a part's header can hold it as it is; for an import it becomes the alias."""
    return 0 < len(name) <= _NAME_LENGTH and name.isprintable() and not set('"/\\') & set(name)


async def _finish(spool: Spool) -> Media:
    if not spool.size_bytes:
        raise MalformedRequest("Uploaded file is empty", code="validate-file-empty")
    return await spool.finish()
