"""Tests of safety_proxy/evaluation/summary.py: what an admin reads on the terminal."""

import io
from dataclasses import replace

from rich.console import Console

from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.sources import Unopened
from safety_proxy.evaluation.summary import summary
from tests.evaluation.scenes import outcome_of

MANY = [-0.2, -0.1] + [0.5 + 0.01 * number for number in range(400)]


def printed(outcome: Outcome) -> str:
    """As on a wide terminal without colors; no space of any kind but the usual one."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    for part in summary(outcome):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().replace("\u202f", " ")


def row(text: str, start: str) -> list[str]:
    """The cells of the first row that begins so."""
    line = next(line for line in text.splitlines() if line.strip("│┃ ").startswith(start))
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_rates_and_rules_have_counts_shares_and_bounds() -> None:
    """The same numbers as everywhere."""
    text = printed(outcome_of(MANY))
    assert row(text, "blocked") == ["blocked", "2 of 402", "0.50 %", "1.56 %"]
    assert row(text, "red-and-blue (block)")[1:] == ["2 of 402", "0.50 %", "1.56 %"]
    assert "at 95 % (Clopper-Pearson, one-sided)" in text


def test_nearest_pictures_come_with_their_reasons() -> None:
    """Those that are blocked say why; the next say from where on they would be."""
    text = printed(outcome_of(MANY))
    cells = row(text, "-0.200")
    assert cells[1:4:2] == ["block", "0000.png"]
    assert cells[4].startswith("red-and-blue in frame 0: red 0.6")
    assert row(text, "0.500")[1] == "allow"


def test_groups_are_compared_and_the_outlier_named() -> None:
    """A warning that cannot be overlooked."""
    text = printed(outcome_of(MANY, groups=["food"] * 2 + ["pets"] * 400))
    assert "Warning: far above the rest: food" in text
    assert row(text, "food")[1] == "2 of 2"


def test_files_without_a_verdict_are_named() -> None:
    """Five at most, with the rest counted."""
    outcome = outcome_of([1.0])
    problems = tuple(Unopened(f"file-{number}", "broken") for number in range(7))
    survey = replace(outcome.harmless, unreadable=6, failed=1, duplicates=3, problems=problems)
    text = printed(replace(outcome, harmless=survey))
    assert "6 files that no picture could be read from, 1 that the model failed on" in text
    assert "file-4: broken" in text
    assert "file-5" not in text
    assert "and 2 more" in text
    assert "3 duplicates, counted once" in text


def test_choice_is_told_with_its_price() -> None:
    """What is chosen, against what is, and against what would miss nothing."""
    text = printed(outcome_of(MANY, must_block=[0.1, 0.9], wanted=0.05))
    assert row(text, "chosen")[1:] == ["0.599", "2.99 %", "4.80 %", "2.99 %", "50.0 %", "97.5 %"]
    assert row(text, "to miss none")[1] == "0.901"
    assert "blocks 12 of 402, 2.99 %, at most 4.80 %; wanted: at most 5 %" in text
    assert "milder" not in text


def test_a_milder_choice_is_never_silent() -> None:
    """It catches less, and without stand-ins nobody knows how much."""
    many = [-1.0 + 0.001 * number for number in range(400)]
    text = printed(outcome_of(many, wanted=0.05))
    assert "This is milder than the policy as it is (0.000): it catches less." in text
    assert "--should-block can show how much" in text


def test_a_point_estimate_says_what_it_is() -> None:
    """Not shown, only seen."""
    outcome = outcome_of(MANY, wanted=0.05)
    assert outcome.choice is not None
    text = printed(replace(outcome, choice=replace(outcome.choice, is_shown=False)))
    assert "it is too small to show 5 %" in text


def test_names_are_no_markup() -> None:
    """A file may be called [red] or [/], and a link of rich's."""
    outcome = outcome_of([-0.5, 1.0], groups=["[bold]", "b"])
    first, second = outcome.harmless.standouts
    name = "[link=http://example.org][/red].png"
    survey = replace(outcome.harmless, standouts=(replace(first, name=name), second))
    text = printed(replace(outcome, harmless=survey))
    assert name in text
    assert row(text, "[bold]")[0] == "[bold]"
