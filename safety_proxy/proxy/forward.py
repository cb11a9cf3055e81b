"""To pict-rs: `store` what a scan cleared, `stream` all that stores nothing."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from safety_proxy.deadline import HEADER as DEADLINE
from safety_proxy.deadline import Deadline
from safety_proxy.errors import UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from safety_proxy.proxy import headers
from safety_proxy.proxy.ingest import FIELD, is_file_name
from safety_proxy.proxy.routes import Kind, Route
from safety_proxy.scanner import Cleared
from safety_proxy.settings import UpstreamSettings

IMPORT: Final = "/internal/import"

# The routes that take a multipart body of pictures.
STORES: Final = frozenset({"/image", "/image/backgrounded", IMPORT})

# After the deadline pict-rs says itself that it has given up, which is more than a time-out tells.
_LAST_WORDS_SECONDS: Final = 0.2

_NEUTRAL_NAME: Final = "picture"

# Left of a request's time for pict-rs to take a judged picture: below it nothing is forwarded that
# the client would not hear of any more. pict-rs takes a quarter to half a second for most.
RESERVE_SECONDS: Final = 1.0

# What aiohttp would add by itself; pict-rs gets what the client said, and no more.
_AUTOMATIC = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING)


class Pictrs:
    """The pict-rs behind this proxy."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._base = str(settings.url).rstrip("/")
        self._api_key = settings.api_key
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_seconds, sock_read=settings.read_seconds
        )
        # Bytes pass as they are; and no limit here: each stream belongs to a client that the
        # listener has let in.
        self._reads = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTOMATIC,
        )
        self._turns = _Turns()
        # What changes something cannot be repeated when a pooled connection turns out to be
        # closed, so each has its own.
        self._stores = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_AUTOMATIC,
        )

    async def store(
        self,
        files: Sequence[Cleared],
        request_headers: CIMultiDict[str],
        *,
        path: str = "/image",
        query: str = "",
        names: Sequence[str] = (),
        deadline: Deadline,
    ) -> web.Response:
        """pict-rs' answer to an upload of these files, in this order.

        path: one of STORES. query: an upload query, written anew. names: the file names, which only
        an import looks at. pict-rs is told of the deadline, and stores nothing after it.
        Raises UpstreamError; then nothing was stored, or the connection broke while pict-rs
        answered.
        """
        if path not in STORES:
            raise ValueError(f"{path} does not take uploads")
        body = _Upload(files, names)
        request_headers[hdrs.CONTENT_TYPE] = body.content_type
        request_headers[hdrs.CONTENT_LENGTH] = str(body.size_bytes)
        request_headers[DEADLINE] = deadline.as_header()
        with _mapped_errors():
            async with (
                asyncio.timeout(deadline.left + _LAST_WORDS_SECONDS),
                self._turns.of(file.media.sha256 for file in files),
                self._stores.post(
                    self._url(path, query),
                    data=body.parts(),
                    headers=request_headers,
                    allow_redirects=False,
                ) as answer,
            ):
                stored = await answer.read()
                if answer.status >= HTTPStatus.BAD_REQUEST and not stored:
                    # As pict-rs answers at the deadline; Lemmy needs JSON from an upload.
                    raise _refusal(answer.status, stored)
                answer_headers = headers.from_pictrs(answer.headers)
                answer_headers.popall(hdrs.CONTENT_LENGTH, None)  # set by what is sent
                return web.Response(status=answer.status, headers=answer_headers, body=stored)

    async def store_as(self, alias: str, file: Cleared, deadline: Deadline) -> None:
        """Stores a picture under an alias chosen here.

        Raises UpstreamRefused if pict-rs says that it did not, else UpstreamError, as `store`.
        """
        answer = await self.store(
            [file], self._as_admin(), path=IMPORT, names=[alias], deadline=deadline
        )
        if answer.status != HTTPStatus.CREATED:
            raise _refusal(answer.status, answer.body)

    async def delete(self, alias: str) -> None:
        """Removes an alias, and the picture with its last one.

        Raises UpstreamRefused if pict-rs says that it did not, else UpstreamError.
        """
        with _mapped_errors():
            async with self._stores.request(
                hdrs.METH_POST,
                self._url("/internal/delete", f"alias={quote(alias, safe='')}"),
                headers=self._as_admin(),
                allow_redirects=False,
            ) as answer:
                if answer.status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
                    raise _refusal(answer.status, await answer.read())

    async def stream(
        self, request: web.BaseRequest, route: Route, *, unless: HTTPStatus | None = None
    ) -> web.StreamResponse | None:
        """pict-rs' answer to a request that stores nothing, passed on while it arrives.

        None if it has the status `unless`; then nothing was passed on.
        Raises UpstreamError before the first byte of an answer; after it, the connection is cut.
        """
        if route.kind is not Kind.PASS:
            raise ValueError(
                f"{route.method} {route.path} stores pictures and must not be streamed"
            )
        session = self._reads if route.method in {hdrs.METH_GET, hdrs.METH_HEAD} else self._stores
        with _mapped_errors():
            answer = await session.request(
                route.method,
                self._url(route.path, route.query),
                headers=headers.to_pictrs(request.headers),
                data=request.content if headers.has_body(request.headers) else None,
                allow_redirects=False,
            )
        async with answer:
            if answer.status == unless:
                return None
            response = web.StreamResponse(
                status=answer.status,
                reason=answer.reason,
                headers=headers.from_pictrs(answer.headers),
            )
            await response.prepare(request)
            await _copy_body(answer, request, response)
            return response

    def _as_admin(self) -> CIMultiDict[str]:
        key = self._api_key
        return CIMultiDict({"X-Api-Token": key.get_secret_value()} if key else {})

    async def is_alive(self) -> bool:
        """Whether pict-rs answers its own health check."""
        try:
            timeout = aiohttp.ClientTimeout(total=2)
            async with self._reads.get(self._url("/healthz", ""), timeout=timeout) as answer:
                return answer.status == HTTPStatus.OK
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def aclose(self) -> None:
        await self._reads.close()
        await self._stores.close()

    def _url(self, path: str, query: str) -> URL:
        # `encoded`: yarl would otherwise rewrite escapes inside a query.
        return URL(f"{self._base}{path}?{query}" if query else f"{self._base}{path}", encoded=True)


async def _copy_body(
    answer: aiohttp.ClientResponse, request: web.BaseRequest, response: web.StreamResponse
) -> None:
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientPayloadError, TimeoutError):
        # pict-rs broke off. The status is sent; only a cut connection says that bytes are missing.
        if request.transport is not None:
            request.transport.abort()


class _Turns:
    """Lets uploads of equal bytes through one after another.

    pict-rs 0.5.25 answers 500 `not-found` to some of several simultaneous uploads of one file, and
    whoever waited here for one scan would arrive there at once.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, digests: Iterable[str]) -> AsyncIterator[None]:
        """Held while no other upload with any of these digests is under way."""
        # In one order for all, or two uploads could wait for each other.
        locks = [self._locks.setdefault(one, asyncio.Lock()) for one in sorted(set(digests))]
        async with AsyncExitStack() as held:
            for lock in locks:
                await held.enter_async_context(lock)
            yield


class _Upload:
    """A multipart body of cleared files, its length known beforehand.

    Nothing of the client's form is in it but the name that an import gives a picture: the field is
    fixed, the boundary ours.
    """

    def __init__(self, files: Sequence[Cleared], names: Sequence[str]) -> None:
        for file in files:
            if not isinstance(file, Cleared):  # the type says so; this holds where nobody checks it
                raise TypeError(f"only cleared media can be stored, not {type(file).__name__}")
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._parts = [
            (_part_head(boundary, name), file.media)
            for file, name in zip(files, names or [_NEUTRAL_NAME] * len(files), strict=True)
        ]
        self._end = f"--{boundary}--\r\n".encode()
        self.size_bytes = len(self._end) + sum(
            len(head) + media.size_bytes + len(b"\r\n") for head, media in self._parts
        )

    async def parts(self) -> AsyncIterator[bytes]:
        for head, media in self._parts:
            yield head
            # Hashed once more on the way; if the bytes are not those of the verdict this raises,
            # and the body breaks off before its last boundary: pict-rs drops it.
            async for block in media.blocks():
                yield block
            yield b"\r\n"
        yield self._end


def _part_head(boundary: str, name: str) -> bytes:
    if not is_file_name(name):
        raise ValueError("not a name that a part's header can hold")
    return (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{FIELD}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _refusal(status: int, body: object) -> UpstreamRefused:
    """An answer of pict-rs that is no success, with the `msg` and `code` of its JSON."""
    if status < HTTPStatus.BAD_REQUEST:  # no success that is known of, and no error to pass on
        return UpstreamRefused(f"The image server answered {status}")
    try:
        told = json.loads(body if isinstance(body, bytes) else b"")
        return UpstreamRefused(str(told["msg"]), status=status, code=str(told["code"]))
    except (ValueError, KeyError, TypeError):
        return UpstreamRefused(f"The image server answered {status}", status=status)


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ServerTimeoutError, TimeoutError) as error:
        raise UpstreamTimeout(f"pict-rs: {type(error).__name__}") from error
    except aiohttp.ClientError as error:
        # Its text may hold an address with what a user looked at.
        raise UpstreamUnreachable(f"pict-rs: {type(error).__name__}") from error
