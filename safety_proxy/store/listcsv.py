"""Rows of CSV -> the hashes in them, by the header, or by what the first row holds."""

import csv
import io
from collections.abc import Callable
from typing import Final

from safety_proxy.store.entries import KINDS, Entries, Listed, hash_in, kind_named, plain_name

# As ThreatExchange, HMA and others call them, as `plain_name` leaves them.
_HASH_COLUMNS: Final = ("hash", "signalstr", "indicator", "rawindicator", "hashvalue", "value")
_KIND_COLUMNS: Final = ("signaltype", "hashtype", "indicatortype", "type", "kind", "algorithm")
_QUALITY_COLUMNS: Final = ("quality", "pdqquality", "hashquality")

_QUALITY_DIGITS: Final = 3  # of 100


def csv_entries(text: str, delimiter: str) -> Entries:
    """Each hash with the number of its line. Raises ValueError if it is no CSV."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    read: Callable[[list[str]], list[Listed]] | None = None
    try:
        for row in rows:
            if not any(map(str.strip, row)) or row[0].lstrip().startswith("#"):
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
    names = [plain_name(name) for name in row]
    kind = next((names.index(name) for name in _KIND_COLUMNS if name in names), None)
    hash_ = next((names.index(name) for name in _HASH_COLUMNS if name in names), None)
    quality = next((names.index(name) for name in _QUALITY_COLUMNS if name in names), None)
    named = [(place, name) for place, name in enumerate(names) if name in KINDS]
    if _hash_places(row) or (hash_ is None and not named):
        return None

    def read(cells: list[str]) -> list[Listed]:
        how_good = _number(_cell(cells, quality))
        found = [
            Listed(text, name, how_good) for place, name in named if (text := _cell(cells, place))
        ]
        if hash_ is not None and (_cell(cells, hash_) or not named):
            found.append(Listed(_cell(cells, hash_), _cell(cells, kind), how_good))
        return found

    return read


def _by_content(row: list[str]) -> Callable[[list[str]], list[Listed]]:
    """How to read rows that no header explains: by what the first of them holds."""
    hash_ = next(iter(_hash_places(row)), 0)
    kind = next((place for place, cell in enumerate(row) if kind_named(cell)), None)
    return lambda cells: [Listed(_cell(cells, hash_), _cell(cells, kind))]


def _hash_places(row: list[str]) -> list[int]:
    return [place for place, cell in enumerate(row) if hash_in(cell) is not None]


def _cell(cells: list[str], place: int | None) -> str:
    return cells[place].strip() if place is not None and place < len(cells) else ""


def _number(text: str) -> int | None:
    return int(text) if len(text) <= _QUALITY_DIGITS and text.isdecimal() else None
