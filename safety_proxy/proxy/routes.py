"""The routes of pict-rs 0.5 and 0.6, and which of them can bring bytes in.

pict-rs decodes percent-escapes before it matches, so routes are matched on decoded segments, and
what is forwarded is written anew from them. What is not in the table is not passed on.
Source: pict-rs 0.5.25 `src/lib.rs`, `configure_endpoints`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import quote, unquote, unquote_to_bytes

from safety_proxy.errors import MalformedRequest, NotOffered, UnknownRoute


class Kind(Enum):
    """What a request does to pict-rs' store."""

    PASS = auto()  # stores nothing new: streamed through
    UPLOAD = auto()  # stores the files of its multipart body
    DOWNLOAD = auto()  # stores what lies at the address in its query


@dataclass(frozen=True, slots=True)
class _Row:
    methods: str
    path: str
    kind: Kind = Kind.PASS
    proxies: bool = False  # with `?proxy=` it fetches that address and stores it
    offered: bool = True


# `*` stands for any segment that is not empty, `process.*` for one that begins so.
_TABLE = (
    _Row("GET", "healthz"),
    _Row("POST", "image", Kind.UPLOAD),
    _Row("POST", "image/backgrounded", Kind.UPLOAD, offered=False),
    _Row("GET", "image/backgrounded/claim"),
    _Row("GET", "image/download", Kind.DOWNLOAD),
    _Row("GET DELETE", "image/delete/*/*"),
    _Row("GET HEAD", "image/original/*"),
    _Row("GET HEAD", "image/original", proxies=True),
    _Row("GET HEAD", "image/process.*", proxies=True),
    _Row("GET", "image/process_backgrounded.*", proxies=True),
    _Row("GET", "image/details/original", proxies=True),
    _Row("GET", "image/details/original/*"),
    _Row("GET", "image/details/process.*", proxies=True),
    _Row("GET", "image/blurhash", proxies=True),
    _Row("POST", "internal/import", Kind.UPLOAD, offered=False),
    _Row("GET", "internal/hashes"),
    _Row("POST", "internal/purge", proxies=True),
    _Row("POST", "internal/delete", proxies=True),
    _Row("GET", "internal/aliases", proxies=True),
    _Row("GET", "internal/identifier", proxies=True),
    _Row("POST", "internal/set_not_found"),
    _Row("POST", "internal/prune_missing"),
    _Row("DELETE", "internal/variants"),
    _Row("POST", "internal/export"),
    _Row("GET", "internal/limits"),  # 0.6
)

# Keys of an upload's query; any other makes pict-rs fail with 500 (3.2 of its surface).
_UPLOAD_KEYS = frozenset(
    {
        "max_width",
        "max_height",
        "max_area",
        "max_frame_count",
        "max_file_size",
        "allow_image",
        "allow_animation",
        "allow_video",
        "resize",
        "thumbnail",
        "crop",
        "blur",
        "identity",
    }
)


@dataclass(frozen=True, slots=True)
class Route:
    """A request that pict-rs has a route for.

    path: written anew, escaped, with a leading slash. query: as it came, byte for byte.
    """

    kind: Kind
    method: str
    path: str
    query: str


def resolve(method: str, raw_path: str, raw_query: str) -> Route:
    """The route of a request line. Raises UnknownRoute, NotOffered, MalformedRequest.

    raw_path, raw_query: as they came, undecoded.
    """
    if not _is_text(raw_path + raw_query) or "#" in raw_query:
        raise MalformedRequest("The request line holds what no address may", code="invalid-query")
    segments = [unquote(segment) for segment in raw_path.split("/")[1:]]
    row = next(
        (row for row in _TABLE if method in row.methods.split() and _fits(row, segments)), None
    )
    if row is None:
        raise UnknownRoute("No such route")
    keys = [key for key, _ in parse_query(raw_query)]
    if not row.offered or (row.proxies and "proxy" in keys):
        raise NotOffered("This way of storing a picture is not offered here yet")
    if row.proxies and len([key for key in keys if key in {"src", "alias"}]) > 1:
        # A doubled source makes pict-rs fall through to the next kind of source.
        raise MalformedRequest("More than one source in the query", code="invalid-query")
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    return Route(row.kind, method, path, raw_query)


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


def parse_query(raw_query: str) -> list[tuple[str, str]]:
    """Decoded pairs, split and decoded as pict-rs does it (`form_urlencoded`)."""
    pairs = (part.partition("=") for part in raw_query.split("&") if part)
    return [(_decode(key), _decode(value)) for key, _, value in pairs]


def _decode(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", errors="replace")


def write_query(pairs: Iterable[tuple[str, str]]) -> str:
    """A query written anew, everything escaped."""
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs)


def upload_query(raw_query: str) -> str:
    """The query of an upload, written anew. Raises MalformedRequest on a key of something else."""
    pairs = parse_query(raw_query)
    for key, _ in pairs:
        if key not in _UPLOAD_KEYS:
            raise MalformedRequest(f"Unknown key in the query: {key[:40]!r}", code="invalid-query")
    return write_query(pairs)


def download_query(raw_query: str) -> tuple[str, str]:
    """The address of a download, and the query for the upload that stands for it.

    Raises MalformedRequest unless there is exactly one address, NotOffered for `backgrounded`.
    """
    pairs = parse_query(raw_query)
    urls = [value for key, value in pairs if key == "url"]
    if len(urls) != 1:
        raise MalformedRequest("The query needs exactly one url", code="invalid-query")
    if any(value != "false" for key, value in pairs if key == "backgrounded"):
        raise NotOffered("Downloads in the background are not offered here yet")
    rest = write_query(pair for pair in pairs if pair[0] not in {"url", "backgrounded"})
    return urls[0], upload_query(rest)
