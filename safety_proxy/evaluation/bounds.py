"""How high a rate may really be, given what a sample of independent pictures showed.

The bound is Clopper and Pearson's, one-sided, at 95 %: the highest rate at which so few hits, or
fewer, still happen in one sample of twenty. One-sided, because the only question is how bad it may
be at most; a two-sided interval's upper end answers that at 97.5 % and asks for more pictures.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """So many of so many pictures. Without pictures nothing is known: the bound is 1."""

    hits: int
    pictures: int

    @property
    def share(self) -> float:
        """What was seen, in [0, 1]; NaN of no pictures."""
        return self.hits / self.pictures if self.pictures else math.nan

    @property
    def bound(self) -> float:
        """What the real rate is below, at CONFIDENCE."""
        return float(upper_bounds(self.hits, self.pictures))


def upper_bounds(hits: ArrayLike, pictures: int) -> NDArray[np.float64]:
    """The bound for each number of hits among `pictures`; of the shape of `hits`.

    hits: 0 <= hits <= pictures.
    """
    # `serve` must not pay for this import.
    from scipy.special import betaincinv  # type: ignore[import-untyped] # noqa: PLC0415

    array = np.asarray(hits, np.float64)
    certain = array >= pictures
    # The quantile of the beta distribution with these parameters, which has none for n of n.
    beta = betaincinv(array + 1, np.where(certain, 1, pictures - array), CONFIDENCE)
    bounds: NDArray[np.float64] = np.where(certain, 1.0, beta)
    return bounds


def most_hits(pictures: int, rate: float) -> int | None:
    """The most hits among `pictures` whose bound is not over `rate`; None if not even 0 is."""
    low, high = -1, pictures
    while low < high:
        middle = (low + high + 1) // 2
        if upper_bounds(middle, pictures) <= rate:
            low = middle
        else:
            high = middle - 1
    return low if low >= 0 else None


def pictures_needed(rate: float) -> int:
    """The fewest pictures that, with no hit among them, have a bound not over `rate`.

    rate: 0 < rate < 1. The bound is then 1 - 0.05 ** (1 / n).
    """
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate))
    # Rounding may have put it one off on either side.
    return next(n for n in (needed - 1, needed, needed + 1) if n > 0 and _shows(n, rate))


def _shows(pictures: int, rate: float) -> bool:
    return float(upper_bounds(0, pictures)) <= rate
