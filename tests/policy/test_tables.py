"""Tests of safety_proxy/policy/tables.py: what a policy is, and when two judge alike."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from safety_proxy.policy.policy import Policy, parse_policy
from tests.policy.policies import policies

GOOD = """
name = "fire and water"
score = "contrast"
unreadable = "flag"
templates = ["{}", "a photo of {}"]
neutral = ["a photo"]

[concepts.fire]
threshold = 0.5
critical = 0.8
prompts = ["fire", { text = "a burning house", threshold = 0.6, critical = 0.9 }]

[concepts.water]
prompts = [{ text = "water", threshold = 0.7 }]

[[controls]]
prompts = ["a sunset"]
threshold = 0.25
shifts = { fire = -0.1 }

[[rules]]
name = "both"
action = "block"
all = ["water", { concept = "fire", weight = 2 }]

[[rules]]
name = "either"
action = "flag"
any = ["fire", "water"]
"""


PROVENANCE = """
[provenance]
model = "m"
data = "d"
date = 2026-01-31
pictures = 5
wanted_rate = 0.1
"""


def changed(old: str, new: str) -> str:
    """The good policy with one thing in it replaced."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def version_of(text: str) -> str:
    policy: Policy = parse_policy(text, where="here")
    return policy.version


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threshold = 0.5", "threshold = 0.51"),
        ("critical = 0.9", "critical = 0.91"),
        ('"a burning house"', '"a burning car"'),
        ('"a photo of {}"', '"a drawing of {}"'),
        ('neutral = ["a photo"]', 'neutral = ["a drawing"]'),
        ("fire = -0.1", "fire = -0.2"),
        ("threshold = 0.25", "threshold = 0.26"),
        ("weight = 2", "weight = 3"),
        ('action = "block"', 'action = "flag"'),
        ('any = ["fire", "water"]', 'all = ["fire", "water"]'),
        ('unreadable = "flag"', 'unreadable = "block"'),
        ('score = "contrast"', 'score = "cosine"'),
    ],
)
def test_version_changes_with_the_meaning(old: str, new: str) -> None:
    """Verdicts of the policy before must not be found under it."""
    assert version_of(changed(old, new)) != version_of(GOOD)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threshold = 0.5", "threshold = 0.50  # a comment"),
        ("\n[concepts.fire]", "\n\n# a comment\n[concepts.fire]"),
        ("threshold = 0.5\ncritical = 0.8", "critical = 0.8\nthreshold = 0.5"),
        ('"fire", { text', '{ text = "fire" }, { text'),
        ('all = ["water",', "all = [{ concept = 'water', weight = 1 },"),
    ],
)
def test_version_stays_with_layout_and_comments(old: str, new: str) -> None:
    """The same policy, written otherwise, keeps its verdicts."""
    assert version_of(changed(old, new)) == version_of(GOOD)


def test_version_is_short_and_the_same_in_every_run() -> None:
    """It is written to logs and shared between processes."""
    version = version_of(GOOD)
    assert len(version) == 12
    assert int(version, 16) >= 0
    assert version == version_of(GOOD)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "fire and water"', 'name = "other"'),
        ('name = "fire and water"', 'name = "fire and water"\nnote = "x"'),
        ('name = "fire and water"', 'name = "fire and water"\nmodel = "ViT-B-32"'),
        (
            "[[controls]]",
            PROVENANCE + "[[controls]]",
        ),
    ],
)
def test_version_stays_with_what_no_verdict_depends_on(old: str, new: str) -> None:
    """Where thresholds come from is no part of what they mean."""
    assert version_of(changed(old, new)) == version_of(GOOD)


def test_version_changes_with_weights_and_severity() -> None:
    """Each moves verdicts."""
    heavy = changed('text = "water"', 'weight = 2, text = "water"')
    severe = changed('unreadable = "flag"', 'unreadable = "flag"\nseverity = 0.5')
    assert len({version_of(text) for text in (GOOD, heavy, severe)}) == 3


def test_most_weight_counts_weights_and_criticals() -> None:
    """Three times each weight that has a critical bound, its own or the concept's."""
    text = changed('"fire", {', '"fire", { text = "x", weight = 5 }, {')
    policy = parse_policy(text, where="here")
    assert policy.concepts["fire"].most_weight == 3 * (1 + 5 + 1)
    assert policy.concepts["water"].most_weight == 1


def test_policies_made_by_programs_are_checked_as_files_are() -> None:
    """With the path and the remedy."""
    data: dict[str, Any] = {
        "name": "x",
        "score": "cosine",
        "concepts": {"fire": {"prompts": ["fire"]}},
        "rules": [{"name": "r", "action": "block", "all": ["fire"]}],
    }
    with pytest.raises(ValidationError, match=r"concepts\.fire\.prompts\[0\]: .*give it one"):
        Policy.model_validate(data)
    data["concepts"]["fire"]["threshold"] = 0.5
    assert Policy.model_validate(data).rules[0].action == "block"


@settings(deadline=None)
@given(policy=policies(), severity=st.floats(-20, 20))
def test_severity_alone_is_changed(policy: Policy, severity: float) -> None:
    """And back gives the policy as it was."""
    moved = policy.with_severity(severity)
    assert moved.severity == severity
    assert moved.with_severity(policy.severity) == policy
