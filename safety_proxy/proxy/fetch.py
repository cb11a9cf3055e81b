"""A foreign address -> Media, in pict-rs' place.

The address comes from strangers, so it must not lead into private networks. Names are resolved by
a resolver that drops private addresses, and the connection goes to what it returned: there is no
second look-up that could answer otherwise. Each redirect passes the same checks.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from safety_proxy import __version__
from safety_proxy.errors import BodyTooLarge, DownloadFailed
from safety_proxy.media.spool import Media, Spool
from safety_proxy.settings import FetchSettings

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_REDIRECTS: Final = 5
_LOCAL: Final = "Proxy url resolves to local address"  # pict-rs' own words for it

# Ranges in which an IPv4 address hides inside an IPv6 one, or that are public by the registry
# and private by what a router may do with them.
_NEVER: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64, RFC 6052
        "64:ff9b:1::/48",  # NAT64 for local use, RFC 8215
        "2002::/16",  # 6to4, RFC 3056
        "2001::/32",  # Teredo, RFC 4380
        "::/96",  # IPv4-compatible, RFC 4291
        "fec0::/10",  # site-local, RFC 3879
    )
)


def is_allowed(address: IPAddress, allowed: Sequence[IPNetwork] = ()) -> bool:
    """Whether a foreign address may be asked: global unicast, or in a network the admin allows."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed if network.version == address.version):
        return True
    if any(address in network for network in _NEVER if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


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
        for result in found:
            if not is_allowed(
                ipaddress.ip_address(result["host"].partition("%")[0]), self._allowed
            ):
                raise DownloadFailed(_LOCAL, status=400)
        return found

    async def close(self) -> None:
        await self._resolver.close()


class Fetcher:
    """Fetches pictures from foreign servers. `resolver`: the system's, unless given."""

    def __init__(
        self,
        settings: FetchSettings,
        *,
        max_file_bytes: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._settings = settings
        self._max_file_bytes = max_file_bytes
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_PublicResolver(resolver or ThreadedResolver(), settings.allow_networks),
                # A pooled connection, or a cached name, would outlive the check that let it in.
                force_close=True,
                use_dns_cache=False,
            ),
            timeout=aiohttp.ClientTimeout(total=settings.total_seconds),
            headers={
                "Accept": "*/*",
                "Accept-Encoding": "identity",  # a picture is compressed already; no bombs
                "User-Agent": f"safety-proxy/{__version__} (for pict-rs)",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def fetch(self, address: str, opened: ExitStack) -> Media:
        """What lies at `address`; `opened` closes it. Raises DownloadFailed."""
        try:
            async with asyncio.timeout(self._settings.total_seconds):
                return await self._follow(address, opened)
        except TimeoutError as error:
            raise DownloadFailed("Unable to download image, it took too long") from error
        except (aiohttp.ClientError, UnicodeError) as error:  # the latter from a name like `a..b`
            raise DownloadFailed(
                "Unable to download image, the server cannot be reached"
            ) from error

    async def _follow(self, address: str, opened: ExitStack) -> Media:
        url = self._checked(address)
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status in {301, 302, 303, 307, 308}:
                    url = self._checked(response.headers.get("Location", ""), base=url)
                    continue
                if response.status != HTTPStatus.OK:
                    raise DownloadFailed(
                        f"Unable to download image, bad response {response.status}"
                    )
                return await self._spool(response, opened)
        raise DownloadFailed("Unable to download image, too many redirects")

    def _checked(self, address: str, base: URL | None = None) -> URL:
        """The URL to ask next. Raises DownloadFailed unless scheme, port and host are allowed."""
        try:
            url = URL(_escaped(address), encoded=True)
            url = base.join(url) if base else url
            port = url.port
        except ValueError as error:
            raise DownloadFailed("Unable to download image, invalid url", status=400) from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise DownloadFailed("Unable to download image, invalid url", status=400)
        if url.user is not None or url.password is not None:
            raise DownloadFailed("Unable to download image, url with a login", status=400)
        if self._settings.allow_ports and port not in self._settings.allow_ports:
            raise DownloadFailed("Unable to download image, port not allowed", status=400)
        literal = _as_address(url.host)
        if literal is not None and not is_allowed(literal, self._settings.allow_networks):
            raise DownloadFailed(_LOCAL, status=400)
        if literal is None and url.host.replace(".", "").isdecimal():
            # `127.1`, `2130706433`: no name, and what it stands for depends on who reads it.
            raise DownloadFailed("Unable to download image, invalid url", status=400)
        return url.with_fragment(None)

    async def _spool(self, response: aiohttp.ClientResponse, opened: ExitStack) -> Media:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadFailed("Unable to download image, unexpected encoding")
        spool = Spool(limit_bytes=self._max_file_bytes)
        opened.callback(spool.close)
        try:
            async for chunk in response.content.iter_any():
                await spool.write(chunk)
        except BodyTooLarge as error:
            raise DownloadFailed("Response body larger than size limit") from error
        return await spool.finish()

    async def aclose(self) -> None:
        await self._session.close()


def _as_address(host: str) -> IPAddress | None:
    """The address that a host literal is, else None."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _escaped(address: str) -> str:
    """With only what may not stand in a URL escaped: signed links must arrive as they were made."""
    return quote(address.strip(), safe="%/:?#[]@!$&'()*+,;=~-._")
