"""Numbers as people read them."""

import math
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal

from safety_proxy.evaluation.bounds import Rate

# Between a number and its unit: no line ends there.
_SPACE = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float, *, up: bool = False) -> str:
    """A share with three digits that count, never in powers of ten; "-" if there is none.

    up: round up, for a bound that must not look lower than it is.
    """
    if math.isnan(share):
        return "-"
    rounding = ROUND_CEILING if up else ROUND_HALF_EVEN
    # The digits past the twelfth are the machine's; rounding up must not take them for more.
    exact = Decimal(f"{share * 100:.12g}")
    rounded = exact.normalize(Context(prec=3, rounding=rounding))
    return f"{rounded:f}{_SPACE}%"


def described(rate: Rate) -> str:
    """`3 of 1,000, 0.3 %, at most 0.774 %`."""
    return (
        f"{rate.hits:,} of {rate.pictures:,}, {percent(rate.share)}, "
        f"at most {percent(rate.bound, up=True)}"
    )


def level(severity: float) -> str:
    """A severity, or `never`: no severity does it."""
    if severity == math.inf:
        return "never"
    if severity == -math.inf:
        return "always"
    return f"{round(severity, 4) + 0.0:.4f}".rstrip("0").rstrip(".")  # + 0.0: no minus zero
