"""Everything that an evaluation came to, as one value; the table, the JSON and the page show it."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from safety_proxy.evaluation.bounds import CONFIDENCE, Rate
from safety_proxy.evaluation.calibration import Choice, Point
from safety_proxy.evaluation.groups import Group
from safety_proxy.evaluation.tally import Standout, Survey
from safety_proxy.policy.forms import Form
from safety_proxy.policy.policy import Policy
from safety_proxy.verdict import Action


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What `policy`, as it was before any calibration, makes of the pictures.

    source, must_block_source: what was looked at, as it may be shown. form: of the scores.
    made: when. must_block: of the pictures that must be caught; None if none were given.
    choice, curve: of `calibrate`; None and empty for `evaluate`.
    """

    source: str
    policy: Policy
    form: Form
    made: datetime
    harmless: Survey
    groups: tuple[Group, ...]
    must_block_source: str = ""
    must_block: Survey | None = None
    choice: Choice | None = None
    curve: tuple[Point, ...] = ()

    @property
    def blocked(self) -> Rate:
        return self.harmless.rate(Action.BLOCK)

    @property
    def flagged(self) -> Rate:
        """At least flagged: those that are blocked count too."""
        return self.harmless.rate(Action.FLAG)

    @property
    def missed(self) -> Rate | None:
        """Of the pictures that must be caught, those that the policy does not block as it is."""
        if self.must_block is None:
            return None
        caught = self.must_block.rate(Action.BLOCK)
        return Rate(caught.pictures - caught.hits, caught.pictures)

    def thresholds(self, concept: str, severity: float) -> tuple[float, float]:
        """The lowest and the highest threshold of a concept's prompts at a severity."""
        tables = self.policy.concepts[concept]
        moved = [self.form.moved(tables.bounds(prompt)[0], severity) for prompt in tables.prompts]
        return min(moved), max(moved)


def as_document(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON has it: plain values, rates as fractions, no severity as null."""
    harmless = outcome.harmless
    document: dict[str, Any] = {
        "made": outcome.made.isoformat(timespec="seconds"),
        "model": harmless.model,
        "policy": {
            "name": outcome.policy.name,
            "version": outcome.policy.version,
            "severity": outcome.policy.severity,
        },
        "confidence": CONFIDENCE,
        "harmless": {"source": outcome.source, **_survey(harmless)},
        "blocked": _rate(outcome.blocked),
        "flagged_or_blocked": _rate(outcome.flagged),
        "groups": [_group(group) for group in outcome.groups],
    }
    if outcome.must_block is not None and outcome.missed is not None:
        document["must_block"] = {
            "source": outcome.must_block_source,
            **_survey(outcome.must_block),
        }
        document["missed"] = _rate(outcome.missed)
    if outcome.choice is not None:
        document["calibration"] = _choice(outcome.choice)
        document["curve"] = [
            {"severity": point.severity, **_rate(point.blocked)} for point in outcome.curve
        ]
    return document


def _survey(survey: Survey) -> dict[str, Any]:
    return {
        "pictures": survey.pictures,
        "data_digest": survey.data_digest,
        "duplicates": survey.duplicates,
        "unreadable": survey.unreadable,
        "failed": survey.failed,
        "problems": [
            {"name": problem.name, "problem": problem.problem} for problem in survey.problems
        ],
        "rules": survey.rules,
        "standouts": [_standout(standout) for standout in survey.standouts],
    }


def _standout(standout: Standout) -> dict[str, Any]:
    return {
        "name": standout.name,
        "sha256": standout.sha256,
        "action": standout.action.value,
        "reasons": [str(reason) for reason in standout.reasons],
        "block_severity": _finite(standout.block_severity),
        "flag_severity": _finite(standout.flag_severity),
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {
        "hits": rate.hits,
        "pictures": rate.pictures,
        "share": _finite(rate.share),
        "upper_bound": rate.bound,
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "blocked": _rate(group.blocked),
        "flagged_or_blocked": _rate(group.flagged),
        "far_above_the_rest": group.is_far_above,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "wanted_rate": choice.wanted,
        "severity": choice.severity,
        "blocked": _rate(choice.blocked),
        "flagged_or_blocked": _rate(choice.flagged),
        "bound_keeps_the_rate": choice.is_shown,
        "missed": None if choice.missed is None else _rate(choice.missed),
        "severity_that_misses_none": _finite(choice.needed_severity),
    }


def _finite(number: float | None) -> float | None:
    """JSON has no word for infinity."""
    return number if number is not None and math.isfinite(number) else None
