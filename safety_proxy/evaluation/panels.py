"""Parts of the page that are numbers: the choice and its price, groups, rules, scores."""

import math
from typing import Final

import numpy as np

from safety_proxy.evaluation import markup
from safety_proxy.evaluation.bounds import CONFIDENCE, Rate
from safety_proxy.evaluation.calibration import Choice, missed_at
from safety_proxy.evaluation.markup import (
    Html,
    Row,
    bound,
    count,
    section,
    severity,
    share,
    table,
    text,
)
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.plots import margin_plot, rate_plot
from safety_proxy.evaluation.tally import Survey
from safety_proxy.evaluation.wording import bound_of, in_percent, level
from safety_proxy.verdict import Action

_GROUPS_SHOWN: Final = 30
_QUANTILES: Final = (0.5, 0.99, 0.999)


def severity_panel(outcome: Outcome) -> Html:
    """The curve, and where there is one the choice: what it costs, and against what."""
    choice = outcome.choice
    heading, note, numbers = "Rate against severity", Html(""), Html("")
    if choice is not None:
        heading = f"Chosen: severity {level(choice.severity)}"
        kind = "note good" if choice.is_shown else "note"
        note = Html(f'<div class="{kind}">{markup.paragraph(text(_verdict(choice)))}</div>')
        numbers = table(*_trade_off(outcome), "narrow lead")
    says = "Severity moves all thresholds together: to the right the policy is stricter."
    return section(
        "severity",
        heading,
        note,
        Html(f'<div class="pair">{_curve(outcome)}{numbers}</div>'),
        _points(outcome),
        markup.paragraph(text(says), "muted small"),
    )


def _verdict(choice: Choice) -> str:
    at, at_most, asked = level(choice.severity), bound_of(choice.blocked), in_percent(choice.wanted)
    if choice.is_shown:
        return (
            f"At severity {at} at most {at_most} of harmless pictures are blocked; "
            f"{asked} was wanted."
        )
    return (
        f"This sample is too small for the wanted {asked}. At severity {at} its own share keeps "
        f"that rate, but the real rate may be up to {at_most}."
    )


def _trade_off(outcome: Outcome) -> tuple[list[str], list[Row]]:
    """What each severity in question costs and, where that was measured, misses."""
    choice, must_block = outcome.choice, outcome.must_block
    assert choice is not None
    points = {"as it is": outcome.policy.severity, "chosen": choice.severity}
    if choice.needed_severity is not None and math.isfinite(choice.needed_severity):
        points["to miss none"] = choice.needed_severity
    at = list(points.values())
    rows: list[Row] = [(text("severity"), [severity(point) for point in at], False)]
    for action, name in ((Action.BLOCK, "blocked"), (Action.FLAG, "flagged or blocked")):
        rows += _rate_rows(name, [outcome.harmless.rate_at(point, action) for point in at])
    if must_block is not None:
        rows += _rate_rows("missed", [missed_at(must_block, point) for point in at])
    return ["", *points], rows


def _rate_rows(name: str, rates: list[Rate]) -> list[Row]:
    return [
        (text(name), [count(rate.hits) for rate in rates], True),
        (text("share"), [share(rate) for rate in rates], False),
        (text("at most"), [bound(rate) for rate in rates], False),
    ]


def _curve(outcome: Outcome) -> Html:
    entries = [
        ("seen", "blocked, as seen"),
        ("band", f"up to the bound ({in_percent(CONFIDENCE)})"),
    ]
    if outcome.must_block is not None:
        entries.append(("missed", "missed of those that must be caught"))
    if outcome.choice is not None:
        entries += [("wanted", "wanted rate"), ("dot", "bound at the chosen severity")]
    return Html(
        f'<figure class="plot">{rate_plot(outcome)}'
        f"<figcaption>{markup.key(*entries)}</figcaption></figure>"
    )


def _points(outcome: Outcome) -> Html:
    rows: list[Row] = [
        (severity(point.severity), markup.rate_cells(point.blocked), False)
        for point in outcome.curve
    ]
    if not rows:
        return Html("")
    points = table(["severity", "blocked", "share", "at most"], rows, "narrow")
    return Html(f"<details><summary>The numbers of the curve</summary>{points}</details>")


def groups_panel(outcome: Outcome) -> Html:
    """The rate of each sub-folder, with a warning where one fares far worse than the rest."""
    groups = outcome.groups
    if not groups:
        return Html("")
    high = [group.name or "(top)" for group in groups if group.is_far_above]
    warning = Html("")
    if high:
        names = ", ".join(high[:_GROUPS_SHOWN])
        says = f"Far above the rest: {names}. A whole kind of harmless picture is hit."
        warning = Html(f'<div class="note">{markup.paragraph(text(says), "any")}</div>')
    rows: list[Row] = [
        (
            text(group.name or "(top)"),
            [
                Html(f"{count(group.blocked.hits)} of {count(group.blocked.pictures)}"),
                share(group.blocked),
                bound(group.blocked),
                share(group.flagged),
            ],
            group.is_far_above,
        )
        for group in groups[:_GROUPS_SHOWN]
    ]
    headings = ["sub-folder", "blocked", "share", "at most", "flagged or blocked"]
    more = len(groups) - len(rows)
    rest = markup.paragraph(text(f"and {more:,} more, none of them worse"), "muted small")
    return section(
        "groups",
        "By sub-folder",
        warning,
        table(headings, rows, "groups"),
        rest if more else Html(""),
    )


def rules_panel(outcome: Outcome) -> Html:
    """How often each rule held."""
    pictures = outcome.harmless.pictures
    rows: list[Row] = [
        (
            Html(f'{text(rule.name)} <span class="tag {rule.action}">{rule.action}</span>'),
            markup.rate_cells(Rate(outcome.harmless.rules[rule.name], pictures)),
            False,
        )
        for rule in outcome.policy.rules
    ]
    headings = ["rule", "pictures", "share", "at most"]
    return section(
        "rules", "Rules that held for harmless pictures", table(headings, rows, "narrow")
    )


def concepts_panel(outcome: Outcome) -> Html:
    """How far from its threshold each concept was found, and where the threshold is."""
    harmless = outcome.harmless
    plots = [
        Html(
            f'<figure class="plot"><h3>{text(name)}</h3>{margin_plot(outcome, place)}'
            f'<figcaption class="small muted">{_quantiles(harmless, place)}<br>'
            f"{_thresholds(outcome, name)}</figcaption></figure>"
        )
        for place, name in enumerate(harmless.concepts)
    ]
    says = (
        "For each picture the concept's strongest prompt. Right of the line its threshold is "
        "reached. Counts are on a logarithmic scale."
    )
    entries = [("seen", "harmless")]
    if outcome.must_block is not None:
        entries.append(("missed", "must be caught"))
    return section(
        "concepts",
        "Scores of each concept",
        markup.paragraph(text(says)),
        markup.key(*entries),
        Html(f'<div class="plots">{markup.join(plots)}</div>'),
    )


def _quantiles(survey: Survey, concept: int) -> Html:
    margins = survey.margins[:, concept]
    pairs = [
        f"{in_percent(quantile)} at most {np.quantile(margins, quantile, method='higher'):+.3f}"
        for quantile in _QUANTILES
        if survey.pictures * (1 - quantile) >= 1  # of fewer it would be the highest
    ]
    return text(", ".join([*pairs, f"highest {margins.max():+.3f}"]))


def _thresholds(outcome: Outcome, concept: str) -> Html:
    words = [f"threshold as it is {_span(outcome.thresholds(concept, outcome.policy.severity))}"]
    if outcome.choice is not None:
        chosen = outcome.thresholds(concept, outcome.choice.severity)
        words.append(f"at the chosen severity {_span(chosen)}")
    return text(", ".join(words))


def _span(limits: tuple[float, float]) -> str:
    low, high = limits
    return f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
