"""Numbers as people read them."""

import math
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

from safety_proxy.evaluation.bounds import Rate

# Between a number and its unit: no line ends there.
_SPACE = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float, decimals: int, *, up: bool = False) -> str:
    """A share with so many decimals, that columns of them line up; "-" if there is none.

    up: round up, for a bound that must not look lower than it is.
    """
    if math.isnan(share):
        return "-"
    # The digits past the twelfth are the machine's; rounding up must not take them for more.
    exact = Decimal(f"{share * 100:.12g}")
    rounding = ROUND_CEILING if up else ROUND_HALF_EVEN
    return f"{exact.quantize(Decimal(1).scaleb(-decimals), rounding):f}{_SPACE}%"


def decimals_of(pictures: int) -> int:
    """How many decimals of a percentage mean something in a sample of this size."""
    return max(1, math.ceil(math.log10(max(1, pictures) / 100)) + 1)


def share_of(rate: Rate) -> str:
    """The share that was seen."""
    return percent(rate.share, decimals_of(rate.pictures))


def bound_of(rate: Rate) -> str:
    """The bound, rounded up."""
    return percent(rate.bound, decimals_of(rate.pictures), up=True)


def in_percent(fraction: float) -> str:
    """A fraction that somebody has written down, with no more decimals than it has."""
    return f"{Decimal(f'{fraction * 100:.12g}'):f}{_SPACE}%"


def described(rate: Rate) -> str:
    """`3 of 1,000, 0.30 %, at most 0.78 %`."""
    return f"{rate.hits:,} of {rate.pictures:,}, {share_of(rate)}, at most {bound_of(rate)}"


def level(severity: float) -> str:
    """A severity with its three decimals, or `never`: no severity does it."""
    if severity == math.inf:
        return "never"
    if severity == -math.inf:
        return "always"
    return f"{round(severity, 3) + 0.0:.3f}"  # + 0.0: there is no minus zero
