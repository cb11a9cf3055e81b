"""Tests of safety_proxy/store/shared.py: a file becomes a list, and is read again if it changed."""

from pathlib import Path

import numpy as np
import pytest

from safety_proxy.errors import ConfigError
from safety_proxy.store.entries import Kind
from safety_proxy.store.shared import ListSource, load_list

MD5 = "0a" * 16
PDQ = "d8f8f0cce0f4a84f0e370a22028f67f0b36e2ed596623e1d33e6b39c4e9c9b22"


def test_a_list_knows_its_hashes_and_what_it_left_out(tmp_path: Path) -> None:
    """Each row of the index is the hash at that row."""
    file = tmp_path / "list.txt"
    file.write_text(f"{MD5}\n{MD5}\npdq {PDQ}\npdq {'0' * 64}\nbad\nurl x\n")
    source = ListSource("theirs", file)
    loaded = load_list(source, min_quality=50)
    assert loaded.exact == {bytes.fromhex(MD5)}
    assert loaded.pdq.shape == (1, 32)
    assert loaded.index.search(loaded.pdq[0].tobytes()) == [(0, 0)]
    report = loaded.report
    assert (report.name, report.source) == ("theirs", str(file))
    assert report.counts == {Kind.MD5: 1, Kind.PDQ: 1}
    assert (report.duplicates, report.flat, report.bad, report.other) == (1, 1, 1, 1)
    assert report.problems == ("line 5: 'bad' is no hash of 32, 40 or 64 hex digits",)
    assert report.loaded_at > 1e9
    assert report.with_error("no").error == "no"


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    """By its digest; one that changed is, and so is one whose source is another."""
    file = tmp_path / "list.txt"
    file.write_text(MD5)
    source = ListSource("theirs", file)
    first = load_list(source, min_quality=50)
    assert load_list(source, first, min_quality=50) is first
    file.write_text(f"pdq {PDQ}")
    second = load_list(source, first, min_quality=50)
    assert second.exact == set()
    assert second.pdq.dtype == np.uint8
    assert second.digest != first.digest


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    """Of the list and of the file, with what to do."""
    with pytest.raises(ConfigError, match=r"List theirs: .*none\.txt: No such file.*Put the file"):
        load_list(ListSource("theirs", tmp_path / "none.txt"), min_quality=50)
