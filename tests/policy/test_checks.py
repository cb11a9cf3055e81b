"""Tests of safety_proxy/policy/checks.py; tests/policy/test_problems.py has what each one says."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.policy.checks import Problem, did_you_mean, problems_of, written
from safety_proxy.policy.locate import Path

WORDS = ["name", "score", "concepts", "prompts", "threshold", "critical", "weight", "rules", "all"]
WORDS += [
    "any",
    "controls",
    "shifts",
    "templates",
    "neutral",
    "text",
    "concept",
    "fire",
    "contrast",
]

anything: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(WORDS) | st.floats() | st.integers() | st.booleans() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(data=st.dictionaries(st.sampled_from(WORDS), anything))
def test_tables_of_any_kinds_are_looked_at_without_an_error(data: dict[str, Any]) -> None:
    """Wrong kinds are somebody else's to tell, and every problem has a path into the tables."""
    for problem in problems_of(data):
        assert problem.cause
        assert problem.remedy
        assert problem.path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), ""),
        (("name",), "name"),
        (("rules", 0, "all", 1, "weight"), "rules[0].all[1].weight"),
    ],
)
def test_paths_are_written_as_people_do(path: Path, expected: str) -> None:
    """Dots and brackets."""
    assert written(path) == expected


def test_a_problem_says_where_what_and_what_to_do() -> None:
    """The file itself has no name here."""
    assert str(Problem(("a",), "b", "c")) == "a: b; c"
    assert str(Problem((), "b", "c")) == "b; c"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fir", "did you mean 'fire'? "), ("FIRE", "did you mean 'fire'? "), ("xyz", ""), ("", "")],
)
def test_near_names_are_asked_for(name: str, expected: str) -> None:
    """In whatever case."""
    assert did_you_mean(name, ["fire", "water"]) == expected
