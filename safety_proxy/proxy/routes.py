"""The routes of pict-rs 0.5 and 0.6, and which of them can bring bytes in.

pict-rs decodes percent-escapes before it matches, so routes are matched on decoded segments, and
what is forwarded is written anew from them. What is not in the table is not passed on.
Source: pict-rs 0.5.25 `src/lib.rs`, `configure_endpoints`.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self
from urllib.parse import quote, unquote, unquote_to_bytes

from safety_proxy.errors import MalformedRequest, UnknownRoute


class Kind(Enum):
    """What a request does to pict-rs' store."""

    PASS = auto()  # stores nothing new: streamed through
    UPLOAD = auto()  # stores the files of its multipart body
    DOWNLOAD = auto()  # stores what lies at the address in its query
    PROXIED = auto()  # shows what lies at the address, and stores it if it is not known
    LOOKUP = auto()  # tells of what is known for the address, and fetches nothing
    FORGET = auto()  # removes what is known for the address


@dataclass(frozen=True, slots=True)
class _Row:
    methods: str
    path: str
    kind: Kind = Kind.PASS
    by_address: Kind | None = None  # what it is with `?proxy=`
    keys: str = ""  # of its query, where it passes; beside the source and operations of by_address


# `*` stands for any segment that is not empty, `process.*` for one that begins so.
_TABLE = (
    _Row("GET", "healthz"),
    _Row("POST", "image", Kind.UPLOAD),
    _Row("POST", "image/backgrounded", Kind.UPLOAD),
    _Row("GET", "image/backgrounded/claim", keys="upload_id"),
    _Row("GET", "image/download", Kind.DOWNLOAD),
    _Row("GET DELETE", "image/delete/*/*"),
    _Row("GET HEAD", "image/original/*"),
    _Row("GET", "image/original", by_address=Kind.PROXIED),
    _Row("HEAD", "image/original", by_address=Kind.LOOKUP),
    _Row("GET", "image/process.*", by_address=Kind.PROXIED),
    _Row("HEAD", "image/process.*", by_address=Kind.LOOKUP),
    _Row("GET", "image/process_backgrounded.*", by_address=Kind.LOOKUP),
    _Row("GET", "image/details/original", by_address=Kind.LOOKUP),
    _Row("GET", "image/details/original/*"),
    _Row("GET", "image/details/process.*", by_address=Kind.LOOKUP),
    _Row("GET", "image/blurhash", by_address=Kind.PROXIED),
    _Row("POST", "internal/import", Kind.UPLOAD),
    _Row("GET", "internal/hashes", keys="limit slug timestamp"),
    _Row("POST", "internal/purge", by_address=Kind.FORGET),
    _Row("POST", "internal/delete", by_address=Kind.FORGET),
    _Row("GET", "internal/aliases", by_address=Kind.LOOKUP),
    _Row("GET", "internal/identifier", by_address=Kind.LOOKUP),
    _Row("POST", "internal/set_not_found"),
    _Row("POST", "internal/prune_missing", keys="force"),
    _Row("DELETE", "internal/variants"),
    _Row("POST", "internal/export"),
    _Row("GET", "internal/limits"),  # 0.6
)

_OPERATIONS: Final = frozenset({"resize", "thumbnail", "crop", "blur", "identity"})

# Keys of an upload's query; any other makes pict-rs fail with 500 (3.2 of its surface).
_UPLOAD_KEYS: Final = _OPERATIONS | {
    "max_width",
    "max_height",
    "max_area",
    "max_frame_count",
    "max_file_size",
    "allow_image",
    "allow_animation",
    "allow_video",
}

_SOURCES: Final = frozenset({"src", "alias", "proxy"})

# A request line may name the server again (RFC 9112, 3.2.2).
_ABSOLUTE_FORM: Final = re.compile("^https?://[^/]*", re.IGNORECASE)

# An address that was put into the query as it is, as Lemmy 0.19 does; an encoded one has no `://`.
_RAW_ADDRESS: Final = re.compile("(?:^|&)proxy=(?P<rest>https?://.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """A request that pict-rs has a route for.

    method, path: what pict-rs is asked; the path is written anew, escaped, with a leading slash.
    query: of PASS what pict-rs reads of it, byte for byte; of all others written anew, without the
    address.
    address: of DOWNLOAD, PROXIED, LOOKUP and FORGET, as the client meant it.
    """

    kind: Kind
    method: str
    path: str
    query: str
    address: str = ""

    def by_alias(self, alias: str) -> Self:
        """The same about a stored picture."""
        query = write_query([("alias", alias)]) + (f"&{self.query}" if self.query else "")
        return type(self)(Kind.PASS, self.method, self.path, query)


def resolve(method: str, raw_path: str, raw_query: str) -> Route:
    """The route of a request line. Raises UnknownRoute, MalformedRequest.

    raw_path, raw_query: as they came, undecoded.
    """
    if not _is_text(raw_path + raw_query) or "#" in raw_query:
        raise MalformedRequest("The request line holds what no address may", code="invalid-query")
    raw_path = _ABSOLUTE_FORM.sub("", raw_path)
    segments = [unquote(segment) for segment in raw_path.split("/")[1:]]
    row = next(
        (row for row in _TABLE if method in row.methods.split() and _fits(row, segments)), None
    )
    if row is None:
        raise UnknownRoute("No such route")
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    if row.kind is Kind.UPLOAD:
        return Route(row.kind, method, path, _upload_query(parse_query(raw_query)))
    if row.kind is Kind.DOWNLOAD:
        return _download(raw_query)
    if row.by_address is not None:
        return _by_source(row.by_address, method, path, raw_query)
    return Route(row.kind, method, path, _only(row.keys.split(), raw_query))


def _is_text(raw: str) -> bool:
    """Whether it came as UTF-8; aiohttp keeps other bytes as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in raw)


def _fits(row: _Row, segments: list[str]) -> bool:
    pattern = row.path.split("/")
    return len(pattern) == len(segments) and all(map(_segment_fits, pattern, segments))


def _segment_fits(pattern: str, segment: str) -> bool:
    if segment in {".", ".."}:
        return False  # no name of anything, and some servers would fold the path over it
    if pattern.endswith("*"):
        return segment.startswith(pattern[:-1]) and len(segment) >= len(pattern)
    return pattern == segment


def _by_source(by_address: Kind, method: str, path: str, raw_query: str) -> Route:
    """The route of a request that names a picture by alias or by address."""
    pairs = _with_raw_address(path, raw_query) or parse_query(raw_query)
    sources = [(key, value) for key, value in pairs if key in _SOURCES]
    if len(sources) > 1:
        # A doubled source makes pict-rs fall through to the next kind of source.
        raise MalformedRequest("More than one source in the query", code="invalid-query")
    if not sources or sources[0][0] != "proxy":
        return Route(Kind.PASS, method, path, _only(_SOURCES | _OPERATIONS, raw_query))
    operations = write_query(pair for pair in pairs if pair[0] in _OPERATIONS)
    return Route(by_address, method, path, operations, sources[0][1])


def _with_raw_address(path: str, raw_query: str) -> list[tuple[str, str]] | None:
    """The pairs of a query that an address was put into as it is, None if it was not.

    Lemmy 0.19 does so in one call and encodes the address once in the next: both must meet, so
    nothing in it is decoded. If it has a query, then all that follows is part of that query: what
    looks like parameters was chosen by whoever made the address.
    """
    found = _RAW_ADDRESS.search(raw_query)
    if found is None:
        return None
    address, _, rest = found["rest"].partition("&")
    if "?" in address:
        address, rest = found["rest"], ""
        if path.startswith("/image/process."):  # the one place where Lemmy adds a parameter
            added = re.search("&thumbnail=[0-9]+$", address)
            address, rest = (address[: added.start()], added[0]) if added else (address, "")
    return [*parse_query(raw_query[: found.start()]), ("proxy", address), *parse_query(rest)]


def parse_query(raw_query: str) -> list[tuple[str, str]]:
    """Decoded pairs, split and decoded as pict-rs does it (`form_urlencoded`)."""
    pairs = (part.partition("=") for part in raw_query.split("&") if part)
    return [(_decode(key), _decode(value)) for key, _, value in pairs]


def _only(keys: Collection[str], raw_query: str) -> str:
    """A query with these keys alone, each as it came: pict-rs logs whatever else is in it."""
    parts = raw_query.split("&")
    return "&".join(part for part in parts if _decode(part.partition("=")[0]) in keys)


def _decode(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", errors="replace")


def write_query(pairs: Iterable[tuple[str, str]]) -> str:
    """A query written anew, everything escaped."""
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs)


def _upload_query(pairs: list[tuple[str, str]]) -> str:
    """The query of an upload, written anew. Raises MalformedRequest on a key of something else."""
    for key, _ in pairs:
        if key not in _UPLOAD_KEYS:
            raise MalformedRequest(f"Unknown key in the query: {key[:40]!r}", code="invalid-query")
    return write_query(pairs)


def _download(raw_query: str) -> Route:
    """The upload that stands for a download. Raises MalformedRequest unless it has one address."""
    pairs = parse_query(raw_query)
    urls = [value for key, value in pairs if key == "url"]
    background = [value for key, value in pairs if key == "backgrounded"]
    if len(urls) != 1:
        raise MalformedRequest("The query needs exactly one url", code="invalid-query")
    if len(background) > 1 or not {*background} <= {"true", "false"}:
        raise MalformedRequest("backgrounded is true or false", code="invalid-query")
    path = "/image/backgrounded" if background == ["true"] else "/image"
    rest = [pair for pair in pairs if pair[0] not in {"url", "backgrounded"}]
    return Route(Kind.DOWNLOAD, "POST", path, _upload_query(rest), urls[0])
