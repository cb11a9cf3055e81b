"""A foreign address -> Media, in pict-rs' place.

The address comes from strangers, so it must not lead into private networks. Names are resolved by
a resolver that refuses private addresses, and the connection goes to what it returned: there is no
second look-up that could answer otherwise. Each redirect passes the same checks.

Addresses are private and often hold a key. So no message holds any part of one, and the library's
errors, which do, are left out of the chain (`from None`).
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from safety_proxy import __version__
from safety_proxy.deadline import Deadline
from safety_proxy.errors import BodyTooLarge, DownloadFailed
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.proxy.addresses import IPNetwork, is_allowed, is_port_allowed, literal
from safety_proxy.settings import FetchSettings

AGENT: Final = "safety-proxy"
MAX_REDIRECTS: Final = 5
# Together they bound the head of an answer at 1.6 MB; what ordinary servers send is under 8 KiB.
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100
_LOOKUP_THREADS: Final = 16

_REDIRECTS: Final = {301, 302, 303, 307, 308}
_GONE: Final = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
# pict-rs' own words for these two.
_LOCAL: Final = "Proxy url resolves to local address"
_TOO_LARGE: Final = "Response body larger than size limit"

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# No login, no percent-escape, no zone, and a port of plain digits.
_AUTHORITY: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[^\[\]:@%]+)(?::[0-9]*)?", re.IGNORECASE)
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_MAX_NAME_LENGTH: Final = 254  # RFC 1035, with the last dot; IDNA is slow on longer ones
_VALIDATOR: Final = re.compile(r"[\x20-\x7e]{1,1024}")


class Validators(NamedTuple):
    """What an origin said of the version that it gave, to ask later whether it is still that."""

    etag: str | None = None
    last_modified: str | None = None


class Fetched(NamedTuple):
    """A picture, and the validators that came with it."""

    media: Media
    validators: Validators


class _SystemResolver(AbstractResolver):
    """The system's look-up, on threads of its own.

    A name server that keeps silent blocks a thread for half a minute. On the loop's own threads,
    a few names of a stranger's would hold up all disk and decoding work.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="look-up")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: socket.getaddrinfo(
                host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            ),
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=0
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _PublicResolver(AbstractResolver):
    """Resolves as another does, and refuses a name of which any address is private.

    One private address among public ones is how a name is made to lead inside now and then.
    """

    def __init__(self, resolver: AbstractResolver, allowed: Sequence[IPNetwork]) -> None:
        self._resolver = resolver
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not found:
            raise OSError("no address")  # aiohttp relies on at least one
        if not all(is_allowed(ip_address(result["host"]), self._allowed) for result in found):
            raise DownloadFailed(_LOCAL, status=400)
        return found

    async def close(self) -> None:
        await self._resolver.close()


class Fetcher:
    """Fetches pictures from foreign servers. `resolver`: the system's, unless given."""

    def __init__(
        self,
        settings: FetchSettings,
        spooler: Spooler,
        *,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._settings = settings
        self._spooler = spooler
        self._resolver = _PublicResolver(resolver or _SystemResolver(), settings.allow_networks)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver,
                # A pooled connection, or a cached name, would outlive the check that let it in.
                force_close=True,
                use_dns_cache=False,
            ),
            timeout=aiohttp.ClientTimeout(
                sock_connect=settings.silence_seconds, sock_read=settings.silence_seconds
            ),
            headers={
                "Accept": "*/*",
                "Accept-Encoding": "identity",  # a picture is compressed already; no bombs
                "User-Agent": f"{AGENT}/{__version__} (for pict-rs)",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
        )

    async def fetch(
        self,
        address: str,
        opened: ExitStack,
        *,
        deadline: Deadline,
        known: Validators | None = None,
    ) -> Fetched | None:
        """What lies at `address`; `opened` closes it.

        known: validators of an earlier answer. None comes back only when they were given and the
        origin says that nothing has changed since.
        Raises DownloadFailed if there is no picture to be had, Busy if there is no room for one.
        """
        try:
            async with asyncio.timeout(min(self._settings.total_seconds, deadline.left)):
                return await self._follow(_parsed(address), opened, known or Validators())
        except TimeoutError:
            raise DownloadFailed("Unable to download image, it took too long") from None
        except aiohttp.ClientError:
            raise DownloadFailed("Unable to download image, the server cannot be reached") from None

    async def _follow(self, url: URL, opened: ExitStack, known: Validators) -> Fetched | None:
        """The answer at the end of the redirects.

        Validators belong to the one address that gave them. Sent to another, a date can bring the
        answer "not modified" for a picture that was never seen. So they go out and are taken in
        only where the first address answers itself; what lies behind a redirect is fetched whole.
        """
        conditions = _conditions(known)
        for hop in range(MAX_REDIRECTS + 1):
            self._check(url)
            headers = conditions if hop == 0 else None
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status in _REDIRECTS and location:
                    url = _parsed(location, base=url)
                    continue
                if response.status == HTTPStatus.NOT_MODIFIED and headers:
                    return None
                if response.status != HTTPStatus.OK:
                    raise DownloadFailed(
                        f"Unable to download image, bad response {response.status}",
                        gone=response.status in _GONE,
                    )
                media = await self._spool(response, opened)
                return Fetched(media, _validators(response) if hop == 0 else Validators())
        raise DownloadFailed("Unable to download image, too many redirects")

    def _check(self, url: URL) -> None:
        """Raises DownloadFailed unless the port, and the host if it is an address, may be asked."""
        if not is_port_allowed(url.port or 0, self._settings.allow_ports):
            raise DownloadFailed("Unable to download image, port not allowed", status=400)
        address = literal(url.raw_host or "")
        if address is not None and not is_allowed(address, self._settings.allow_networks):
            raise DownloadFailed(_LOCAL, status=400)

    async def _spool(self, response: aiohttp.ClientResponse, opened: ExitStack) -> Media:
        encodings = response.headers.getall("Content-Encoding", [])
        if any(encoding.strip().lower() not in {"", "identity"} for encoding in encodings):
            raise DownloadFailed("Unable to download image, unexpected encoding")
        if (response.content_length or 0) > self._spooler.file_bytes:
            raise DownloadFailed(_TOO_LARGE)
        spool = self._spooler.open(opened)
        try:
            async for chunk in response.content.iter_any():
                await spool.write(chunk)
        except BodyTooLarge:
            raise DownloadFailed(_TOO_LARGE) from None
        if not spool.size_bytes:
            raise DownloadFailed("Unable to download image, the answer is empty")
        return await spool.finish()

    async def aclose(self) -> None:
        await self._session.close()
        await self._resolver.close()


def canonical(address: str) -> str:
    """A key under which the spellings of one address meet; not an address to fetch.

    Scheme and host in lower case and ASCII, no default port, no fragment, dot segments resolved,
    and escapes as yarl writes them.
    Raises DownloadFailed (400) for what cannot be fetched at all by its form.
    """
    return str(URL(str(_parsed(address))))


def _parsed(address: str, base: URL | None = None) -> URL:
    """The URL to ask; an address relative to `base` is joined to it.

    Host in ASCII, no fragment. Of path and query only what may not stand in a URL is escaped:
    signed links must arrive as they were made.
    Raises DownloadFailed (400) unless it is http or https, with a host and no login.
    """
    try:
        return _rebuilt(address.strip(" \t\r\n"), base)
    except ValueError:
        raise DownloadFailed("Unable to download image, invalid url", status=400) from None


def _rebuilt(address: str, base: URL | None) -> URL:
    if _CONTROL.search(address):
        raise ValueError("a control character")  # some readers skip those, others do not
    # Not yarl's own join, which unescapes the path that it joins to.
    url = URL(urljoin(str(base), address) if base else address, encoded=True)
    if url.scheme not in {"http", "https"} or not _AUTHORITY.fullmatch(url.raw_authority):
        raise ValueError("not of the web")
    if url.port == 0 or len(url.raw_host or "") > _MAX_NAME_LENGTH:
        raise ValueError("no port, or no name")
    # IDNA turns other digits and dots into plain ones: what is an address is told after it.
    host = url.with_host(url.raw_host or "").raw_host or ""
    if literal(host) is None and not _NAME.fullmatch(host):
        raise ValueError("no name")
    return URL.build(
        scheme=url.scheme,
        host=f"[{host}]" if ":" in host else host,
        port=url.port,
        path=_escaped(url.raw_path),
        query_string=_escaped(url.raw_query_string),
        encoded=True,
    )


def _escaped(text: str) -> str:
    # A byte that was no UTF-8 in a header is a surrogate in its text, and becomes that byte again.
    return quote(text, safe="%/:?[]@!$&'()*+,;=~-._", errors="surrogateescape")


def _conditions(known: Validators) -> dict[str, str]:
    conditions = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in conditions.items() if value}


def _validators(response: aiohttp.ClientResponse) -> Validators:
    """Those of an answer, without any that are too long to keep or could not be sent back."""
    values = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
    return Validators(*(value if _VALIDATOR.fullmatch(value) else None for value in values))
