"""A survey and a wanted rate -> the most severe setting that keeps the rate.

The severities at which the sample's pictures would be blocked are sorted, and the setting goes
just below the first that must not be. So it is an order statistic, and the bound holds for it as
if it had been fixed beforehand: the rate below the (k + 1)-th smallest of n values has the beta
distribution whose quantile the bound of k hits is (Wilks 1941), however the values are spread.
"""

import math
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from safety_proxy.errors import SafetyProxyError
from safety_proxy.evaluation.bounds import CONFIDENCE, Rate, most_hits, pictures_needed
from safety_proxy.evaluation.tally import Survey
from safety_proxy.evaluation.wording import bound_of, in_percent
from safety_proxy.policy.policy import SEVERITY_LIMIT, CurvePoint, Policy, Provenance
from safety_proxy.verdict import Action

# Severities are written with so many decimals.
DECIMALS: Final = 3

# Of the curve so many points go into the policy file.
_POINTS: Final = 16


class NoChoice(SafetyProxyError):
    """No severity can be chosen; the message says why, and what to do."""

    reason = "no_choice"


class TooFewPictures(NoChoice):
    """The sample is too small to show that any setting keeps the wanted rate."""


class Unreachable(NoChoice):
    """The policy blocks more than the wanted rate however mild it is made."""


@dataclass(frozen=True, slots=True)
class Point:
    """At this severity, so many harmless pictures are blocked."""

    severity: float
    blocked: Rate


@dataclass(frozen=True, slots=True)
class Choice:
    """A severity, and what it does to the sample.

    is_shown: the bound keeps the wanted rate; otherwise only the share does, which proves nothing.
    missed: of the pictures that must be caught, those that are not; None if none were given.
    needed_severity: from which on all of those are caught; inf if no severity catches them all.
    """

    wanted: float
    severity: float
    blocked: Rate
    flagged: Rate
    is_shown: bool
    missed: Rate | None = None
    needed_severity: float | None = None


def choose(
    harmless: Survey,
    wanted: float,
    *,
    must_block: Survey | None = None,
    point_estimate: bool = False,
) -> Choice:
    """The most severe setting at which no more than `wanted` of harmless pictures are blocked.

    wanted: 0 < wanted < 1.
    point_estimate: where the sample cannot show the rate, take the severity at which its own share
    keeps it. Raises TooFewPictures there otherwise, Unreachable if no severity is low enough.
    """
    hits = most_hits(harmless.pictures, wanted)
    is_shown = hits is not None
    if hits is None:
        if not point_estimate:
            raise TooFewPictures(too_few(harmless.pictures, wanted))
        hits = math.floor(wanted * harmless.pictures)
    severity = min(_just_below_hit(harmless, hits), SEVERITY_LIMIT)
    if severity < -SEVERITY_LIMIT:
        blocked = harmless.rate_at(-SEVERITY_LIMIT, Action.BLOCK)
        raise Unreachable(
            f"Even at the lowest severity, {-SEVERITY_LIMIT:g}, the policy blocks {blocked.hits:,} "
            f"of {blocked.pictures:,} harmless pictures. Its prompts or rules do not fit: see "
            "which rules hold for the highest-scoring pictures, and change those."
        )
    return Choice(
        wanted,
        severity,
        harmless.rate_at(severity, Action.BLOCK),
        harmless.rate_at(severity, Action.FLAG),
        is_shown,
        None if must_block is None else missed_at(must_block, severity),
        None if must_block is None else _needed(must_block),
    )


def too_few(pictures: int, wanted: float) -> str:
    """What a sample of this size cannot say, and which could."""
    bound = Rate(0, pictures).bound
    return (
        f"A sample of {pictures:,} cannot show a rate of {wanted:g}: with not one of them blocked, "
        f"the real rate may still be up to {bound:.2g} (at {in_percent(CONFIDENCE)}). It takes "
        f"at least {pictures_needed(wanted):,} distinct pictures. Add pictures, ask for a higher "
        "--rate, or take what this sample happens to show with --point-estimate."
    )


def missed_at(must_block: Survey, severity: float) -> Rate:
    """How many of the pictures that must be caught are not blocked at a severity."""
    caught = must_block.rate_at(severity, Action.BLOCK)
    return Rate(caught.pictures - caught.hits, caught.pictures)


def curve(harmless: Survey, chosen: Choice) -> tuple[Point, ...]:
    """Points of rate against severity, the chosen one among them, by rising severity."""
    pictures = harmless.pictures
    steps = np.unique(np.geomspace(1, pictures, _POINTS).astype(int))
    severities = {_just_below_hit(harmless, int(hits)) for hits in (0, *steps[:-1])}
    severities = {value for value in severities if math.isfinite(value)} | {chosen.severity}
    return tuple(
        Point(severity, harmless.rate_at(severity, Action.BLOCK)) for severity in sorted(severities)
    )


def calibrated(
    policy: Policy, harmless: Survey, choice: Choice, points: tuple[Point, ...], day: date
) -> Policy:
    """The policy at the chosen severity, with how it was found; for the model that looked."""
    bound = bound_of(choice.blocked)
    kind = "" if choice.is_shown else "point estimate, the sample is too small to show more: "
    return Policy.model_validate(
        {
            **policy.model_dump(exclude={"provenance"}),
            "note": (
                f"calibrated on {day:%Y-%m-%d}: {kind}{choice.blocked.hits} of "
                f"{harmless.pictures} harmless pictures blocked, at most {bound} at "
                f"{in_percent(CONFIDENCE)} confidence"
            ).replace("\N{NARROW NO-BREAK SPACE}", " "),
            # A fingerprint ends with the precision; the weights are the same in any.
            "model": [harmless.model.rpartition("/")[0] or harmless.model],
            "severity": choice.severity,
            "provenance": Provenance(
                model=harmless.model,
                data=harmless.data_digest,
                date=day,
                pictures=harmless.pictures,
                wanted_rate=choice.wanted,
                curve=[
                    CurvePoint(
                        severity=point.severity,
                        rate=point.blocked.share,
                        bound=point.blocked.bound,
                    )
                    for point in points
                ],
            ),
        }
    )


def _just_below_hit(survey: Survey, hits: int) -> float:
    """The highest severity, of DECIMALS, at which at most `hits` pictures are blocked."""
    if hits >= survey.pictures:
        return math.inf
    first_over = float(np.partition(survey.block_severities, hits)[hits])
    if not math.isfinite(first_over):
        return first_over
    step = 10.0**-DECIMALS
    # A value that lies on a step must end below it, also after its way through float32.
    return round(math.floor((first_over - step / 10) / step) * step, DECIMALS)


def _needed(must_block: Survey) -> float:
    """The lowest severity, of DECIMALS, that blocks all; -inf of no picture."""
    if not must_block.pictures:
        return -math.inf
    last = float(must_block.block_severities.max())
    if not math.isfinite(last):
        return last
    step = 10.0**-DECIMALS
    return round(math.ceil((last + step / 10) / step) * step, DECIMALS)
