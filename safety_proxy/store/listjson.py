"""JSON of ThreatExchange and HMA -> the hashes that it lists, in their own words.

| origin | a record |
| --- | --- |
| `/threat_updates` | `{"type": "HASH_PDQ", "indicator": "...", "should_delete": false}` |
| `/threat_descriptors` | `{"type": "HASH_MD5", "raw_indicator": "...", "status": "MALICIOUS"}` |
| HMA, content of a bank | `{"signals": {"pdq": "...", "video_md5": "..."}, "bank": {...}}` |
| plain | `"..."`, or `{"hash": "...", "type": "pdq", "quality": 87}` |

Records stand in a list, under `data` of an answer (or of many, one after another), or one a line.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

# What it is called, and the kind that the name itself says.
_HASH_KEYS: Final = ("indicator", "raw_indicator", "hash", "signal_str", "value")
_KIND_KEYS: Final = ("type", "signal_type", "hash_type", "indicator_type", "kind")
_KIND_NAMES: Final = ("md5", "sha1", "sha256", "pdq", "pdq_hash")
_LIST_KEYS: Final = ("data", "content", "signals", "hashes", "results", "entries")

# Of a descriptor: whoever wrote it says that the picture is harmless.
_HARMLESS: Final = "NON_MALICIOUS"

# Text, kind, quality.
Entry = tuple[str, str, int | None]


def json_entries(text: str) -> Iterator[tuple[int, Entry]]:
    """Each hash with the number of its record; ValueError if it is no JSON."""
    number = 0
    for document in _documents(text):
        for record in _records(document):
            number += 1
            for entry in _hashes(record):
                yield number, entry


def _documents(text: str) -> Iterator[Any]:
    """One, or many one after another, as with a line each."""
    decoder = json.JSONDecoder()
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        document, place = decoder.raw_decode(text, place)
        yield document


def _records(document: Any) -> Iterator[Any]:
    if isinstance(document, list):
        for item in document:
            yield from _records(item)
        return
    if isinstance(document, dict):
        lists = [document[key] for key in _LIST_KEYS if isinstance(document.get(key), list)]
        if lists:
            for items in lists:
                yield from _records(items)
            return
    yield document


def _hashes(record: Any) -> Iterator[Entry]:
    """Those of a record; one that says of itself that it does not count has none."""
    if not isinstance(record, dict):
        yield (record if isinstance(record, str) else json.dumps(record)), "", None
        return
    if record.get("should_delete") or record.get("status") == _HARMLESS:
        return
    signals = record.get("signals")
    if isinstance(signals, dict):
        for kind, text in signals.items():
            yield str(text), str(kind), None
        return
    quality = record.get("quality", record.get("pdq_quality"))
    quality = quality if isinstance(quality, int) else None
    named = [(key, record[key]) for key in _KIND_NAMES if isinstance(record.get(key), str)]
    for kind, text in named:
        yield text, kind, quality
    if not named:
        yield _text(record), _kind(record), quality


def _text(record: dict[str, Any]) -> str:
    for key in _HASH_KEYS:
        value = record.get(key)
        if isinstance(value, dict):  # a descriptor that was asked for its whole indicator
            value = value.get("indicator")
        if isinstance(value, str):
            return value
    return json.dumps(record)


def _kind(record: dict[str, Any]) -> str:
    nested = record.get("indicator")
    for holder in (record, nested if isinstance(nested, dict) else {}):
        for key in _KIND_KEYS:
            if isinstance(holder.get(key), str):
                return str(holder[key])
    return ""
