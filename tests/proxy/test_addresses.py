"""Tests of safety_proxy/proxy/addresses.py, and that the fetcher keeps to it: no way inside."""

import socket
from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.proxy.addresses import IPAddress, is_allowed, is_port_allowed, literal
from safety_proxy.proxy.fetch import Validators
from tests.fakes import FakeServer
from tests.proxy.test_fetch import (
    FakeResolver,
    ask,
    fetch,
    fetcher,
    raw_origin,
    redirecting,
    refusal,
)

LOCAL = "Proxy url resolves to local address"
INVALID = "Unable to download image, invalid url"
PORT = "Unable to download image, port not allowed"

# What a server answers that must not be asked.
INSIDE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ninside"

# The first and last address of every range that is not global unicast, and what hides in others.
REFUSED = """
0.0.0.0 0.1.2.3 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255
127.0.0.0 127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 169.254.255.255
172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.9 192.0.0.10 192.0.0.170 192.0.0.192 192.0.0.255
192.0.2.0 192.0.2.255 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.0 192.168.255.255
192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255
224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::1.1.1.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
::ffff:0.0.0.0 ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b::1.1.1.1 64:ff9b:1::1 64:ff9b:1:ffff::1
100::1 100:0:0:1::1 1fff:ffff::1 2001::1 2001:0:ffff::1 2001:1::1 2001:2::1 2001:3::1 2001:4:112::1
2001:10::1 2001:1f:ffff::1 2001:20::1 2001:2f:ffff::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1
2001:db8:ffff::1 2002:7f00:1:: 2002:a00:1::1 2002:101:101::1 2002:ffff:ffff::1 2620:4f:8000::1
3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 5fff::1 8000::1 fc00::1 fd00:ec2::254 fd12:3456::1 fdff::1
fe00::1 fe80::1 fe80::1%1 febf::1 fec0::1 feff::1 ff00::1 ff02::1 ff0e::1 2606:4700::1111%eth0
ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
""".split()  # noqa: SIM905 -- a list literal would take 100 lines

# The neighbors of those ranges, and servers that everybody knows.
ALLOWED = """
1.0.0.0 1.1.1.1 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255
128.0.0.0 168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0
191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255 192.167.255.255 192.169.0.0 198.17.255.255
198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 ::ffff:1.1.1.1
2001:200::1 2001:4860:4860::8888 2001:db7::1 2001:db9::1 2003::1 2606:4700:4700::1111
2620:4f:7fff::1 2a00:1450::1 3ffe::1 3fff:1000::1
""".split()  # noqa: SIM905 -- as above


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_global_unicast_is_refused(address: str) -> None:
    """At the edges of each range, and hidden in IPv6 in any way."""
    assert not is_allowed(ip_address(address))


@pytest.mark.parametrize("address", ALLOWED)
def test_global_unicast_is_allowed(address: str) -> None:
    """Up to the edges of what is not."""
    assert is_allowed(ip_address(address))


@given(address=st.ip_addresses())
def test_interpreter_knows_no_other_private_address(address: IPAddress) -> None:
    """A registry that has grown since this list was made shows up here with a newer Python."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if is_allowed(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@pytest.mark.parametrize(
    ("address", "network", "allowed"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("127.0.0.1", "127.0.0.1/32", True),
        ("127.0.0.2", "127.0.0.1/32", False),
        ("192.168.1.1", "10.0.0.0/8", False),
        ("::ffff:192.168.1.1", "10.0.0.0/8", False),
        ("64:ff9b::a01:203", "10.0.0.0/8", False),
        ("2002:a01:203::", "10.0.0.0/8", False),
        ("::10.1.2.3", "10.0.0.0/8", False),
        ("fd00::1", "fd00::/8", True),
        ("fd00::1%eth0", "fd00::/8", False),
        ("fc00::1", "fd00::/8", False),
        ("64:ff9b::101:101", "64:ff9b::/96", True),
        ("::1", "127.0.0.0/8", False),
        ("::1", "::1/128", True),
        ("1.1.1.1", "10.0.0.0/8", True),
    ],
)
def test_admin_can_allow_a_network(address: str, network: str, allowed: bool) -> None:  # noqa: FBT001 -- a table
    """That one, and no other; what is public stays allowed."""
    assert is_allowed(ip_address(address), [ip_network(network)]) is allowed


def test_ports_are_those_that_are_listed() -> None:
    """None listed: all are."""
    assert is_port_allowed(80, [80, 443])
    assert not is_port_allowed(8080, [80, 443])
    assert is_port_allowed(8080, [])


@pytest.mark.parametrize("host", ["1.1.1.1", "127.0.0.1", "::1", "2606:4700::1", "::ffff:1.2.3.4"])
def test_address_in_its_usual_form_is_a_literal(host: str) -> None:
    """Whether it may be asked is another question."""
    assert literal(host) == ip_address(host)


@pytest.mark.parametrize(
    "host", ["x", "x.example", "1.example", "127.0.0.1.nip.io", "0xg", "a1", "xn--1"]
)
def test_name_is_no_literal(host: str) -> None:
    """Also where it holds numbers, as long as its last label is none."""
    assert literal(host) is None
    assert literal(host + ".") is None


@pytest.mark.parametrize(
    "host",
    ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "fe80::1%eth0", "::1%lo", "a:b"],
)
def test_address_in_another_form_is_an_error(host: str) -> None:
    """What it means depends on who reads it."""
    with pytest.raises(ValueError, match="address"):
        literal(host)


# Hosts in every spelling that some reader takes for loopback, and what is said of each.
LOOPBACK_SPELLINGS = [
    ("127.0.0.1", LOCAL, "plain"),
    ("127.0.0.2", LOCAL, "another of its network"),
    ("127.255.255.254", LOCAL, "the last of its network"),
    ("0.0.0.0", LOCAL, "any address"),
    ("[::1]", LOCAL, "IPv6"),
    ("[::]", LOCAL, "any address in IPv6"),
    ("[0:0:0:0:0:0:0:1]", LOCAL, "IPv6 in full"),
    ("[0000::0001]", LOCAL, "IPv6 with zeros"),
    ("[::ffff:127.0.0.1]", LOCAL, "mapped"),
    ("[::ffff:7f00:1]", LOCAL, "mapped in hexadecimal"),
    ("[::FFFF:7F00:0001]", LOCAL, "mapped in capitals"),
    ("[0:0:0:0:0:ffff:7f00:1]", LOCAL, "mapped in full"),
    ("[::ffff:0.0.0.0]", LOCAL, "any address, mapped"),
    ("[::127.0.0.1]", LOCAL, "compatible"),
    ("[64:ff9b::127.0.0.1]", LOCAL, "NAT64"),
    ("[64:ff9b:1::7f00:1]", LOCAL, "NAT64 for local use"),
    ("[2002:7f00:1::]", LOCAL, "6to4"),
    ("[2001:0:7f00:1::]", LOCAL, "Teredo"),
    ("[::1%25lo]", INVALID, "zone"),
    ("[::1%lo]", INVALID, "zone, not escaped"),
    ("[fe80::1%251]", INVALID, "link-local with a zone"),
    ("[::1", INVALID, "bracket not closed"),
    ("[127.0.0.1]", INVALID, "IPv4 in brackets"),
    ("[localhost]", INVALID, "name in brackets"),
    ("[v1.::1]", INVALID, "address of the future"),
    ("[::1].x.example", INVALID, "name after brackets"),
    ("x.example[::1]", INVALID, "name before brackets"),
    ("::1", INVALID, "no brackets"),
    ("127.1", INVALID, "two parts"),
    ("127.0.1", INVALID, "three parts"),
    ("127.0.0.0.1", INVALID, "five parts"),
    ("2130706433", INVALID, "one number"),
    ("017700000001", INVALID, "one octal number"),
    ("0x7f000001", INVALID, "one hexadecimal number"),
    ("0X7F.1", INVALID, "capital hexadecimal"),
    ("0x7f.1", INVALID, "hexadecimal, two parts"),
    ("0x7f.0x0.0x0.0x1", INVALID, "four hexadecimal parts"),
    ("0177.0.0.1", INVALID, "octal part"),
    ("0177.0000.0000.0001", INVALID, "four octal parts"),
    ("127.000.000.001", INVALID, "leading zeros"),
    ("127.0.0.0x1", INVALID, "hexadecimal at the end"),
    ("127.0.0.1.", INVALID, "dot at the end"),
    ("127.0.0.1..", INVALID, "two dots at the end"),
    ("127..1", INVALID, "empty part"),
    (".127.0.0.1", INVALID, "dot at the start"),
    ("0", INVALID, "nought"),
    ("0x", INVALID, "nothing, in hexadecimal"),
    ("4294967295", INVALID, "the largest number"),
    ("340282366920938463463374607431768211455", INVALID, "a larger number"),
    ("127.0.0.%31", INVALID, "escaped digit"),
    ("%31%32%37.0.0.1", INVALID, "escaped number"),
    ("127%2E0%2E0%2E1", INVALID, "escaped dots"),
    ("127%E3%80%820.0.1", INVALID, "escaped full stop of Chinese"),
    ("%6cocalhost", INVALID, "escaped letter"),
    ("%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1", INVALID, "escaped full-width digits"),
    ("127.0.0.1%00.x.example", INVALID, "escaped NUL"),
    ("127.0.0.1%2f@x.example", INVALID, "escaped slash"),
    ("127。0。0。1", LOCAL, "full stops of Chinese"),
    ("127\uff0e0\uff0e0\uff0e1", LOCAL, "full-width dots"),
    ("①②⑦.⓪.⓪.①", LOCAL, "circled digits"),
    ("\uff11\uff12\uff17.0.0.1", LOCAL, "full-width digits"),
    (
        "\U0001d7cf\U0001d7d0\U0001d7d5.\U0001d7ce.\U0001d7ce.\U0001d7cf",
        LOCAL,
        "mathematical digits",
    ),
    ("¹²⁷.⁰.⁰.¹", LOCAL, "raised digits"),
    ("①②⑦.①", INVALID, "circled digits, two parts"),
    ("\uff10\uff58\uff17\uff46.1", INVALID, "full-width hexadecimal"),
    ("١٢٧.0.0.1", INVALID, "Arabic digits"),
    ("127.0.0.1\u3002", INVALID, "full stop of Chinese at the end"),
    ("12\u200b7.0.0.1", INVALID, "space without width inside"),
    ("127.0.0.1\u00ad", INVALID, "soft hyphen"),
    ("127.0\t.0.1", INVALID, "tab inside"),
    ("127.0.\n0.1", INVALID, "line feed inside"),
    ("127.0.0.1\r", INVALID, "carriage return"),
    ("127.0.0.1\x00", INVALID, "NUL"),
    ("127.0.0.1 ", INVALID, "blank after"),
    (" 127.0.0.1", INVALID, "blank before"),
    ("127.0.0.1\u00a0", INVALID, "other blank"),
    ("localhost", LOCAL, "name"),
    ("LOCALHOST", LOCAL, "name in capitals"),
    ("localhost..", INVALID, "name with two dots"),
    ("ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", LOCAL, "name in circles"),
    ("\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", LOCAL, "full-width name"),
    ("local\u00adhost", INVALID, "name with a soft hyphen"),
    ("public@127.0.0.1", INVALID, "login before"),
    ("public:pw@127.0.0.1", INVALID, "login with a password"),
    ("@127.0.0.1", INVALID, "empty login"),
    (":@127.0.0.1", INVALID, "empty login and password"),
    ("127.0.0.1@x.example", INVALID, "as a login"),
    ("x.example:80@127.0.0.1", INVALID, "name as a login"),
    ("x.example\\@127.0.0.1", INVALID, "backslash"),
    ("127.0.0.1\\.x.example", INVALID, "backslash after"),
    ("\\127.0.0.1", INVALID, "backslash before"),
    ("127.0.0.1\uff0fx.example", INVALID, "full-width slash"),
    ("127.0.0.1\uff03x.example", INVALID, "full-width number sign"),
    ("x.example\uff20127.0.0.1", INVALID, "full-width at sign"),
]


@pytest.mark.parametrize(
    ("host", "reason"),
    [pytest.param(host, reason, id=name) for host, reason, name in LOOPBACK_SPELLINGS],
)
async def test_no_spelling_of_loopback_is_reached(host: str, reason: str) -> None:
    """With the system's own resolver; only the form or the address can be the reason."""
    async with raw_origin(INSIDE) as inside:
        address = f"http://{host}:{inside.port}/"
        error = await refusal(fetcher(inside.port, networks=[]), address)
        assert (error.status, str(error)) == (400, reason)
        assert await fetch(fetcher(inside.port), inside.url) == b"inside"  # it would have answered
        assert inside.connections == 1


ADDRESSES = [
    ("", INVALID),
    (" ", INVALID),
    ("nonsense", INVALID),
    ("x.example/a.png", INVALID),
    ("/a.png", INVALID),
    ("//x.example/a.png", INVALID),
    ("\\\\x.example\\a.png", INVALID),
    ("file:///etc/passwd", INVALID),
    ("file://x.example/etc/passwd", INVALID),
    ("ftp://x.example/a", INVALID),
    ("gopher://x.example/_GET", INVALID),
    ("dict://x.example:11211/stat", INVALID),
    ("ws://x.example/", INVALID),
    ("unix:///run/docker.sock", INVALID),
    ("data:image/png;base64,AAAA", INVALID),
    ("javascript:alert(1)", INVALID),
    ("view-source:http://x.example/", INVALID),
    ("http", INVALID),
    ("http:", INVALID),
    ("http:/x.example", INVALID),
    ("http:x.example", INVALID),
    ("http:\\\\x.example", INVALID),
    ("http://", INVALID),
    ("http:///a.png", INVALID),
    ("http:////x.example/", INVALID),
    ("http://:80/", INVALID),
    ("http://?a", INVALID),
    ("http://#x.example", INVALID),
    ("http://./", INVALID),
    ("http://../", INVALID),
    ("http://[]/", INVALID),
    ("http://[::1/", INVALID),
    ("http://[:::1]/", INVALID),
    ("ht\ttp://x.example/", INVALID),
    ("http\u200b://x.example/", INVALID),
    ("http://x.example/a\tb", INVALID),
    ("http://x.example/a\r\nHost: y", INVALID),
    ("http://x.example/\x00", INVALID),
    ("http://x.example/\ud800", INVALID),
    ("http://x\ud800.example/", INVALID),
    ("http://x example/", INVALID),
    ("http://x..example/", INVALID),
    ("http://*.example/", INVALID),
    ("http://x.example,y.example/", INVALID),
    ("http://" + "a" * 64 + ".example/", INVALID),
    ("http://" + "a." * 127 + "example/", INVALID),
    ("http://" + "é" * 5000 + ".example/", INVALID),
    ("http://user@x.example/", INVALID),
    ("http://user:pass@x.example/", INVALID),
    ("http://@x.example/", INVALID),
    ("http://x.example:port/", INVALID),
    ("http://x.example:80:80/", INVALID),
    ("http://x.example:-80/", INVALID),
    ("http://x.example:+80/", INVALID),
    ("http://x.example:8_0/", INVALID),
    ("http://x.example: 80/", INVALID),
    ("http://x.example:\uff18\uff10/", INVALID),
    ("http://x.example:0/", INVALID),
    ("http://x.example:65536/", INVALID),
    ("http://x.example:70000/", INVALID),
    ("http://x.example:4294967376/", INVALID),
    ("http://x.example:22/", PORT),
    ("http://x.example:8080/", PORT),
    ("https://x.example:8443/", PORT),
    ("http://10.0.0.1:22/", PORT),
    ("http://10.0.0.1/", LOCAL),
    ("https://192.168.0.1/", LOCAL),
    ("http://169.254.169.254/latest/meta-data/", LOCAL),
    ("http://[fd00:ec2::254]/latest/meta-data/", LOCAL),
    ("http://168.63.129.16/machine", LOCAL),
    ("http://100.100.100.200/latest/meta-data/", LOCAL),
    ("http://[fe80::1]/", LOCAL),
    ("http://[ff02::1]/", LOCAL),
    ("http://255.255.255.255/", LOCAL),
]


@pytest.mark.parametrize(("address", "reason"), ADDRESSES)
async def test_address_that_may_not_be_asked_is_refused(address: str, reason: str) -> None:
    """By its form, port or host, and before any look-up."""
    resolver = FakeResolver({"x.example": [["127.0.0.1"]]})
    error = await refusal(fetcher(80, 443, networks=[], names=resolver), address)
    assert (error.status, str(error)) == (400, reason)
    assert resolver.asked == []


async def test_port_nought_is_never_asked() -> None:
    """Not even where all ports are allowed."""
    assert str(await refusal(fetcher(), "http://127.0.0.1:0/")) == INVALID


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["0.0.0.0"],
        ["1.1.1.1", "10.0.0.1"],
        ["10.0.0.1", "1.1.1.1"],
        ["2606:4700::1111", "1.1.1.1", "127.0.0.1"],
        ["::1"],
        ["fc00::1"],
        ["fe80::1%eth0"],
        ["2606:4700::1111%eth0"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2606:4700::1111", "::1"],
    ],
)
async def test_name_with_any_private_address_is_refused(addresses: list[str]) -> None:
    """One among public ones is enough, in any place, and also where there is IPv6 only."""
    async with raw_origin(INSIDE) as inside:
        resolver = FakeResolver({"x.example": [addresses]})
        fetching = fetcher(inside.port, networks=[], names=resolver)
        error = await refusal(fetching, f"http://x.example:{inside.port}/")
        assert (error.status, str(error)) == (400, LOCAL)
        assert resolver.asked == ["x.example"]
        assert await fetch(fetcher(inside.port), inside.url) == b"inside"
        assert inside.connections == 1


# From here on 127.0.0.1 stands for the internet, and 127.0.0.2 for what lies inside.
OUTSIDE_ONLY = [ip_network("127.0.0.1/32")]


REDIRECTS = [
    ("http://127.0.0.2:{inside}/", LOCAL),
    ("//127.0.0.2:{inside}/", LOCAL),
    ("HTTP://127.0.0.2:{inside}", LOCAL),
    ("http://[::ffff:127.0.0.2]:{inside}/", LOCAL),
    ("http://①②⑦.⓪.⓪.②:{inside}/", LOCAL),
    ("http://inside.example:{inside}/", LOCAL),
    ("http://mixed.example:{inside}/", LOCAL),
    ("http://localhost.:{inside}/", LOCAL),
    ("http://127.0.0.2:{inside}/internal/purge?alias=x", LOCAL),
    ("http://169.254.169.254:{inside}/latest/meta-data", LOCAL),
    ("http://[::1]:{inside}/", LOCAL),
    ("//10.0.0.1:{inside}/", LOCAL),
    ("http://127.2:{inside}/", INVALID),
    ("http://2130706434:{inside}/", INVALID),
    ("http://0x7f.2:{inside}/", INVALID),
    ("http://127.0.0.%32:{inside}/", INVALID),
    ("http://127.0.0.2.:{inside}/", INVALID),
    ("http://[::ffff:127.0.0.2%25lo]:{inside}/", INVALID),
    ("http://user:pw@127.0.0.2:{inside}/", INVALID),
    ("http://user:pw@127.0.0.1:{origin}/", INVALID),
    ("http://127.0.0.1:{origin}@127.0.0.2:{inside}/", INVALID),
    ("http://127.0.0.2:{inside}\\@127.0.0.1:{origin}/", INVALID),
    ("/\t/127.0.0.2:{inside}/", INVALID),
    ("file:///etc/passwd", INVALID),
    ("ftp://127.0.0.2:{inside}/", INVALID),
    ("gopher://127.0.0.2:{inside}/_GET", INVALID),
    ("data:image/png;base64,AAAA", INVALID),
    ("https:/127.0.0.2:{inside}/", INVALID),
    ("http://[nonsense/", INVALID),
    ("http://127.0.0.1:0/", INVALID),
    ("http://127.0.0.1:99999/", INVALID),
    ("http://127.0.0.1:22/", PORT),
    ("http://127.0.0.1:8580/image/original?proxy=x", PORT),  # the proxy itself
    ("//127.0.0.1/", PORT),
]


@pytest.mark.parametrize(("location", "reason"), REDIRECTS)
async def test_redirect_passes_the_same_checks(
    location: str, reason: str, origin: FakeServer
) -> None:
    """What may not be asked may not be led to, and what lies there is not reached."""
    names = {
        "inside.example": [["127.0.0.2"]],
        "mixed.example": [["127.0.0.1", "127.0.0.2"]],
        "localhost.": [["127.0.0.2"]],
    }
    async with raw_origin(INSIDE, host="127.0.0.2") as inside:
        ports = (origin.port, inside.port)
        origin.answer = redirecting(location.format(inside=inside.port, origin=origin.port))
        fetching = fetcher(*ports, networks=OUTSIDE_ONLY, names=names)
        error = await refusal(fetching, f"{origin.url}/0")
        assert (error.status, str(error)) == (400, reason)
        assert len(origin.received) == 1
        assert await fetch(fetcher(*ports), inside.url) == b"inside"  # it would have answered
        assert inside.connections == 1


async def test_way_through_the_inside_is_refused(origin: FakeServer) -> None:
    """Also where it leads out again."""
    back = f"HTTP/1.1 302 Found\r\nLocation: {origin.url}/a\r\nContent-Length: 0\r\n\r\n"
    async with raw_origin(back.encode(), host="127.0.0.2") as inside:
        origin.answer = redirecting(inside.url)
        ports = (origin.port, inside.port)
        error = await refusal(fetcher(*ports, networks=OUTSIDE_ONLY), f"{origin.url}/0")
        assert (str(error), inside.connections) == (LOCAL, 0)
        assert await fetch(fetcher(*ports), f"{origin.url}/0") == b"/a"
        assert inside.connections == 1


async def test_each_connection_is_one_look_up_and_goes_to_what_it_said(
    origin: FakeServer,
) -> None:
    """A second look-up could answer otherwise; Host stays the name."""
    resolver = FakeResolver({"x.example": [["127.0.0.1"]]})
    fetching = fetcher(origin.port, names=resolver)
    for _ in range(2):
        await ask(fetching, f"http://X.example:{origin.port}/")
    await fetching.aclose()
    assert resolver.asked == ["x.example"] * 2
    assert [r.headers["Host"] for r in origin.received] == [f"x.example:{origin.port}"] * 2


@pytest.mark.parametrize("first", [INSIDE, b""], ids=["answer", "hang up"])
async def test_name_that_moves_inside_is_refused_when_it_does(first: bytes) -> None:
    """At the next fetch, and where aiohttp tries again because the first connection broke."""
    async with raw_origin(first) as outside, raw_origin(INSIDE, host="127.0.0.2") as inside:
        resolver = FakeResolver({"x.example": [["127.0.0.1"], ["127.0.0.2"]]})
        fetching = fetcher(networks=OUTSIDE_ONLY, names=resolver)
        address = f"http://x.example:{outside.port}/"
        if first:
            assert await ask(fetching, address) == (b"inside", Validators())
        assert str(await refusal(fetching, address)) == LOCAL
        assert resolver.asked == ["x.example"] * 2
        assert (outside.connections, inside.connections) == (1, 0)


async def test_name_that_moves_inside_between_redirects_is_refused(origin: FakeServer) -> None:
    """Each step is a connection of its own, and so a look-up of its own."""
    origin.answer = redirecting("/1", "/2")
    resolver = FakeResolver({"x.example": [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]})
    fetching = fetcher(networks=OUTSIDE_ONLY, names=resolver)
    assert str(await refusal(fetching, f"http://x.example:{origin.port}/0")) == LOCAL
    assert resolver.asked == ["x.example"] * 3
    assert [r.target for r in origin.received] == ["/0", "/1"]


@pytest.mark.parametrize(
    ("network", "host"),
    [
        ("127.0.0.1/32", "127.0.0.1"),
        ("127.0.0.0/8", "127.0.0.1"),
        ("0.0.0.0/0", "127.0.0.1"),
        ("127.0.0.1/32", "①②⑦.⓪.⓪.①"),
        ("127.0.0.1/32", "x.example"),
        ("127.0.0.1/32", "mapped.example"),
        ("127.0.0.1/32", "[::ffff:127.0.0.1]"),
        ("127.0.0.1/32", "[::ffff:7f00:1]"),
    ],
)
async def test_network_that_the_admin_allows_is_fetched_from(
    network: str, host: str, origin: FakeServer
) -> None:
    """In every usual spelling; without the setting it is refused."""
    if "mapped" in host or ":" in host:
        needs_ipv6()
    names = {"x.example": [["127.0.0.1"]], "mapped.example": [["::ffff:127.0.0.1"]]}
    address = f"http://{host}:{origin.port}/"
    allowing = fetcher(origin.port, networks=[ip_network(network)], names=names)
    assert await fetch(allowing, address) == b"pict-rs"
    assert str(await refusal(fetcher(origin.port, networks=[], names=names), address)) == LOCAL
    assert len(origin.received) == 1


@pytest.mark.parametrize("host", ["[::1]", "[0::0:1]", "x.example"])
async def test_server_with_ipv6_only_is_fetched_from(host: str) -> None:
    """Where it may be."""
    needs_ipv6()
    async with raw_origin(INSIDE, host="::1") as origin:
        address = f"http://{host}:{origin.port}/"
        for network in (ip_network("::1/128"), ip_network("127.0.0.0/8")):
            fetching = fetcher(networks=[network], names={"x.example": [["::1"]]})
            if network.version == 6:
                assert await fetch(fetching, address) == b"inside"
            else:
                assert str(await refusal(fetching, address)) == LOCAL
    assert origin.connections == 1


def needs_ipv6() -> None:
    """Skips the test on a machine without."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")


@pytest.mark.parametrize(
    ("name", "ascii_name"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("my_bucket.example", "my_bucket.example"),
        ("x.example.", "x.example."),
    ],
)
async def test_names_of_all_scripts_are_fetched(
    name: str, ascii_name: str, origin: FakeServer
) -> None:
    """They are looked up and sent in ASCII."""
    fetching = fetcher(origin.port, names={ascii_name: [["127.0.0.1"]]})
    assert await fetch(fetching, f"http://{name}:{origin.port}/") == b"pict-rs"
    (received,) = origin.received
    assert received.headers["Host"] == f"{ascii_name.rstrip('.')}:{origin.port}"
