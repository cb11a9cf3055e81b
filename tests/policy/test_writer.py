"""Tests of safety_proxy/policy/writer.py: what is written reads back as the same policy."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.policy.policy import (
    CurvePoint,
    Policy,
    Provenance,
    default_policy,
    parse_policy,
)
from safety_proxy.policy.writer import policy_toml
from tests.policy.policies import policies

rates = st.floats(0, 1)
provenances = st.builds(
    Provenance,
    model=st.text(min_size=1),
    data=st.text(min_size=1),
    date=st.dates(),
    pictures=st.integers(1, 10**9),
    wanted_rate=rates,
    curve=st.lists(
        st.builds(
            CurvePoint,
            severity=st.floats(allow_nan=False, allow_infinity=False),
            rate=rates,
            bound=rates,
        ),
        max_size=3,
    ),
)


@settings(deadline=None)
@given(
    policy=policies(), provenance=st.none() | provenances, comment=st.sampled_from(["", "a\n\nb"])
)
def test_any_policy_reads_back_equal(
    policy: Policy, provenance: Provenance | None, comment: str
) -> None:
    """In any wording, with every key; and so it keeps its version and the order of its rules."""
    whole = policy.model_copy(update={"provenance": provenance, "model": ["a/b", 'c"d']})
    back = parse_policy(policy_toml(whole, comment=comment), where="written")
    assert back == whole
    assert back.version == whole.version
    assert list(back.concepts) == list(whole.concepts)


@pytest.mark.parametrize("text", [*'"\\\x7f\x00é\u2028😀#', "\t\n", "a.b"])
def test_texts_that_toml_escapes_read_back(text: str) -> None:
    """As names of concepts too, which are keys."""
    policy = Policy.model_validate(
        {
            "name": text,
            "score": "cosine",
            "concepts": {text: {"prompts": [f"{text}x"], "threshold": 0.5}},
            "rules": [{"name": text, "action": "flag", "any": [text]}],
        }
    )
    assert parse_policy(policy_toml(policy), where="written") == policy


@pytest.mark.parametrize("model", ["ViT-L-14/openai/fp16", "other"])
def test_default_policies_read_back(model: str) -> None:
    """With all that they say."""
    policy = default_policy(model)
    assert parse_policy(policy_toml(policy), where="written") == policy


def test_what_is_written_is_what_somebody_would_write() -> None:
    """Short forms where they say all, and nothing that is as usual."""
    policy = Policy.model_validate(
        {
            "name": "short",
            "score": "cosine",
            "severity": 0.5,
            "concepts": {
                "fire": {"threshold": 0.2, "prompts": ["fire", {"text": "b", "weight": 2}]}
            },
            "controls": [{"prompts": ["c"], "threshold": 0.3, "shifts": {"fire": -0.1}}],
            "rules": [{"name": "r", "action": "block", "all": [{"concept": "fire", "weight": 3}]}],
            "provenance": {
                "model": "m/w/fp32",
                "data": "00ff",
                "date": dt.date(2026, 1, 31),
                "pictures": 10,
                "wanted_rate": 0.01,
                "curve": [{"severity": 0.0, "rate": 0.0, "bound": 0.3}],
            },
        }
    )
    assert (
        policy_toml(policy, comment="Found by somebody.\n")
        == """\
# Found by somebody.
name = "short"
score = "cosine"
severity = 0.5
unreadable = "block"
templates = ["{}"]

[provenance]
model = "m/w/fp32"
data = "00ff"
date = 2026-01-31
pictures = 10
wanted_rate = 0.01
curve = [
    { severity = 0.0, rate = 0.0, bound = 0.3 },
]

[concepts.fire]
threshold = 0.2
prompts = [
    "fire",
    { text = "b", weight = 2 },
]

[[controls]]
prompts = ["c"]
threshold = 0.3
shifts = { fire = -0.1 }

[[rules]]
name = "r"
action = "block"
all = [{ concept = "fire", weight = 3 }]
"""
    )
