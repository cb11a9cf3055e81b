"""Tests of safety_proxy/commands/lists_shown.py: nothing of a hash or of a problem is cut off."""

from typing import Any

import pytest

from safety_proxy.commands.lists_shown import print_lists, print_reports, say


def report(**fields: Any) -> dict[str, Any]:
    whole = {
        "name": "theirs",
        "source": "/etc/theirs.csv",
        "counts": {},
        "duplicates": 0,
        "bad": 0,
        "other": 0,
        "flat": 0,
        "problems": [],
        "error": "",
    }
    return whole | fields


def test_reports_say_what_is_used_and_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts with thousands; each problem under the table in full."""
    problem = "line 7: " + "x" * 100
    print_reports(
        [
            report(counts={"md5": 1234567, "pdq": 2}, duplicates=3, flat=4, other=5, bad=6),
            report(name="[b]others[/b]", error="Broken.", problems=[problem]),
        ]
    )
    output = capsys.readouterr().out
    for text in ("1,234,567 md5", "2 pdq", "3 twice", "4 flat", "5 not of", "6 unreadable"):
        assert text in output
    assert "[b]others[/b] stays as it was. Broken." in output
    assert f"[b]others[/b], {problem}" in output
    assert output.count("none") == 2


def test_own_entries_are_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    """The digest may be folded, and is whole; exclusions as well."""
    sha256 = "0123456789abcdef" * 4
    entry = {"sha256": sha256, "action": "block", "note": "n" * 50, "who": "[i]anna", "pdq": [1]}
    excluded = {"hash": sha256[::-1], "who": "ben", "note": "stock"}
    print_lists({"lists": [], "own": [entry], "excluded": [excluded]})
    output = capsys.readouterr().out
    assert "No shared lists" in output
    assert "[i]anna" in output
    assert max(map(len, output.splitlines())) <= 80
    columns = [line.split("\u2502")[1].strip() for line in output.splitlines() if "\u2502" in line]
    assert sha256 in "".join(columns)
    assert sha256[::-1] in "".join(columns)


def test_an_empty_server_has_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    """But where to read on."""
    print_lists({"lists": [], "own": [], "excluded": []})
    assert "docs/lists.md" in capsys.readouterr().out


def test_a_line_is_not_broken_and_markup_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A hash that is copied must not hold a line break."""
    say("[red]" + "a" * 200)
    assert capsys.readouterr().out == "[red]" + "a" * 200 + "\n"
