"""Tests of safety_proxy/evaluation/wording.py: numbers that line up and flatter nothing."""

import math

import pytest

from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.wording import (
    bound_of,
    decimals_of,
    described,
    in_percent,
    level,
    percent,
)


@pytest.mark.parametrize(
    ("share", "decimals", "up", "shown"),
    [
        (0.0, 3, False, "0.000"),
        (1.0, 1, False, "100.0"),
        (0.0012345, 3, False, "0.123"),
        (0.0012301, 3, True, "0.124"),
        (0.00123, 3, True, "0.123"),  # 0.123 to the last bit that counts: not to be raised
        (1 / 3, 2, False, "33.33"),
    ],
)
def test_percent_has_its_decimals(share: float, decimals: int, up: bool, shown: str) -> None:  # noqa: FBT001 -- a table
    """Rounded to the nearest, or up."""
    assert percent(share, decimals, up=up).replace("\u202f", " ") == f"{shown} %"


def test_no_pictures_have_no_share() -> None:
    """A dash, not a NaN."""
    assert percent(math.nan, 3) == "-"


@pytest.mark.parametrize(("pictures", "decimals"), [(1, 1), (100, 1), (3_000, 3), (100_000, 4)])
def test_a_larger_sample_shows_more_decimals(pictures: int, decimals: int) -> None:
    """One picture more or less can always be seen."""
    assert decimals_of(pictures) == decimals
    assert pictures < 100 or 10**-decimals <= 100 / pictures


@pytest.mark.parametrize("hits", range(20))
def test_shown_bound_is_never_below_the_bound(hits: int) -> None:
    """Rounding must not make a policy look better than it was shown to be."""
    rate = Rate(hits, 777)
    assert float(bound_of(rate).rstrip("\u202f%")) / 100 >= rate.bound - 1e-14


def test_a_rate_is_told_in_one_line() -> None:
    """Counts, share, bound."""
    told = described(Rate(3, 1000)).replace("\u202f", " ")
    assert told == "3 of 1,000, 0.30 %, at most 0.78 %"


@pytest.mark.parametrize(
    ("severity", "shown"),
    [(0.5, "0.500"), (-0.0001, "0.000"), (-1.25, "-1.250"), (math.inf, "never")],
)
def test_severities_line_up(severity: float, shown: str) -> None:
    """Three decimals, no minus zero, and a word for what no severity does."""
    assert level(severity) == shown
    assert level(-math.inf) == "always"


def test_written_fractions_are_told_as_they_were_asked() -> None:
    """Without decimals that nobody wrote."""
    assert [in_percent(rate).rstrip("\u202f%") for rate in (0.001, 0.00025, 0.1)] == [
        "0.1",
        "0.025",
        "10",
    ]
