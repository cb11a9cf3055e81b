"""What passes on, in each direction: allow lists, so that a header nobody thought of stays out.

Lemmy copies the browser's headers, `Authorization` and `Cookie` with the user's live session among
them; hop-by-hop headers (RFC 9110, 7.6.1) and whatever `Connection` names end here as well.
"""

from collections.abc import Mapping
from ipaddress import ip_address

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

# Instead of aiohttp's own, which tells versions.
SERVER = "safety-proxy"

# All that pict-rs reads. Content-Length is left to the client that sends the body on.
_TO_PICTRS = frozenset(
    {
        "accept",
        "content-type",
        "range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "if-range",
        "x-api-token",
        "x-request-deadline",
    }
)

# Of those, what has a meaning for an upload that is written anew.
_FOR_STORE = frozenset({"accept", "x-api-token", "x-request-deadline"})

# All that pict-rs answers with, and what its object store's redirect needs.
_FROM_PICTRS = frozenset(
    {
        "accept-ranges",
        "allow",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "location",
        "retry-after",
        "vary",
    }
)


def to_pictrs(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers of a request, as pict-rs gets them."""
    return _pass(headers, _TO_PICTRS)


def for_store(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers of a request that brought pictures, for the upload written in its place."""
    return _pass(headers, _FOR_STORE)


def from_pictrs(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers of an answer, as the client gets them."""
    passed = _pass(headers, _FROM_PICTRS)
    passed["Server"] = SERVER
    return passed


def _pass(headers: CIMultiDictProxy[str], allowed: frozenset[str]) -> CIMultiDict[str]:
    named = {
        name.strip().lower()
        for line in headers.getall("Connection", [])
        for name in line.split(",")
    }
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() in allowed and name.lower() not in named
    )


def client_address(request: web.BaseRequest) -> str:
    """Of the user, where Lemmy says it; else of the peer.

    Lemmy puts the user first in the first X-Forwarded-For line, and its own peer into another. A
    peer outside of private networks is no Lemmy, and could name anybody.
    """
    peer = request.remote or ""
    forwarded = request.headers.get("X-Forwarded-For", "").partition(",")[0].strip()
    try:
        user = str(ip_address(forwarded))
        return user if ip_address(peer).is_private else peer
    except ValueError:
        return peer


def has_body(headers: Mapping[str, str]) -> bool:
    """Whether a request brings one (RFC 9112, 6.3)."""
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"
