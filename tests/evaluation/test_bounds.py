"""Tests of safety_proxy/evaluation/bounds.py: the exact binomial bound, against scipy's own."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]

from safety_proxy.evaluation.bounds import Rate, most_hits, pictures_needed, upper_bounds

TABLE = [
    (hits, pictures)
    for pictures in (1, 2, 10, 59, 299, 2995, 100_000)
    for hits in sorted({0, 1, pictures // 7, pictures // 2, pictures - 1, pictures})
    if hits <= pictures
]


@pytest.mark.parametrize(("hits", "pictures"), TABLE)
def test_bound_is_the_exact_binomial_one(hits: int, pictures: int) -> None:
    """One-sided Clopper-Pearson: what scipy gives for the alternative `less`."""
    interval = binomtest(hits, pictures, alternative="less").proportion_ci(0.95, method="exact")
    assert Rate(hits, pictures).bound == pytest.approx(interval.high, rel=1e-9)
    assert Rate(hits, pictures).share == hits / pictures


@pytest.mark.parametrize("pictures", [1, 59, 300, 100_000])
def test_bound_without_a_hit_has_a_closed_form(pictures: int) -> None:
    """1 - 0.05 ** (1 / n)."""
    assert Rate(0, pictures).bound == pytest.approx(1 - 0.05 ** (1 / pictures), rel=1e-9)


def test_all_of_all_and_none_of_none_bound_nothing() -> None:
    """The rate may be 1; of no picture not even a share is known."""
    assert Rate(7, 7).bound == 1
    assert Rate(0, 0).bound == 1
    assert math.isnan(Rate(0, 0).share)


def test_bounds_of_many_are_those_of_each() -> None:
    """An array goes through as its elements would, and rises."""
    bounds = upper_bounds(np.arange(51), 50)
    assert bounds.tolist() == [Rate(hits, 50).bound for hits in range(51)]
    assert (np.diff(bounds) > 0).all()
    assert bounds[-1] == 1


@pytest.mark.parametrize("rate", [0.5, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("pictures", [1, 10, 299, 2995, 20_000])
def test_most_hits_is_the_last_whose_bound_keeps_the_rate(pictures: int, rate: float) -> None:
    """One more hit would pass the rate; None if no hit at all already does."""
    hits = most_hits(pictures, rate)
    if hits is None:
        assert Rate(0, pictures).bound > rate
    else:
        assert Rate(hits, pictures).bound <= rate < Rate(hits + 1, pictures).bound


@pytest.mark.parametrize("rate", [0.9, 0.5, 0.05, 0.01, 0.001, 1e-6])
def test_pictures_needed_is_the_least_sample_that_can_show_the_rate(rate: float) -> None:
    """One picture less cannot."""
    needed = pictures_needed(rate)
    assert Rate(0, needed).bound <= rate
    assert Rate(0, needed - 1).bound > rate


def test_import_costs_no_scipy() -> None:
    """The server loads this package's neighbors and must not pay for what it never uses."""
    code = (
        "import sys, safety_proxy.evaluation.bounds; "
        "sys.exit(any(name in sys.modules for name in ('scipy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
