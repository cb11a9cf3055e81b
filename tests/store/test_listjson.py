"""Tests of safety_proxy/store/listjson.py: where hashes stand in the JSON of other programs."""

import json
from typing import Any

import pytest

from safety_proxy.store.listjson import Entry, json_entries

A, B = "a" * 32, "b" * 64


def entries(*documents: Any) -> list[Entry]:
    return [entry for _, entry in json_entries("\n".join(map(json.dumps, documents)))]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (A, (A, "", None)),
        ({"hash": A}, (A, "", None)),
        ({"hash": B, "type": "pdq", "quality": 87}, (B, "pdq", 87)),
        ({"value": B, "hash_type": "PDQ", "quality": "high"}, (B, "PDQ", None)),
        # /threat_descriptors, plain and with the indicator's own fields asked for
        ({"raw_indicator": A, "type": "HASH_MD5", "status": "MALICIOUS"}, (A, "HASH_MD5", None)),
        ({"indicator": {"indicator": A, "type": "HASH_MD5"}, "id": "3"}, (A, "HASH_MD5", None)),
        ({"sha256": B, "name": "x"}, (B, "sha256", None)),
    ],
)
def test_a_record_s_hash_is_found(record: Any, expected: Entry) -> None:
    """Alone, in a list, in an answer, and in an answer of an answer."""
    assert entries(record) == [expected]
    assert entries([record, record]) == [expected] * 2
    assert entries({"data": [record], "paging": {}}) == [expected]
    assert entries({"data": [record]}, {"data": [[record]]}) == [expected] * 2


def test_a_record_may_hold_several() -> None:
    """HMA keeps all hashes of a picture together."""
    assert entries({"id": 1, "signals": {"pdq": B, "video_md5": A}}) == [
        (B, "pdq", None),
        (A, "video_md5", None),
    ]
    assert entries({"md5": A, "pdq": B, "pdq_quality": 9}) == [(A, "md5", 9), (B, "pdq", 9)]


@pytest.mark.parametrize(
    "record",
    [
        {"indicator": A, "type": "HASH_MD5", "should_delete": True},
        {"raw_indicator": A, "type": "HASH_MD5", "status": "NON_MALICIOUS"},
    ],
)
def test_what_was_taken_off_does_not_count(record: Any) -> None:
    """ThreatExchange says of a hash that it is deleted, or that the picture is harmless."""
    assert entries([record]) == []


def test_records_are_numbered_across_documents() -> None:
    """So that a problem can be found again."""
    text = f'["{A}", "{A}"]\n\n{{"data": ["{A}"]}}'
    assert [number for number, _ in json_entries(text)] == [1, 2, 3]


@pytest.mark.parametrize("record", [{"error": {"code": 190}}, 7, None, {"hash": 5}])
def test_what_is_no_record_is_shown_as_it_is(record: Any) -> None:
    """The reader then says that it is no hash."""
    assert entries([record]) == [(json.dumps(record), "", None)]


@pytest.mark.parametrize("text", ["{", '{"a": 1} x', "[1,]"])
def test_broken_json_is_an_error(text: str) -> None:
    """With its place."""
    with pytest.raises(ValueError, match="line 1 column"):
        list(json_entries(text))
