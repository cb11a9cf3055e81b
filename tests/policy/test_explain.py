"""Tests of safety_proxy/policy/explain.py: why a picture got its action, what would change it."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.crops import Float32Array
from safety_proxy.policy.explain import Explanation, ThresholdChange
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy, parse_policy
from safety_proxy.verdict import Action
from tests.policy.policies import judge_of, policies, rows

POLICY = """
name = "fire and water"
score = "cosine"

[concepts.fire]
threshold = 0.2
critical = 0.24
prompts = ["flame", { text = "ember", threshold = 0.21, critical = 0.25, weight = 2 }]

[concepts.water]
threshold = 0.3
prompts = ["wave"]

[[controls]]
prompts = ["sunset", "dusk"]
threshold = 0.25
shifts = { fire = -0.03 }

[[rules]]
name = "both"
action = "block"
all = [{ concept = "fire", weight = 3 }, "water"]

[[rules]]
name = "one"
action = "flag"
any = ["water", { concept = "fire", weight = 2 }]
"""
TEXTS = ("flame", "ember", "wave", "sunset", "dusk")


def judge(text: str = POLICY) -> Judge:
    policy = parse_policy(text, where="test")
    axes = np.eye(len(TEXTS) + 1, dtype=np.float32)
    return Judge(
        policy,
        lambda texts: axes[[TEXTS.index(text) for text in texts]],
        logit_scale=100,
        logit_bias=None,
    )


def frames(*cosines: tuple[float, ...]) -> Float32Array:
    """Rows with these cosines to TEXTS, as far as they are given."""
    result = np.zeros((len(cosines), len(TEXTS) + 1), np.float32)
    for row, values in zip(result, cosines, strict=True):
        row[: len(values)] = values
        row[-1] = np.sqrt(1 - sum(value * value for value in values))
    return result


def explained(*cosines: tuple[float, ...], text: str = POLICY) -> Explanation:
    return judge(text).explain(frames(*cosines), [f"frame {n}" for n in range(len(cosines))])


def test_every_prompt_is_told_with_its_bounds_and_weight() -> None:
    """Found, critical or neither."""
    (place,) = explained((0.22, 0.26, 0.1)).places
    assert place.where == "frame 0"
    fire, water = place.concepts
    assert [(c.concept, c.weight, c.shift) for c in (fire, water)] == [
        ("fire", 7, 0),
        ("water", 0, 0),
    ]
    flame, ember = fire.prompts
    assert (flame.text, flame.threshold, flame.critical, flame.weight) == ("flame", 0.2, 0.24, 1)
    assert (ember.text, ember.threshold, ember.critical, ember.weight) == ("ember", 0.21, 0.25, 6)
    assert [p.score for p in fire.prompts] == pytest.approx([0.22, 0.26], abs=1e-6)
    assert [(p.is_found, p.is_critical) for p in (*fire.prompts, *water.prompts)] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert water.prompts[0].critical is None


def test_controls_tell_what_they_shifted() -> None:
    """In each place by itself, by the prompt that fits best."""
    strong = (0.25, 0.0, 0.3)
    shifted, plain = explained((*strong, 0.1, 0.26), strong).places
    (control,) = shifted.controls
    assert (control.prompt, control.is_found, control.threshold) == ("dusk", True, 0.25)
    assert control.score == pytest.approx(0.26, abs=1e-6)
    assert control.shifts == (("fire", -0.03),)
    assert shifted.concepts[0].shift == -0.03
    assert shifted.concepts[0].prompts[0].score == pytest.approx(0.22, abs=1e-6)
    assert [(c.is_found, c.shifts) for c in plain.controls] == [(False, ())]
    assert plain.concepts[0].shift == 0


def test_a_rule_tells_what_it_lacks_where_it_is_nearest() -> None:
    """Of `all` each entry that is missing, of `any` all of them if none is there."""
    both, one = explained((0.1,), (0.205, 0.0, 0.1)).rules
    assert (both.is_held, both.where) == (False, "frame 1")
    assert [(m.concept, m.weight, m.wanted) for m in both.missing] == [
        ("fire", 1, 3),
        ("water", 0, 1),
    ]
    assert [(m.concept, m.weight, m.wanted) for m in one.missing] == [
        ("water", 0, 1),
        ("fire", 1, 2),
    ]
    both, one = explained((0.205, 0.0, 0.35)).rules
    assert [m.concept for m in both.missing] == ["fire"]
    assert (one.is_held, one.missing) == (True, ())


def test_severities_are_logits_from_the_nearest_rule() -> None:
    """At a scale of 100 a cosine of 0.01 is one."""
    explanation = explained((0.22, 0.0, 0.28))
    both, one = explanation.rules
    # fire needs its critical 0.24, water its threshold 0.3: 2 logits each
    assert both.severity == pytest.approx(2, abs=1e-4)
    assert one.severity == pytest.approx(2, abs=1e-4)
    assert dict(explanation.severities) == {
        Action.FLAG: pytest.approx(2, abs=1e-4),
        Action.BLOCK: pytest.approx(2, abs=1e-4),
    }
    assert (explanation.action, explanation.severity) == (Action.ALLOW, 0)


def test_bounds_are_told_as_the_severity_has_moved_them() -> None:
    """And the change as it is to be written in the file."""
    text = POLICY.replace('"cosine"', '"cosine"\nseverity = 1.0', 1)
    explanation = explained((0.0, 0.0, 0.3), text=text)
    water = explanation.places[0].concepts[1].prompts[0]
    assert water.threshold == pytest.approx(0.29)
    change = explanation.rules[1].change
    assert change is not None
    assert change.written == 0.3
    assert change.needed == pytest.approx(0.31, abs=2e-5)


def test_an_action_that_no_rule_has_is_never_reached() -> None:
    """Infinite, not very large."""
    text = POLICY.replace('action = "block"', 'action = "flag"')
    assert dict(explained((0.9, 0.0, 0.3), text=text).severities)[Action.BLOCK] == inf


@pytest.mark.parametrize(
    ("cosines", "rule", "change"),
    [
        # a rule that holds: the nearest bound over a score
        ((0.25, 0.0, 0.305), 0, ("water", "wave", "threshold", 0.3, 0.30501, Action.FLAG)),
        ((0.241, 0.0, 0.35), 0, ("fire", "flame", "critical", 0.24, 0.24101, Action.FLAG)),
        # one that does not: the nearest bound under one
        ((0.25, 0.0, 0.295), 0, ("water", "wave", "threshold", 0.3, 0.29499, Action.BLOCK)),
        ((0.23, 0.0, 0.35), 0, ("fire", "flame", "critical", 0.24, 0.23, Action.BLOCK)),
        # two are too far: fire weighs 1 and water 0
        ((0.21, 0.0, 0.29), 0, None),
    ],
)
def test_the_smallest_single_change_that_flips_a_rule_is_named(
    cosines: tuple[float, ...], rule: int, change: tuple[object, ...] | None
) -> None:
    """With what the picture gets then, other rules included."""
    told = explained(cosines).rules[rule].change
    if change is None:
        assert told is None
    else:
        assert told is not None
        fields = (told.concept, told.prompt, told.bound, told.written, told.needed, told.action)
        assert fields == change


def with_change(policy: Policy, change: ThresholdChange) -> Policy:
    """The policy with that one number written as its prompt's own."""
    data = policy.model_dump()
    (prompt,) = [
        prompt
        for prompt in data["concepts"][change.concept]["prompts"]
        if prompt["text"] == change.prompt
    ]
    prompt[change.bound] = change.needed
    return Policy.model_validate(data)


@settings(deadline=None, max_examples=150)
@given(policy=policies(), seed=st.integers(0, 99), count=st.integers(1, 3))
def test_a_named_change_does_what_is_said(policy: Policy, seed: int, count: int) -> None:
    """Made in the policy, it flips the rule and gives the action; and all else agrees with it."""
    judge = judge_of(policy)
    embeddings, places = rows(seed, count), [str(n) for n in range(count)]
    explanation = judge.explain(embeddings, places)
    judgment = judge.judge(embeddings, places)
    held = {reason.rule for reason in judgment.reasons}
    assert explanation.action is judgment.action
    assert {rule.rule for rule in explanation.rules if rule.is_held} == held
    for action, severity in explanation.severities:
        one = judge.severity_of(embeddings, np.zeros(1, np.int64), action)
        assert severity == one[0]
    for rule in explanation.rules:
        assert rule.is_held == (rule.severity <= np.float32(policy.severity))
        assert rule.is_held == (not rule.missing)
        if rule.change is not None:
            after = judge_of(with_change(policy, rule.change)).judge(embeddings, places)
            assert (rule.rule in {r.rule for r in after.reasons}) is not rule.is_held
            assert after.action is rule.change.action
