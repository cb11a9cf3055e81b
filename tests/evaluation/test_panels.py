"""Tests of safety_proxy/evaluation/panels.py: each part says what was counted, nothing else."""

import re

from safety_proxy.evaluation.panels import (
    concepts_panel,
    groups_panel,
    rules_panel,
    severity_panel,
)
from tests.evaluation.scenes import outcome_of

MANY = [0.5 + 0.01 * number for number in range(400)]


def words(html: str) -> str:
    """The text of a part, a space between its pieces; without the drawings."""
    text = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    text = re.sub(r"</?(data|b)\b[^>]*>", "", text).replace("\u202f", " ")
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_choice_stands_beside_what_is_and_what_would_miss_nothing() -> None:
    """A column each, in the order in which they are compared."""
    text = words(severity_panel(outcome_of(MANY, must_block=[0.1, 0.9], wanted=0.05)))
    assert "Chosen: severity 0.619" in text
    assert "at most 4.82 % of harmless pictures are blocked; 5 % was wanted" in text
    assert "as it is chosen to miss none severity 0.000 0.619 0.901 blocked 0 12 41" in text
    assert "missed 2 1 0 share 100.0 % 50.0 % 0.0 %" in text


def test_without_stand_ins_nothing_is_said_of_misses() -> None:
    """Neither in the table nor in the key of the plot."""
    text = words(severity_panel(outcome_of(MANY, wanted=0.05)))
    assert "as it is chosen severity" in text
    assert "miss" not in text


def test_without_a_choice_there_is_the_curve_alone() -> None:
    """No table, no list of points."""
    text = words(severity_panel(outcome_of(MANY)))
    assert text.startswith("Rate against severity blocked, as seen up to the bound (95 %)")
    assert "chosen" not in text


def test_groups_are_listed_with_the_worst_first_and_marked() -> None:
    """Thirty at most; the rest is counted."""
    names = ["food"] * 20 + [f"kind {number % 40:02}" for number in range(380)]
    html = groups_panel(outcome_of([-0.5] * 20 + MANY[20:], groups=names))
    text = words(html)
    assert "Far above the rest: food." in text
    assert "food 20 of 20 100.0 % 100.0 %" in text
    assert "and 11 more, none of them worse" in text
    assert html.count('class="high"') == 1
    assert groups_panel(outcome_of(MANY)) == ""


def test_rules_come_with_their_action() -> None:
    """Also those that never held."""
    text = words(rules_panel(outcome_of([-0.5, *MANY])))
    assert "red-and-blue block 1 0.25 %" in text
    assert "green flag 0 0.00 %" in text


def test_concepts_tell_where_their_thresholds_go() -> None:
    """At the tests' scale of 10 a severity of 0.6 is 0.06."""
    text = words(concepts_panel(outcome_of(MANY, wanted=0.05)))
    assert "threshold as it is 0.600, at the chosen severity 0.538" in text
    assert "99.9 %" not in text  # of 400 pictures that would be the highest


def test_quantiles_are_those_of_pictures() -> None:
    """Half of the pictures lie at or below the first."""
    outcome = outcome_of(MANY)
    middle = sorted(outcome.harmless.margins[:, 0].tolist())[200]
    assert f"50 % at most {middle:+.3f}" in words(concepts_panel(outcome))
