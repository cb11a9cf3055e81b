"""Tests of safety_proxy/proxy/fetch.py: foreign pictures, and no way into private networks."""

import asyncio
import ipaddress
import socket
from contextlib import ExitStack
from ipaddress import ip_network

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from safety_proxy.errors import DownloadFailed
from safety_proxy.proxy.fetch import MAX_REDIRECTS, Fetcher, is_allowed
from safety_proxy.settings import FetchSettings
from tests.fakes import FakeServer, Received

LIMIT_BYTES = 100_000
LOOPBACK = [ip_network("127.0.0.0/8")]


class FakeResolver(AbstractResolver):
    """Answers each look-up of a name with the next of its lists of addresses."""

    def __init__(self, answers: dict[str, list[list[str]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self.answers[host]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in (addresses.pop(0) if len(addresses) > 1 else addresses[0])
        ]

    async def close(self) -> None:
        pass


def fetcher(
    port: int,
    *,
    inside: bool = True,
    names: dict[str, list[list[str]]] | None = None,
    total_seconds: float = 8,
) -> Fetcher:
    """A fetcher for this port that may ask loopback if `inside`."""
    settings = FetchSettings(
        allow_ports=[port], allow_networks=LOOPBACK if inside else [], total_seconds=total_seconds
    )
    resolver = FakeResolver(names) if names is not None else None
    return Fetcher(settings, max_file_bytes=LIMIT_BYTES, resolver=resolver)


async def fetch(fetching: Fetcher, address: str) -> bytes:
    """The body at an address; the fetcher is closed."""
    try:
        with ExitStack() as opened:
            media = await fetching.fetch(address, opened)
            return b"".join([block async for block in media.blocks()])
    finally:
        await fetching.aclose()


async def refusal(fetching: Fetcher, address: str) -> DownloadFailed:
    """The error that fetching an address ends with."""
    with pytest.raises(DownloadFailed) as caught:
        await fetch(fetching, address)
    return caught.value


PRIVATE = """
127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 169.254.169.254 0.0.0.0
0.1.2.3 100.64.0.1 198.18.0.1 192.0.0.1 192.0.2.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
::1 :: fe80::1 fc00::1 fd12:3456::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1
64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 2002:7f00:1:: 2002:a00:1:: 2001::1 2001:db8::1 100::1
""".split()  # noqa: SIM905 -- a list literal would take 40 lines


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_refused(address: str) -> None:
    """In any range, and hidden in IPv6 in any way."""
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_address_is_allowed(address: str) -> None:
    """Global unicast."""
    assert is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("address", "network", "allowed"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("192.168.1.1", "10.0.0.0/8", False),
        ("fd00::1", "fd00::/8", True),
        ("::1", "127.0.0.0/8", False),
    ],
)
def test_admin_can_allow_a_network(address: str, network: str, allowed: bool) -> None:  # noqa: FBT001 -- a table
    """That one, and no other."""
    assert is_allowed(ipaddress.ip_address(address), [ip_network(network)]) is allowed


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[::1%25lo]",
        "[fe80::1%25lo]",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "0",
        "127.0.0.1.",
        "127%2E0%2E0%2E1",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "\uff11\uff12\uff17.0.0.1",
    ],
)
async def test_no_spelling_of_loopback_is_reached(host: str, origin: FakeServer) -> None:
    """The listener there sees no connection."""
    error = await refusal(fetcher(origin.port, inside=False), f"http://{host}:{origin.port}/")
    assert error.code == "download-file-error"
    assert origin.received == []


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "/a.png",
        "//127.0.0.1/a.png",
        "file:///etc/passwd",
        "ftp://x.example/a",
        "data:image/png;base64,AAAA",
        "gopher://x.example/",
        "http://",
        "http:///a.png",
        "http://:80/",
        "http://[::1/",
        "http://x.example:99999/",
        "http://x.example:port/",
        "http://user@x.example/",
        "http://user:pass@x.example/",
        "http://:@x.example/",
        "http://x.example\\@127.0.0.1/",
        "http://x.example:22/",
        "http://x.example:8080/",
    ],
)
async def test_address_that_may_not_be_asked_is_refused(address: str) -> None:
    """By scheme, form, login or port, and before any look-up; no error of another kind."""
    fetching = fetcher(80, names={})
    error = await refusal(fetching, address)
    assert error.status in {400, 500}


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example", "xn--a", "nowhere.invalid"])
async def test_name_that_cannot_be_resolved_is_an_error_of_the_origin(host: str) -> None:
    """500, as pict-rs has it."""
    error = await refusal(fetcher(80), f"http://{host}/")
    assert (error.status, error.code) == (500, "download-file-error")


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["::1"], ["fe80::1%eth0"]]
)
async def test_name_with_any_private_address_is_refused(addresses: list[str]) -> None:
    """One among public ones is enough."""
    fetching = fetcher(80, inside=False, names={"x.example": [addresses]})
    error = await refusal(fetching, "http://x.example/")
    assert (error.status, str(error)) == (400, "Proxy url resolves to local address")


async def test_name_that_moves_inside_is_refused_when_it_does(origin: FakeServer) -> None:
    """The connection goes to what was checked, so there is one look-up, and each is checked."""
    names = {"x.example": [["127.0.0.1"], ["10.0.0.1"]]}
    fetching = fetcher(origin.port, names=names)
    address = f"http://x.example:{origin.port}/a"
    with ExitStack() as opened:
        await fetching.fetch(address, opened)
        with pytest.raises(DownloadFailed, match="local address"):
            await fetching.fetch(address, opened)
    await fetching.aclose()
    (received,) = origin.received
    assert received.headers["Host"] == f"x.example:{origin.port}"


async def test_each_fetch_looks_up_once(origin: FakeServer) -> None:
    """A second look-up could answer otherwise."""
    resolver = FakeResolver({"x.example": [["127.0.0.1"]]})
    settings = FetchSettings(allow_ports=[origin.port], allow_networks=LOOPBACK)
    fetching = Fetcher(settings, max_file_bytes=LIMIT_BYTES, resolver=resolver)
    with ExitStack() as opened:
        for _ in range(2):
            await fetching.fetch(f"http://x.example:{origin.port}/", opened)
    await fetching.aclose()
    assert resolver.asked == ["x.example", "x.example"]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("/a%2Bb%2Fc%27d%25e%28f?x=%2B%2F%27%25%28", "/a%2Bb%2Fc%27d%25e%28f?x=%2B%2F%27%25%28"),
        ("/a+b?c+d=e+f", "/a+b?c+d=e+f"),
        ("/a b?c d", "/a%20b?c%20d"),
        ("/é?é", "/%C3%A9?%C3%A9"),
        ("/%c3%A9", "/%c3%A9"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("//a//b", "//a//b"),
        ("/a?url=http://x/?y=z&w", "/a?url=http://x/?y=z&w"),
        ("/a'b(c)*!;=@:$,~", "/a'b(c)*!;=@:$,~"),
        ("/a#fragment", "/a"),
        ('/a"b<c>d|e\\f^g`h{i}', "/a%22b%3Cc%3Ed%7Ce%5Cf%5Eg%60h%7Bi%7D"),
        ("", "/"),
        ("?a=b", "/?a=b"),
    ],
)
async def test_address_reaches_the_origin_as_it_was_made(
    address: str, target: str, origin: FakeServer
) -> None:
    """Signed links break when an escape is rewritten."""
    await fetch(fetcher(origin.port), f" {origin.url}{address} ")
    assert [r.target for r in origin.received] == [target]


async def test_origin_learns_nothing_but_our_name(origin: FakeServer) -> None:
    """No header of a user, no cookie, no wish for an encoding."""
    await fetch(fetcher(origin.port), f"HTTP://127.0.0.1:{origin.port}/")
    (received,) = origin.received
    assert {name.lower() for name in received.headers} == {
        "host",
        "accept",
        "accept-encoding",
        "user-agent",
        "connection",
    }
    assert received.headers["Accept-Encoding"] == "identity"
    assert received.headers["User-Agent"].startswith("safety-proxy/")


def redirecting(*locations: str, status: int = 302) -> object:
    """An origin that sends `/0` to the first location, `/1` to the next, and serves all else."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        name = received.target.rpartition("/")[2]
        if name.isdecimal() and int(name) < len(locations):
            return web.Response(
                status=status,
                headers={"Location": locations[int(name)], "Content-Type": "application/json"},
                body=b"not this",
            )
        return web.Response(body=received.target.encode())

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(status: int, origin: FakeServer) -> None:
    """Absolute and relative; the last answer is the picture."""
    locations = (f"{origin.url}/x/1", "2", "/y?a=%2B%27")
    origin.answer = redirecting(*locations, status=status)  # type: ignore[assignment]
    assert await fetch(fetcher(origin.port), f"{origin.url}/0") == b"/y?a=%2B%27"
    assert [r.target for r in origin.received] == ["/0", "/x/1", "/x/2", "/y?a=%2B%27"]


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data",
        "//10.0.0.1/",
        "file:///etc/passwd",
        "ftp://x.example/",
        "http://user:pass@127.0.0.1/",
        "http://127.0.0.1:22/",
        "http://127.1/",
        "http://[nonsense/",
        "http://private.example/",
    ],
)
async def test_redirect_passes_the_same_checks(location: str, origin: FakeServer) -> None:
    """What may not be asked may not be led to."""
    origin.answer = redirecting(location)  # type: ignore[assignment]
    names = {"private.example": [["10.0.0.1"]]}
    error = await refusal(fetcher(origin.port, names=names), f"{origin.url}/0")
    assert error.code == "download-file-error"
    assert len(origin.received) == 1


async def test_redirects_are_bounded(origin: FakeServer) -> None:
    """A loop, and a chain one longer than allowed; one that is just not is followed."""
    for length, loops in ((1, True), (MAX_REDIRECTS + 1, False)):
        chain = ["/0"] if loops else [f"/{n + 1}" for n in range(length)]
        origin.answer = redirecting(*chain)  # type: ignore[assignment]
        error = await refusal(fetcher(origin.port), f"{origin.url}/0")
        assert "too many redirects" in str(error)
    origin.received.clear()
    origin.answer = redirecting(*[f"/{n + 1}" for n in range(MAX_REDIRECTS)])  # type: ignore[assignment]
    assert await fetch(fetcher(origin.port), f"{origin.url}/0") == b"/5"
    assert len(origin.received) == MAX_REDIRECTS + 1


async def test_redirect_without_an_address_ends(origin: FakeServer) -> None:
    """It leads nowhere new."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=302)

    origin.answer = answer
    await refusal(fetcher(origin.port), f"{origin.url}/0")


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 403, 404, 410, 429, 500, 503])
async def test_answer_that_is_no_200_is_an_error_close_to_pictrs_own(
    status: int, origin: FakeServer
) -> None:
    """500 `download-file-error`, with the origin's status in the text."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=status)

    origin.answer = answer
    error = await refusal(fetcher(origin.port), f"{origin.url}/a")
    assert (error.status, error.code) == (500, "download-file-error")
    assert str(status) in str(error)


@pytest.mark.parametrize("length", [True, False])
async def test_size_is_counted_while_it_arrives(
    *,
    length: bool,
    origin: FakeServer,
) -> None:
    """With a length told or none; exactly the limit passes, and an endless answer ends."""

    async def endless(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        size = LIMIT_BYTES if received.target == "/exact" else 10**9
        response = web.StreamResponse(headers={"Content-Length": str(size)} if length else {})
        await response.prepare(request)
        for _ in range(size // 1000):
            await response.write(bytes(1000))
        return response

    origin.answer = endless
    assert len(await fetch(fetcher(origin.port), f"{origin.url}/exact")) == LIMIT_BYTES
    error = await refusal(fetcher(origin.port), f"{origin.url}/endless")
    assert "larger than size limit" in str(error)


async def test_encoded_answer_is_refused(origin: FakeServer) -> None:
    """Unpacked it might be a bomb, packed it is no picture; nobody asked for it."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

    origin.answer = answer
    assert "encoding" in str(await refusal(fetcher(origin.port), f"{origin.url}/"))


async def test_slow_origin_is_given_up(origin: FakeServer) -> None:
    """Before the answer and within it."""

    async def stall(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        if received.target == "/begun":
            await response.prepare(request)
            await response.write(b"x")
        await asyncio.Event().wait()
        return response

    origin.answer = stall
    for target in ("/silent", "/begun"):
        fetching = fetcher(origin.port, total_seconds=0.1)
        assert "too long" in str(await refusal(fetching, origin.url + target))


async def test_answer_cut_short_is_no_picture(origin: FakeServer) -> None:
    """Half a picture is not judged."""

    async def cut(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    origin.answer = cut
    assert "cannot be reached" in str(await refusal(fetcher(origin.port), f"{origin.url}/"))


@pytest.fixture
async def closed_port(origin: FakeServer) -> int:
    """A port where nothing listens any more."""
    port = origin.port
    await origin.stop()
    return port


async def test_origin_that_is_down_is_its_own_fault(closed_port: int) -> None:
    """500, without the system's text."""
    error = await refusal(fetcher(closed_port), f"http://127.0.0.1:{closed_port}/")
    assert (error.status, str(error)) == (
        500,
        "Unable to download image, the server cannot be reached",
    )


async def test_every_port_is_allowed_where_the_admin_lists_none(origin: FakeServer) -> None:
    """An empty list is no list."""
    settings = FetchSettings(allow_ports=[], allow_networks=LOOPBACK)
    assert await fetch(Fetcher(settings, max_file_bytes=LIMIT_BYTES), origin.url) == b"pict-rs"
