"""Tests of safety_proxy/store/listfiles.py: good lines load, others are told."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safety_proxy.errors import ConfigError
from safety_proxy.store.entries import Kind
from safety_proxy.store.listfiles import Hashes, read_hashes

MD5, SHA1, SHA256 = "0a" * 16, "0b" * 20, "0c" * 32
PDQ = "d8f8f0cce0f4a84f0e370a22028f67f0b36e2ed596623e1d33e6b39c4e9c9b22"
OTHER_PDQ = "38a50efd71c83f429013d68d0ffffc52e34e0e15ada952a9d29684214aa9e5af"
ALL = {Kind.MD5: 1, Kind.SHA1: 1, Kind.SHA256: 1, Kind.PDQ: 1}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "list"


def read(written: Path, text: str, kind: Kind | None = None) -> Hashes:
    written.write_bytes(text.encode())
    return read_hashes(written, kind)


FORMS = {
    "text": f"{MD5}\n{SHA1}\nsha256 {SHA256}\npdq {PDQ}\n",
    "text, loosely": (
        f"\ufeff# ours\r\n\r\n  {MD5.upper()}  a note\r\n{SHA1}\t# why\r\n"
        f"SHA-256 {SHA256} file.jpg\r\nHASH_PDQ {PDQ}"
    ),
    "threatexchange dataset -P": (
        f"video_md5 {MD5} 'Some, Exchange' <metadata>\nsha1 {SHA1} 'x' -\n"
        f"sha256 {SHA256} 'x' -\npdq {PDQ} 'Some, Exchange' <metadata>\n"
    ),
    "threatexchange dataset -P --csv": (
        "signal_type,signal_str,collab,category,tags\r\n"
        f'video_md5,{MD5},"A, B",POSITIVE_CLASS,a b\r\nsha1,{SHA1},x,POSITIVE_CLASS,\r\n'
        f"sha256,{SHA256},x,POSITIVE_CLASS,\r\npdq,{PDQ},x,INVESTIGATION_SEED,\r\n"
    ),
    "CSV without a header": (
        f"1,{MD5},MD5,x\n2,{SHA1},SHA1,x\n3,{SHA256},SHA256,x\n4,{PDQ},PDQ,x\n"
    ),
    "CSV by columns": (
        "# comment\nid;md5;sha1;sha256;pdq;quality\n"
        f"1;{MD5};;;;\n2;;{SHA1};;;\n3;;;{SHA256};{PDQ};87\n"
    ),
    "tabs": f"hash\ttype\n{MD5}\tmd5\n{SHA1}\tsha1\n{SHA256}\tsha256\n{PDQ}\tpdq\n",
    "/threat_updates": json.dumps(
        {
            "data": [
                {"id": "1", "type": "HASH_MD5", "indicator": MD5, "should_delete": False},
                {"id": "2", "type": "HASH_SHA1", "indicator": SHA1, "should_delete": False},
                {"id": "3", "type": "HASH_SHA256", "indicator": SHA256, "should_delete": False},
                {"id": "4", "type": "HASH_PDQ", "indicator": PDQ, "should_delete": False},
                {"id": "5", "type": "HASH_PDQ", "indicator": OTHER_PDQ, "should_delete": True},
            ],
            "paging": {"next": "https://example.org/"},
        },
        indent=1,
    ),
    "HMA": json.dumps(
        [
            {
                "id": 7,
                "disable_until_ts": 0,
                "bank": {"name": "OURS", "matching_enabled_ratio": 1.0},
                "signals": {"pdq": PDQ, "video_md5": MD5},
            },
            {"id": 8, "signals": {"sha256": SHA256, "sha1": SHA1}},
        ]
    ),
    "JSON lines": (
        f'{{"hash": "{MD5}"}}\n{{"hash": "{SHA1}"}}\n{{"sha256": "{SHA256}"}}\n'
        f'{{"pdq": "{PDQ}", "quality": 50}}\n'
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_list_is_read(written: Path, form: str) -> None:
    """One hash of each kind, told by length, by a name beside it, or by its column."""
    hashes = read(written, FORMS[form])
    assert hashes.counts == ALL
    assert hashes.exact == {bytes.fromhex(text) for text in (MD5, SHA1, SHA256)}
    assert list(hashes.pdq) == [bytes.fromhex(PDQ)]
    assert (hashes.bad, hashes.duplicates, hashes.flat, hashes.other) == (0, 0, 0, 0)
    assert hashes.problems == []


def test_bad_lines_are_counted_and_the_first_few_named(written: Path) -> None:
    """CRLF, duplicates in either case, and damage: the good lines load all the same."""
    lines = [MD5, MD5.upper(), "what is this?", MD5[:-1], f"sha1 {MD5}", SHA1]
    lines += ["g" * 32, "x" * 500, "-", "--"]
    hashes = read(written, "\r\n".join(lines))
    assert hashes.counts == {Kind.MD5: 1, Kind.SHA1: 1}
    assert (hashes.duplicates, hashes.bad, hashes.other) == (1, 6, 1)
    assert hashes.problems == [
        f"line 4: '{MD5[:-1]}' is no hash of 32, 40 or 64 hex digits",
        f"line 5: '{MD5}' is no sha1, which has 40 hex digits",
        f"line 7: '{'g' * 32}' is no hash of 32, 40 or 64 hex digits",
        f"line 8: '{'x' * 70}...' is no hash of 32, 40 or 64 hex digits",
        "line 9: '-' is no hash of 32, 40 or 64 hex digits",
    ]


def test_64_digits_need_a_kind(written: Path) -> None:
    """Of the line, or of the settings; the message says what to set."""
    with pytest.raises(ConfigError, match=r'line 1: .* set kind = "sha256" or kind = "pdq"'):
        read(written, f"{SHA256}\n{PDQ}\n")
    assert read(written, f"{SHA256}\n{PDQ}\n", Kind.SHA256).counts == {Kind.SHA256: 2}
    assert read(written, f"{OTHER_PDQ}\n{PDQ}\n", Kind.PDQ).counts == {Kind.PDQ: 2}
    hashes = read(written, f"{MD5}\n{PDQ}\n")
    assert (hashes.counts, hashes.bad) == ({Kind.MD5: 1}, 1)
    assert "sha256 or a PDQ hash" in hashes.problems[0]


def test_what_the_file_says_goes_before_the_settings(written: Path) -> None:
    """And so does a length that leaves no doubt."""
    hashes = read(written, f"sha256 {SHA256}\n{MD5}\n{PDQ}\n", Kind.PDQ)
    assert hashes.counts == {Kind.SHA256: 1, Kind.MD5: 1, Kind.PDQ: 1}


# Of flat black and flat white, as pdqhash gives them; the others are the reference's extremes.
FLAT = [
    "0" * 64,
    "f" * 64,
    "00001134000011342c4b00002c4b1134000000002c4b2c4b00002c4b8200554b",
    "8" + "0" * 63,
]


@pytest.mark.parametrize("hash_", FLAT)
def test_hashes_of_flat_pictures_are_left_out(written: Path, hash_: str) -> None:
    """They would match every flat picture; that they are listed is counted."""
    hashes = read(written, f"pdq {hash_}\npdq {PDQ}\n")
    assert (hashes.counts, hashes.flat, hashes.bad) == ({Kind.PDQ: 1}, 1, 0)


def test_a_listed_quality_counts(written: Path) -> None:
    """Under 50 the hash is left out, 0 as well; without one it is taken."""
    hashes = read(written, f"pdq,quality\n{PDQ},49\n{OTHER_PDQ},50\n")
    assert (list(hashes.pdq), hashes.flat) == ([bytes.fromhex(OTHER_PDQ)], 1)
    assert read(written, f"pdq,quality\n{PDQ},0\n{OTHER_PDQ},\n").flat == 1
    assert read(written, json.dumps([{"pdq": PDQ, "quality": 0}, {"pdq": OTHER_PDQ}])).flat == 1


def test_kinds_that_are_not_of_pictures_are_passed_over(written: Path) -> None:
    """An export may hold addresses, PhotoDNA and TMK as well; a line of each is no damage."""
    hashes = read(
        written,
        f"signal_type,signal_str\nurl,https://example.org\npdna,AAAA\ntmk,x\nmd5,{MD5}\n",
    )
    assert (hashes.counts, hashes.other, hashes.bad) == ({Kind.MD5: 1}, 3, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing\nof use\nhere", "no hash of a picture could be read. line 1: 'nothing'"),
        ("<html><body>not found</body></html>", "Wanted are hashes as hex digits"),
        ("url https://example.org", "about other things than pictures"),
        ('{"data": [', "Expecting value: line 1 column 11"),
        ('[{"error": "no"}]', "record 1"),
        ("[" * 100_000, "recursion"),
        ('a,b\n"' + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_a_file_that_is_no_list_is_refused(written: Path, text: str, message: str) -> None:
    """The old list, if there was one, is better than none."""
    with pytest.raises(ConfigError) as caught:
        read(written, text)
    assert message in str(caught.value)
    assert str(written) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(written: Path) -> None:
    """Missing, or not text at all."""
    with pytest.raises(ConfigError, match="No such file"):
        read_hashes(written)
    written.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="utf-8"):
        read_hashes(written)


@pytest.mark.parametrize("text", ["", "\n\n", "# all removed\n", "[]", '{"data": []}', "hash,type"])
def test_an_empty_list_is_one(written: Path, text: str) -> None:
    """Whoever keeps it may have taken everything off."""
    hashes = read(written, text)
    assert (hashes.counts, hashes.bad) == ({}, 0)


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0aF,;\t\n #[{}]\":'pdqmd5"),
        st.lists(st.sampled_from([MD5, SHA1, PDQ, "md5", ",", "\n", "\r\n", " ", '"', "#"])).map(
            "".join
        ),
    )
)
@example(f"{MD5[:30]} a")
@example(" ".join(["0a"] * 11))
def test_any_text_is_a_list_or_is_refused(text: str) -> None:
    """Every hash that is kept has its length, and the counts are those of the hashes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list"
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            hashes = read_hashes(file, Kind.PDQ)
        except ConfigError:
            return
    assert {len(digest) for digest in hashes.exact} <= {16, 20, 32}
    assert {len(digest) for digest in hashes.pdq} <= {32}
    assert sum(hashes.counts.values()) == len(hashes.exact) + len(hashes.pdq)
    assert len(hashes.problems) == min(5, hashes.bad)
