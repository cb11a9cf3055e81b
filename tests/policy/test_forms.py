"""Tests of safety_proxy/policy/forms.py: scores, and the scale of severities."""

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety_proxy.policy.forms import Contrast, Cosine, Form, form_of

probabilities = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)
severities = st.integers(-500, 500).map(lambda hundredths: hundredths / 100)


@pytest.mark.parametrize("form", [Cosine(100.0), Contrast(100.0, None)])
@given(threshold=probabilities, severity=severities)
def test_a_moved_threshold_is_the_severity_lower_in_levels(
    form: Form, threshold: float, severity: float
) -> None:
    """In both forms: the same number moves both by the same odds."""
    moved = form.moved(threshold, severity)
    before, after = form.levels(np.array([threshold, moved]))
    assert before - after == pytest.approx(severity, abs=2e-5)
    assert form.moved(threshold, 0.0) == threshold


def test_one_is_a_hundredth_of_a_cosine_and_e_times_the_odds() -> None:
    """As the documentation says of CLIP's scale."""
    assert Cosine(100.0).moved(0.2, 1.0) == pytest.approx(0.19)
    moved = Contrast(100.0, None).moved(0.5, 1.0)
    assert moved == pytest.approx(0.2689, abs=1e-4)
    assert (1 - moved) / moved == pytest.approx(exp(1))


@pytest.mark.parametrize("form", [Cosine(50.0), Contrast(50.0, None)])
@given(low=probabilities, high=probabilities)
def test_levels_rise_with_scores(form: Form, low: float, high: float) -> None:
    """Equal for equal ones."""
    levels = form.levels(np.array([low, high]))
    assert (levels[0] < levels[1]) == (low < high)
    assert (levels[0] == levels[1]) == (low == high)


def test_probabilities_outside_are_never_or_as_good_as_certain() -> None:
    """Shifts may lead there."""
    levels = Contrast(1.0, None).levels(np.array([-0.2, 0.0, 1.0, 1.3]))
    assert levels[:2].tolist() == [-np.inf, -np.inf]
    assert levels[2] == levels[3] == pytest.approx(53 * log(2), abs=0.1)


def test_form_of_a_policy_s_score() -> None:
    """By its name."""
    assert form_of("cosine", 10.0, None) == Cosine(10.0)
    assert form_of("contrast", 10.0, -1.0) == Contrast(10.0, -1.0)
