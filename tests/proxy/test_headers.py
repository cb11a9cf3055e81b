"""Tests of safety_proxy/proxy/headers.py: what passes on in each direction."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy

from safety_proxy.proxy import headers

NEVER = {
    "Authorization": "Bearer token",
    "Cookie": "jwt=token",
    "Set-Cookie": "a=b",
    "X-Forwarded-For": "1.2.3.4",
    "Forwarded": "for=1.2.3.4",
    "Connection": "keep-alive",
    "Keep-Alive": "timeout=5",
    "Proxy-Authorization": "x",
    "Proxy-Authenticate": "x",
    "Proxy-Connection": "x",
    "TE": "trailers",
    "Trailer": "X",
    "Transfer-Encoding": "chunked",
    "Upgrade": "h2c",
    "Expect": "100-continue",
    "Host": "x",
    "Server": "pict-rs",
    "X-Anything": "1",
}
TO_PICTRS = {
    "Accept": "*/*",
    "Content-Type": "application/json",
    "Range": "bytes=0-1",
    "If-Match": '"a"',
    "If-None-Match": '"a"',
    "If-Modified-Since": "x",
    "If-Unmodified-Since": "x",
    "If-Range": '"a"',
    "X-Api-Token": "key",
    "X-Request-Deadline": "1",
}
FROM_PICTRS = {
    "Accept-Ranges": "bytes",
    "Allow": "GET",
    "Cache-Control": "public",
    "Content-Disposition": "inline",
    "Content-Encoding": "gzip",
    "Content-Length": "3",
    "Content-Range": "bytes 0-1/2",
    "Content-Type": "image/png",
    "Date": "x",
    "ETag": '"a"',
    "Last-Modified": "x",
    "Location": "http://store/",
    "Retry-After": "1",
    "Vary": "Accept",
}


def sent(*parts: dict[str, str]) -> CIMultiDictProxy[str]:
    """Headers as they arrive, in odd spelling."""
    merged = {name.swapcase(): value for part in parts for name, value in part.items()}
    return CIMultiDictProxy(CIMultiDict(merged))


def test_request_passes_what_pictrs_reads_and_nothing_else() -> None:
    """Neither the user's session nor anything hop-by-hop."""
    assert headers.to_pictrs(sent(TO_PICTRS, NEVER)) == CIMultiDict(TO_PICTRS)


def test_upload_written_anew_passes_three_headers() -> None:
    """Conditions and content type of the client's request have no meaning for ours."""
    expected = {name: TO_PICTRS[name] for name in ("Accept", "X-Api-Token", "X-Request-Deadline")}
    assert headers.for_store(sent(TO_PICTRS, NEVER)) == CIMultiDict(expected)


def test_answer_passes_what_pictrs_answers_and_nothing_else() -> None:
    """And it names no version of a server."""
    expected = {**FROM_PICTRS, "Server": "safety-proxy"}
    assert headers.from_pictrs(sent(FROM_PICTRS, NEVER)) == CIMultiDict(expected)


@pytest.mark.parametrize(
    "connection", [["range, accept"], ["Range", "ACCEPT"], ["close ,RANGE,,"], ["accept", "range"]]
)
def test_header_named_by_connection_ends_here(connection: list[str]) -> None:
    """RFC 9110, 7.6.1, in one line or several."""
    arrived = CIMultiDict(TO_PICTRS)
    for line in connection:
        arrived.add("Connection", line)
    passed = headers.to_pictrs(CIMultiDictProxy(arrived))
    named = {name.strip().lower() for line in connection for name in line.split(",")}
    assert {name.lower() for name in TO_PICTRS} - {name.lower() for name in passed} == (
        named - {"", "close"}
    )


def test_answer_names_the_proxy_whatever_connection_says() -> None:
    """What the proxy itself adds cannot be taken away from outside."""
    passed = headers.from_pictrs(sent({"Connection": "server, etag", "ETag": '"a"'}))
    assert passed == CIMultiDict({"Server": "safety-proxy"})


def test_repeated_headers_stay_repeated() -> None:
    """In their order."""
    arrived = CIMultiDictProxy(CIMultiDict([("Vary", "a"), ("Vary", "b")]))
    assert headers.from_pictrs(arrived).getall("Vary") == ["a", "b"]


@pytest.mark.parametrize(
    ("arrived", "expected"),
    [
        ({}, False),
        ({"Content-Length": "0"}, False),
        ({"Content-Length": "1"}, True),
        ({"Transfer-Encoding": "chunked"}, True),
    ],
)
def test_body_is_announced_by_length_or_encoding(arrived: dict[str, str], expected: bool) -> None:  # noqa: FBT001 -- a table
    """RFC 9112, 6.3."""
    assert headers.has_body(CIMultiDict(arrived)) is expected


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("172.18.0.3", ["203.0.113.7, 10.0.0.1", "172.18.0.2:4711"], "203.0.113.7"),
        ("172.18.0.3", ["2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["<script>"], "127.0.0.1"),
        ("8.8.8.8", ["203.0.113.7"], "8.8.8.8"),
        (None, ["203.0.113.7"], ""),
    ],
)
def test_client_is_the_user_where_lemmy_names_one(
    peer: str | None, forwarded: list[str], client: str
) -> None:
    """From a private network, as Lemmy's; anybody else could name whom they like."""
    lines = CIMultiDict(("X-Forwarded-For", line) for line in forwarded)
    request = make_mocked_request("POST", "/image", lines)
    assert headers.client_address(request.clone(remote=peer or "")) == client
