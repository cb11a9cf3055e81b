"""The outcome on a terminal: few lines and tables, in which no file name can do anything."""

import math
from collections.abc import Iterator
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from safety_proxy.evaluation.bounds import CONFIDENCE, Rate
from safety_proxy.evaluation.calibration import missed_at
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.tally import Survey
from safety_proxy.evaluation.wording import bound_of, described, in_percent, level, share_of
from safety_proxy.verdict import Action

_STANDOUTS_SHOWN: Final = 10
_GROUPS_SHOWN: Final = 20
_PROBLEMS_SHOWN: Final = 5


def summary(outcome: Outcome) -> Iterator[RenderableType]:
    """What is to be printed, one below the other."""
    harmless = outcome.harmless
    yield Text(
        f"Policy {outcome.policy.name!r} at severity {level(outcome.policy.severity)}, "
        f"model {harmless.model}"
    )
    yield _rates(outcome)
    yield Text(f"At most: upper bound at {in_percent(CONFIDENCE)} (Clopper-Pearson, one-sided).")
    yield from _without_verdict(harmless)
    if outcome.must_block is not None:
        yield from _without_verdict(outcome.must_block)
    yield _rules(outcome)
    if outcome.groups:
        yield _groups(outcome)
    high = [group.name or "(top)" for group in outcome.groups if group.is_far_above]
    if high:
        yield Text(f"Warning: far above the rest: {', '.join(high)}", style="bold red")
    yield _nearest(harmless)
    if outcome.choice is not None:
        yield from _choice(outcome)


def _rates(outcome: Outcome) -> Table:
    table = _numbers("", "pictures", "share", "at most")
    rates = [("blocked", outcome.blocked), ("flagged or blocked", outcome.flagged)]
    if outcome.missed is not None:
        rates.append(("missed of those that must be caught", outcome.missed))
    for name, rate in rates:
        table.add_row(name, *_cells(rate))
    return table


def _without_verdict(survey: Survey) -> Iterator[Text]:
    if survey.duplicates:
        yield Text(f"{survey.duplicates:,} duplicates, counted once.")
    without = survey.unreadable + survey.failed
    if not without:
        return
    yield Text(
        f"{survey.unreadable:,} files that no picture could be read from, {survey.failed:,} that "
        "the model failed on; they count in no rate:",
        style="yellow",
    )
    for problem in survey.problems[:_PROBLEMS_SHOWN]:
        yield Text(f"  {problem.name}: {problem.problem}")
    if without > _PROBLEMS_SHOWN:
        yield Text(f"  and {without - _PROBLEMS_SHOWN:,} more")


def _rules(outcome: Outcome) -> Table:
    table = _numbers("rule", "pictures", "share", "at most")
    for rule in outcome.policy.rules:
        rate = Rate(outcome.harmless.rules[rule.name], outcome.harmless.pictures)
        table.add_row(Text(f"{rule.name} ({rule.action})"), *_cells(rate))
    return table


def _groups(outcome: Outcome) -> Table:
    table = _numbers("sub-folder", "blocked", "share", "at most", "flagged or blocked")
    for group in outcome.groups[:_GROUPS_SHOWN]:
        table.add_row(
            Text(group.name or "(top)"),
            *_cells(group.blocked),
            share_of(group.flagged),
            style="red" if group.is_far_above else None,
        )
    if len(outcome.groups) > _GROUPS_SHOWN:
        table.caption = f"and {len(outcome.groups) - _GROUPS_SHOWN:,} more, none of them worse"
    return table


def _nearest(survey: Survey) -> Table:
    table = Table(title="Nearest to a block", title_justify="left")
    table.add_column("blocked from", justify="right")
    for heading in ("action", "sha256", "file", "reasons"):
        table.add_column(heading, overflow="fold")
    for standout in survey.standouts[:_STANDOUTS_SHOWN]:
        table.add_row(
            level(standout.block_severity),
            standout.action.value,
            standout.sha256[:12],
            Text(standout.name),
            Text("\n".join(map(str, standout.reasons))),
        )
    return table


def _choice(outcome: Outcome) -> Iterator[RenderableType]:
    choice = outcome.choice
    assert choice is not None
    yield _trade_off(outcome)
    says = f"Severity {level(choice.severity)} blocks {described(choice.blocked)}"
    if choice.is_shown:
        yield Text(f"{says}; wanted: at most {in_percent(choice.wanted)}.", style="bold")
    else:
        yield Text(
            f"{says}. This is what the sample happens to show: it is too small to show "
            f"{in_percent(choice.wanted)}.",
            style="bold yellow",
        )
    if choice.severity < outcome.policy.severity:
        yield Text(
            f"This is milder than the policy as it is ({level(outcome.policy.severity)}): it "
            "catches less." + ("" if choice.missed else " --should-block can show how much.")
        )


def _trade_off(outcome: Outcome) -> Table:
    choice = outcome.choice
    assert choice is not None
    points = [("as it is", outcome.policy.severity), ("chosen", choice.severity)]
    if choice.needed_severity is not None:
        points.append(("to miss none", choice.needed_severity))
    missed_too = () if outcome.must_block is None else ("missed", "at most")
    table = _numbers("", "severity", "blocked", "at most", "flagged or blocked", *missed_too)
    for name, severity in points:
        if not math.isfinite(severity):
            table.add_row(name, level(severity))
            continue
        blocked = outcome.harmless.rate_at(severity, Action.BLOCK)
        flagged = outcome.harmless.rate_at(severity, Action.FLAG)
        cells = [level(severity), share_of(blocked), bound_of(blocked), share_of(flagged)]
        if outcome.must_block is not None:
            missed = missed_at(outcome.must_block, severity)
            cells += [share_of(missed), bound_of(missed)]
        table.add_row(name, *cells)
    return table


def _numbers(first: str, *others: str) -> Table:
    table = Table(first)
    table.columns[0].overflow = "fold"
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _cells(rate: Rate) -> tuple[str, str, str]:
    return f"{rate.hits:,} of {rate.pictures:,}", share_of(rate), bound_of(rate)
