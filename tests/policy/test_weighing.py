"""Tests of safety_proxy/policy/weighing.py: which rules hold, and from which severity on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.policy.policy import Policy
from tests.policy.policies import judge_of, policies, rows


@settings(deadline=None, max_examples=150)
@given(policy=policies(), seed=st.integers(0, 99))
def test_a_rule_holds_exactly_from_its_severity_on(policy: Policy, seed: int) -> None:
    """At it, just below it, and anywhere: two ways to one answer."""
    judge = judge_of(policy)
    needs = judge.scales.needs(judge.scorer.score(rows(seed, 5)).prompts)
    severities = judge.scales.severities(needs)
    finite = severities[np.isfinite(severities)]
    tried = [*finite, *np.nextafter(finite, np.float32(-np.inf)), -9, -0.5, 0, 0.5, 9]
    for severity in tried:
        held = judge.scales.held(needs, float(severity))
        assert np.array_equal(held, severities <= severity)


@settings(deadline=None, max_examples=100)
@given(policy=policies(), seed=st.integers(0, 99))
def test_weights_are_those_of_the_definition(policy: Policy, seed: int) -> None:
    """Written out: found from the threshold on, three times as heavy from the critical one."""
    judge = judge_of(policy.with_severity(0.0))
    scores = judge.scorer.score(rows(seed, 4)).prompts
    weights = judge.scales.weights(judge.scales.needs(scores), 0.0)
    prompts = [(c, prompt) for c in policy.concepts.values() for prompt in c.prompts]
    for column, (concept, prompt) in enumerate(prompts):
        threshold, critical = concept.bounds(prompt)
        for row in range(4):
            score = scores[row, column]
            expected = prompt.weight if score >= threshold else 0
            if critical is not None and score >= critical:
                expected = 3 * prompt.weight
            assert weights[row, column] == expected
