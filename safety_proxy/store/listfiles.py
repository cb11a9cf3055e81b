"""Files of hashes -> the hashes, with a count of all that could not be used.

| file | what is read of it |
| --- | --- |
| text | a hash a line, before it the name of its kind or nothing, after it anything |
| CSV | the columns of hash and kind, by their header or by what the first row holds |
| JSON | ThreatExchange's and HMA's answers: one, a list of them, or one a line |

What a hash is, its length tells: 32 hex digits are an md5, 40 a sha1. 64 may be a sha256 or a PDQ
hash, so there the file must say it, or the settings.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from safety_proxy.errors import ConfigError
from safety_proxy.store.entries import (
    BY_LENGTH,
    LENGTHS,
    Entries,
    Kind,
    Listed,
    flat,
    hash_in,
    kind_named,
)
from safety_proxy.store.listcsv import csv_entries
from safety_proxy.store.listjson import json_entries

_PROBLEMS: Final = 5  # as many are named; all are counted
_SHOWN: Final = 70  # characters of a bad entry


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


def _entries(text: str) -> tuple[str, Entries]:
    """What a number counts, and the entries."""
    start = text.lstrip()[:1]
    if start and start in "[{":
        return "record", ((number, Listed(*entry)) for number, entry in json_entries(text))
    first = next((line for line in text.splitlines() if _said(line)), "")
    delimiter = next((mark for mark in "\t,;" if mark in first), None)
    # A note behind a hash may hold a comma.
    if delimiter is None or (delimiter != "\t" and hash_in(_listed_in(first).text) is not None):
        return "line", _text_entries(text)
    return "line", csv_entries(text, delimiter)


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
    named = len(words) > 1 and hash_in(words[0]) is None
    return Listed(words[1], words[0]) if named else Listed(words[0])


def _add(hashes: Hashes, listed: Listed, *, kind: Kind | None, min_quality: int) -> str:
    """Adds or counts an entry; what is wrong with it, if anything is."""
    named = kind_named(listed.kind) if listed.kind else None
    if listed.kind and named is None:
        hashes.other += 1
        return ""
    digest = hash_in(listed.text)
    kind = named or _told_by_length(digest) or kind
    if digest is None or kind is None or len(digest) != LENGTHS[kind]:
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
    return BY_LENGTH.get(len(digest)) if digest else None


def _problem(text: str, digest: bytes | None, kind: Kind | None) -> str:
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
    if digest is None:
        return f"{shown} is no hash of 32, 40 or 64 hex digits"
    if kind is None:
        return (
            f"{shown} may be a sha256 or a PDQ hash, and the file does not say which; set "
            'kind = "sha256" or kind = "pdq" for this list'
        )
    return f"{shown} is no {kind}, which has {2 * LENGTHS[kind]} hex digits"
