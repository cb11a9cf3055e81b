"""Tests of safety_proxy/store/listcsv.py: the columns that count, by name or by content."""

import pytest

from safety_proxy.store.entries import Listed
from safety_proxy.store.listcsv import csv_entries

A, B = "a" * 32, "b" * 64


def entries(text: str, delimiter: str = ",") -> list[Listed]:
    return [listed for _, listed in csv_entries(text, delimiter)]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("hash", A, [Listed(A)]),
        ("Hash Value,Hash-Type,id", f"{A},MD5,7", [Listed(A, "MD5")]),
        ("id,type,indicator", f"7,HASH_PDQ,{B}", [Listed(B, "HASH_PDQ")]),
        ("signal_type,signal_str,collab", f"pdq,{B},x", [Listed(B, "pdq")]),
        ("PDQ Hash,quality", f"{B},87", [Listed(B, "pdqhash", 87)]),
        ("md5,sha256", f"{A},{B}", [Listed(A, "md5"), Listed(B, "sha256")]),
        ("md5,sha256", f",{B}", [Listed(B, "sha256")]),
        ("hash,quality", f"{B},high", [Listed(B)]),
    ],
)
def test_a_header_names_the_columns(header: str, row: str, expected: list[Listed]) -> None:
    """In any case and spelling."""
    assert entries(f"{header}\n{row}\n") == expected


def test_without_a_header_the_first_row_tells() -> None:
    """Which column holds hashes, and which their kinds; rows may be short."""
    assert entries(f"7,{A},MD5,x\n8,{B},PDQ\n9,{B}\n") == [
        Listed(A, "MD5"),
        Listed(B, "PDQ"),
        Listed(B),
    ]


def test_lines_are_numbered_as_an_editor_does() -> None:
    """Comments, blank lines and quoted line breaks count."""
    text = f'# list\n\nhash;note\n{A};"one\ntwo"\n#{A}\n{A};x\n'
    assert [number for number, _ in csv_entries(text, ";")] == [5, 7]


def test_what_is_no_csv_is_an_error() -> None:
    """With its line."""
    with pytest.raises(ValueError, match="line 2: field larger"):
        entries('hash,note\n"' + "x" * 200_000)
