"""The outcome as one HTML file: it asks nothing of any network and runs no script.

Its pictures are blurred until they are pointed at, touched or reached by the keyboard. Whoever
reads it should see in this order: what the policy does, how sure that is, what to choose, and why
single pictures score as they do.
"""

import base64
import io
import math
from importlib import resources
from typing import Final

import numpy as np
from PIL import Image

from safety_proxy import __version__
from safety_proxy.crops import UInt8Array
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
from safety_proxy.evaluation.tally import Standout, Survey
from safety_proxy.evaluation.wording import bound_of, in_percent, level
from safety_proxy.verdict import Action

_CSP: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
_THUMBNAIL_PIXELS: Final = 192
_THUMBNAIL_QUALITY: Final = 75
_GROUPS_SHOWN: Final = 30
_QUANTILES: Final = (0.5, 0.99, 0.999)


def report(outcome: Outcome) -> str:
    """The page, to be written as UTF-8."""
    css = resources.files("safety_proxy.evaluation").joinpath("report.css").read_text("utf-8")
    title = f"{outcome.policy.name}: {outcome.blocked.hits:,} of {outcome.blocked.pictures:,}"
    parts = (
        _head(outcome),
        _figures(outcome),
        _chosen(outcome),
        _groups(outcome),
        _rules(outcome),
        _concepts(outcome),
        _standouts("nearest", "Harmless pictures nearest to a block", outcome.harmless),
        _hardest(outcome),
        _problems(outcome),
        _origin(outcome),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(title)} blocked</title><style>{css}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(outcome: Outcome) -> Html:
    blocked = outcome.blocked
    return Html(
        f"<header><h1>{count(blocked.hits)} of {count(blocked.pictures)} harmless pictures "
        f'blocked</h1><p class="muted any">Policy {text(repr(outcome.policy.name))} at severity '
        f"{severity(outcome.policy.severity)}, model {text(outcome.harmless.model)}, "
        f'<time class="keep">{outcome.made:%Y-%m-%d}</time></p></header>'
    )


def _figures(outcome: Outcome) -> Html:
    harmless, missed = outcome.harmless, outcome.missed
    figures = [
        markup.figure("Blocked", share(outcome.blocked), _below(outcome.blocked), "main"),
        markup.figure("Flagged or blocked", share(outcome.flagged), _below(outcome.flagged)),
    ]
    if missed is not None:
        name = "Missed of those that must be caught"
        figures.append(markup.figure(name, share(missed), _below(missed), "miss"))
    without = harmless.unreadable + harmless.failed
    below = Html(f"and {count(harmless.duplicates)} duplicates, counted once")
    figures.append(markup.figure("Files without a verdict", count(without), below))
    meaning = (
        f"If these pictures are a fair sample of the harmless ones that your users upload, fewer "
        f"than {bound_of(outcome.blocked)} of those would be blocked "
        f"({in_percent(CONFIDENCE)} confidence). This says nothing about what the policy misses."
    )
    return Html(
        f'<div class="figures" id="figures">{markup.join(figures)}</div>'
        f'<p style="margin-top:18px">{text(meaning)}</p>'
    )


def _below(rate: Rate) -> Html:
    return Html(f"{count(rate.hits)} pictures, at most {bound(rate)}")


def _chosen(outcome: Outcome) -> Html:
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


def _groups(outcome: Outcome) -> Html:
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


def _rules(outcome: Outcome) -> Html:
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


def _concepts(outcome: Outcome) -> Html:
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


def _standouts(identity: str, heading: str, survey: Survey) -> Html:
    says = "Blurred; point at a picture, touch it, or reach it by the keyboard to see it."
    shots = markup.join([_shot(standout) for standout in survey.standouts])
    return section(
        identity,
        heading,
        markup.paragraph(text(says), "muted"),
        Html(f'<div class="grid">{shots}</div>'),
    )


def _shot(standout: Standout) -> Html:
    reasons = markup.join(Html(f"<li>{text(str(reason))}</li>") for reason in standout.reasons)
    return Html(
        f'<figure class="shot" tabindex="0"><div><img alt="" src="{_jpeg(standout.looked.crop)}">'
        f'</div><figcaption><span class="tag {standout.action}">{standout.action}</span> '
        f"blocked from {severity(standout.block_severity)}<br>{text(standout.name)}<br>"
        f'<span class="mono muted">{standout.sha256[:12]}</span><ul>{reasons}</ul>'
        "</figcaption></figure>"
    )


def _hardest(outcome: Outcome) -> Html:
    if outcome.must_block is None:
        return Html("")
    return _standouts("hardest", "Must be caught, furthest from a block", outcome.must_block)


def _problems(outcome: Outcome) -> Html:
    surveys = [survey for survey in (outcome.harmless, outcome.must_block) if survey is not None]
    problems = [problem for survey in surveys for problem in survey.problems]
    items = markup.join(
        Html(f"<dt>{text(problem.name)}</dt><dd>{text(problem.problem)}</dd>")
        for problem in problems
    )
    more = sum(survey.unreadable + survey.failed for survey in surveys) - len(problems)
    if more:
        items = Html(f"{items}<dt>and more</dt><dd>{count(more)}</dd>")
    says = (
        f"They count in no rate. The policy answers a file that no picture can be read from with "
        f"{outcome.policy.unreadable.value!r}."
    )
    if not problems:
        return Html("")
    return section(
        "problems",
        "Files without a verdict",
        markup.paragraph(text(says)),
        Html(f'<dl class="any">{items}</dl>'),
    )


def _origin(outcome: Outcome) -> Html:
    facts = [
        ("Pictures", outcome.source),
        ("Digest of them", outcome.harmless.data_digest),
        ("Must be caught", outcome.must_block_source),
        ("Policy", f"{outcome.policy.name}, version {outcome.policy.version}"),
        ("Model", outcome.harmless.model),
        ("Made", f"{outcome.made:%Y-%m-%d %H:%M %Z} by safety-proxy {__version__}"),
        ("Bound", f"Clopper-Pearson, one-sided, {in_percent(CONFIDENCE)}"),
    ]
    items = markup.join(
        Html(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>") for name, value in facts if value
    )
    return section("origin", "Where this comes from", Html(f"<dl>{items}</dl>"))


def _jpeg(crop: UInt8Array) -> str:
    image = Image.fromarray(crop)
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    body = io.BytesIO()
    image.save(body, "JPEG", quality=_THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(body.getvalue()).decode('ascii')}"
