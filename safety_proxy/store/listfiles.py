"""Files of hashes -> the hashes, with a count of all that could not be used.

| file | what is read of it |
| --- | --- |
| text | a hash a line, before it the name of its kind or nothing, after it anything |
| CSV | the columns of hash and kind, by their header or by what the first row holds |
| JSON | ThreatExchange's and HMA's answers: one, a list of them, or one a line |

What a hash is, its length tells: 32 hex digits are an md5, 40 a sha1. 64 may be a sha256 or a PDQ
hash, so there the file must say it, or the settings.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from safety_proxy.errors import ConfigError
from safety_proxy.store.listjson import json_entries


class Kind(StrEnum):
    """What a listed hash is a hash of, and how."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    PDQ = "pdq"


_LENGTHS: Final = {Kind.MD5: 16, Kind.SHA1: 20, Kind.SHA256: 32, Kind.PDQ: 32}  # in bytes

_DIGITS: Final = frozenset(2 * length for length in _LENGTHS.values())

_BY_LENGTH: Final = {16: Kind.MD5, 20: Kind.SHA1}

# As ThreatExchange, NCMEC and others write them, without case, blanks, "-" and "_".
_KINDS: Final = {
    **{name: kind for kind in Kind for name in (kind.value, f"hash{kind.value}")},
    **{f"{kind.value}hash": kind for kind in Kind},
    "videomd5": Kind.MD5,
    "hashvideomd5": Kind.MD5,
    "videosha256": Kind.SHA256,
    "hashvideosha256": Kind.SHA256,
}

_HASH_COLUMNS: Final = ("hash", "signalstr", "indicator", "rawindicator", "hashvalue", "value")
_KIND_COLUMNS: Final = ("signaltype", "hashtype", "indicatortype", "type", "kind", "algorithm")
_QUALITY_COLUMNS: Final = ("quality", "pdqquality", "hashquality")

# A PDQ hash says for each of 256 values whether it is above their median, so that half its bits
# are set. Far from that, all values were the same: a flat picture, which is near to any other.
_SET_BITS: Final = range(112, 145)

_PROBLEMS: Final = 5  # as many are named; all are counted
_SHOWN: Final = 70  # characters of a bad entry


class Listed(NamedTuple):
    """What a line says: the hash, in its own words."""

    text: str
    kind: str = ""
    quality: int | None = None


# Each with the number of its line, or of its record in JSON.
Entries = Iterator[tuple[int, Listed]]


@dataclass(slots=True)
class Hashes:
    """What a file holds, and what could not be used of it.

    exact: the bytes of md5, sha1 and sha256 hashes, which their lengths tell apart.
    other: lines that hold something else than a hash of a picture, such as a URL.
    flat: PDQ hashes of pictures without features, which would match anything of their kind.
    problems: the first few, each with its place.
    """

    exact: set[bytes] = field(default_factory=set)
    pdq: dict[bytes, None] = field(default_factory=dict)  # as a set that keeps its order
    counts: dict[Kind, int] = field(default_factory=dict)
    duplicates: int = 0
    bad: int = 0
    other: int = 0
    flat: int = 0
    problems: list[str] = field(default_factory=list)


def read_hashes(file: Path, kind: Kind | None = None, *, min_quality: int = 50) -> Hashes:
    """The hashes in `file`; blocks for about 2 s a million.

    kind: of those for which the file names none.
    min_quality: PDQ hashes that are listed with a lower one are left out.
    Raises ConfigError if the file cannot be read, or holds lines but no hash of a picture.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"List {file}: cannot be read: {error}.") from error
    hashes = Hashes()
    try:
        unit, entries = _entries(text)
        for number, listed in entries:
            problem = _add(hashes, listed, kind=kind, min_quality=min_quality)
            if problem:
                hashes.bad += 1
                if len(hashes.problems) < _PROBLEMS:
                    hashes.problems.append(f"{unit} {number}: {problem}")
    except (ValueError, RecursionError) as error:  # of JSON and CSV; most name the place
        raise ConfigError(f"List {file}: {error}. Have it exported anew.") from error
    # An error page in place of the list must not empty it.
    if (hashes.bad or hashes.other) and not (hashes.exact or hashes.pdq or hashes.flat):
        why = "; ".join(hashes.problems) or "Its lines are about other things than pictures"
        raise ConfigError(
            f"List {file}: no hash of a picture could be read. {why}. Wanted are hashes as hex "
            "digits, one a line, or CSV or JSON of ThreatExchange."
        )
    return hashes


@lru_cache
def kind_named(name: str) -> Kind | None:
    """The kind that goes by this name in lists of whatever origin."""
    return _KINDS.get(_plain(name))


def flat(pdq: bytes) -> bool:
    """Whether this is the hash of a picture without features."""
    return int.from_bytes(pdq).bit_count() not in _SET_BITS


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def _entries(text: str) -> tuple[str, Entries]:
    """What a number counts, and the entries."""
    start = text.lstrip()[:1]
    if start and start in "[{":
        return "record", ((number, Listed(*entry)) for number, entry in json_entries(text))
    first = next((line for line in text.splitlines() if _said(line)), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    # A note behind a hash may hold a comma.
    if delimiter is None or (delimiter != "\t" and _bytes(_listed_in(first).text) is not None):
        return "line", _text_entries(text)
    return "line", _csv_entries(text, delimiter)


def _said(line: str) -> bool:
    """Neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _text_entries(text: str) -> Entries:
    for number, line in enumerate(text.splitlines(), 1):
        if _said(line):
            yield number, _listed_in(line)


def _listed_in(line: str) -> Listed:
    """The first word, or the second where the first is the name of a kind."""
    words = line.split(maxsplit=2)
    named = len(words) > 1 and _bytes(words[0]) is None
    return Listed(words[1], words[0]) if named else Listed(words[0])


def _csv_entries(text: str, delimiter: str) -> Entries:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    read: Callable[[list[str]], list[Listed]] | None = None
    try:
        for row in rows:
            if not row or not _said(row[0] or "-"):
                continue
            if read is None:
                read = _by_header(row) or _by_content(row)
                if _hash_places(row) == []:  # a header
                    continue
            for listed in read(row):
                yield rows.line_num, listed
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error


def _by_header(row: list[str]) -> Callable[[list[str]], list[Listed]] | None:
    """How to read the rows under this header; None if it is no header."""
    names = [_plain(name) for name in row]
    kind = next((names.index(name) for name in _KIND_COLUMNS if name in names), None)
    hash_ = next((names.index(name) for name in _HASH_COLUMNS if name in names), None)
    quality = next((names.index(name) for name in _QUALITY_COLUMNS if name in names), None)
    named = [(place, name) for place, name in enumerate(names) if name in _KINDS]
    if _hash_places(row) or (hash_ is None and not named):
        return None

    def read(cells: list[str]) -> list[Listed]:
        how_good = _number(_cell(cells, quality))
        found = [Listed(_cell(cells, place), name, how_good) for place, name in named]
        if hash_ is not None:
            found.append(Listed(_cell(cells, hash_), _cell(cells, kind), how_good))
            return [found[-1]] if not named else [listed for listed in found if listed.text]
        return [listed for listed in found if listed.text]

    return read


def _by_content(row: list[str]) -> Callable[[list[str]], list[Listed]]:
    """How to read rows that no header explains: by what the first of them holds."""
    hash_ = next(iter(_hash_places(row)), 0)
    kind = next((place for place, cell in enumerate(row) if kind_named(cell)), None)
    return lambda cells: [Listed(_cell(cells, hash_), _cell(cells, kind))]


def _hash_places(row: list[str]) -> list[int]:
    return [place for place, cell in enumerate(row) if _bytes(cell) is not None]


def _cell(cells: list[str], place: int | None) -> str:
    return cells[place].strip() if place is not None and place < len(cells) else ""


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _bytes(text: str) -> bytes | None:
    """The hash that these hex digits are; None if they are none."""
    text = text.strip()
    if len(text) not in _DIGITS:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        return None
    return digest if 2 * len(digest) == len(text) else None  # blanks between them do not count


def _add(hashes: Hashes, listed: Listed, *, kind: Kind | None, min_quality: int) -> str:
    """Adds or counts an entry; what is wrong with it, if anything is."""
    named = kind_named(listed.kind) if listed.kind else None
    if listed.kind and named is None:
        hashes.other += 1
        return ""
    digest = _bytes(listed.text)
    kind = named or _told_by_length(digest) or kind
    if digest is None or kind is None or len(digest) != _LENGTHS[kind]:
        return _problem(listed.text, digest, kind)
    poor = listed.quality is not None and listed.quality < min_quality
    if kind is Kind.PDQ and (poor or flat(digest)):
        hashes.flat += 1
    elif digest in (hashes.pdq if kind is Kind.PDQ else hashes.exact):
        hashes.duplicates += 1
    else:
        hashes.counts[kind] = hashes.counts.get(kind, 0) + 1
        if kind is Kind.PDQ:
            hashes.pdq[digest] = None
        else:
            hashes.exact.add(digest)
    return ""


def _told_by_length(digest: bytes | None) -> Kind | None:
    return _BY_LENGTH.get(len(digest)) if digest else None


def _problem(text: str, digest: bytes | None, kind: Kind | None) -> str:
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
    if digest is None:
        return f"{shown} is no hash of 32, 40 or 64 hex digits"
    if kind is None:
        return (
            f"{shown} may be a sha256 or a PDQ hash, and the file does not say which; set "
            'kind = "sha256" or kind = "pdq" for this list'
        )
    return f"{shown} is no {kind}, which has {2 * _LENGTHS[kind]} hex digits"
