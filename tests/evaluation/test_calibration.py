"""Tests of safety_proxy/evaluation/calibration.py: known severities give the exact choice."""

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]

from safety_proxy.evaluation.bounds import Rate, pictures_needed
from safety_proxy.evaluation.calibration import (
    TooFewPictures,
    Unreachable,
    calibrated,
    choose,
    curve,
    missed_at,
)
from safety_proxy.evaluation.tally import Survey
from safety_proxy.policy.policy import parse_policy
from safety_proxy.policy.writer import policy_toml
from safety_proxy.verdict import Action
from tests.evaluation.scenes import survey_of
from tests.fakes import color_policy

# 0.5, 0.51, ... 3.49: of 300 pictures, of which at 5 % the first eight may be blocked.
LADDER = [0.5 + 0.01 * number for number in range(300)]
MOST = 8


def test_ladder_is_as_the_tests_below_take_it() -> None:
    """Eight hits of 300 keep 5 % at 95 %, nine do not: scipy says so, not this package."""

    def bound(hits: int) -> float:
        interval = binomtest(hits, 300, alternative="less").proportion_ci(0.95, method="exact")
        return float(interval.high)

    assert bound(MOST) <= 0.05 < bound(MOST + 1)


def test_choice_lies_just_below_the_first_that_must_not_be_blocked() -> None:
    """The ninth of the ladder is blocked from 0.58 on, so 0.579 is the most severe setting."""
    choice = choose(survey_of(LADDER), 0.05)
    assert choice.severity == 0.579
    assert choice.blocked == Rate(MOST, 300)
    assert choice.flagged == Rate(MOST, 300)
    expected = binomtest(MOST, 300, alternative="less").proportion_ci(0.95, method="exact").high
    assert choice.blocked.bound == pytest.approx(expected, rel=1e-9)
    assert choice.is_shown


@pytest.mark.parametrize("seed", range(5))
def test_order_and_ties_do_not_matter(seed: int) -> None:
    """Pictures of one severity are blocked together or not at all."""
    random = np.random.default_rng(seed)
    assert choose(survey_of(random.permutation(LADDER)), 0.05).severity == 0.579
    tied = [*LADDER[:5], *[0.56] * 8, *LADDER[13:]]
    choice = choose(survey_of(random.permutation(tied)), 0.05)
    assert choice.severity == 0.559
    assert choice.blocked == Rate(5, 300)


def test_one_step_more_severe_would_pass_the_rate() -> None:
    """The choice is the last that keeps it."""
    survey = survey_of(LADDER)
    choice = choose(survey, 0.05)
    assert survey.rate_at(choice.severity + 0.002, Action.BLOCK).bound > 0.05


def test_a_sample_that_can_show_nothing_says_how_many_it_takes() -> None:
    """None of 58 may be 5.03 %; 59 can show 5 %."""
    with pytest.raises(
        TooFewPictures, match=r"A sample of 58 .* up to 0\.05.* at least 59 distinct"
    ):
        choose(survey_of(LADDER[:58]), 0.05)
    assert pictures_needed(0.05) == 59
    choice = choose(survey_of(LADDER[:59]), 0.05)
    assert (choice.severity, choice.blocked.hits, choice.is_shown) == (0.499, 0, True)


def test_point_estimate_is_taken_when_asked_and_says_that_it_shows_nothing() -> None:
    """Two of 58 are within 5 %; the bound is not."""
    choice = choose(survey_of(LADDER[:58]), 0.05, point_estimate=True)
    assert choice.severity == 0.519
    assert choice.blocked == Rate(2, 58)
    assert choice.blocked.bound > 0.05
    assert not choice.is_shown


def test_point_estimate_changes_nothing_for_a_sample_that_suffices() -> None:
    """It is a way out, not a way to a laxer reading."""
    assert choose(survey_of(LADDER), 0.05, point_estimate=True) == choose(survey_of(LADDER), 0.05)


def survey_with(severities: list[float]) -> Survey:
    """A survey with these block severities, for what no embedding of the tests' model gives."""
    survey = survey_of([1.0] * len(severities))
    return replace(survey, block_severities=np.array(severities, np.float32))


def test_a_policy_that_never_blocks_gets_the_highest_severity() -> None:
    """No rule of it leads to a block."""
    assert choose(survey_with([math.inf] * 100), 0.05).severity == 20


def test_a_policy_that_always_blocks_has_no_choice() -> None:
    """However mild: the message says how many, and what to look at."""
    with pytest.raises(Unreachable, match=r"blocks 100 of 100 .* change those"):
        choose(survey_with([-math.inf] * 100), 0.05)
    with pytest.raises(Unreachable):
        choose(survey_with([-25.0] * 100), 0.05)


def test_every_picture_may_be_blocked_if_the_rate_says_so() -> None:
    """With n of n allowed there is no picture to stay below."""
    assert choose(survey_with([1.0]), 0.999, point_estimate=True).blocked == Rate(0, 1)
    assert choose(survey_with([1.0] * 3), 0.99).severity < 1


def test_the_price_for_what_must_be_caught_is_told() -> None:
    """Missed at the choice, and from where on nothing is missed."""
    must_block = survey_of([0.1, 0.4, 0.7, 1.2], furthest=True)
    choice = choose(survey_of(LADDER), 0.05, must_block=must_block)
    assert choice.severity == 0.579  # not moved by it: the wanted rate decides
    assert choice.missed == Rate(2, 4)
    assert choice.needed_severity == 1.201
    assert missed_at(must_block, 1.201) == Rate(0, 4)
    assert missed_at(must_block, 1.199) == Rate(1, 4)


def test_what_no_severity_catches_needs_more_than_any() -> None:
    """Infinity, not a number that would not do."""
    choice = choose(survey_of(LADDER), 0.05, must_block=survey_with([0.1, math.inf]))
    assert choice.needed_severity == math.inf


def test_curve_rises_and_holds_the_choice() -> None:
    """Each point's rate is that of the sample there."""
    survey = survey_of(LADDER)
    choice = choose(survey, 0.05)
    points = curve(survey, choice)
    severities = [point.severity for point in points]
    assert severities == sorted(set(severities))
    assert choice.severity in severities
    assert points[0].blocked == Rate(0, 300)
    for point in points:
        expected = sum(severity <= point.severity for severity in LADDER)
        assert point.blocked.hits == expected


def test_calibrated_policy_says_on_what_it_rests() -> None:
    """And its file reads back as the same policy."""
    survey = survey_of(LADDER)
    choice = choose(survey, 0.05)
    points = curve(survey, choice)
    policy = calibrated(color_policy(), survey, choice, points, date(2026, 1, 2))
    assert policy.severity == 0.579
    assert policy.model == ["fake"]
    assert "8 of 300 harmless pictures blocked, at most" in policy.note
    assert policy.rules == color_policy().rules
    provenance = policy.provenance
    assert provenance is not None
    assert (provenance.model, provenance.data) == ("fake/fp32", survey.data_digest)
    assert (provenance.date, provenance.pictures) == (date(2026, 1, 2), 300)
    assert provenance.wanted_rate == 0.05
    assert [(point.severity, point.rate, point.bound) for point in provenance.curve] == [
        (point.severity, point.blocked.share, point.blocked.bound) for point in points
    ]
    assert parse_policy(policy_toml(policy), where="test") == policy


def test_a_point_estimate_is_named_in_the_policy() -> None:
    """Nobody who reads the file takes it for more."""
    survey = survey_of(LADDER[:58])
    choice = choose(survey, 0.05, point_estimate=True)
    policy = calibrated(color_policy(), survey, choice, (), date(2026, 1, 2))
    assert "point estimate" in policy.note
