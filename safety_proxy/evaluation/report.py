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
from safety_proxy.evaluation.calibration import missed_at
from safety_proxy.evaluation.markup import Html, Row, count, section, severity, share, table, text
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.plots import margin_plot, rate_plot
from safety_proxy.evaluation.tally import Standout, Survey
from safety_proxy.evaluation.wording import percent
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
        _curve(outcome),
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
        f"{outcome.made:%Y-%m-%d}</p></header>"
    )


def _figures(outcome: Outcome) -> Html:
    harmless, missed = outcome.harmless, outcome.missed
    figures = [
        markup.figure("Blocked", share(outcome.blocked.share), _below(outcome.blocked), "main"),
        markup.figure("Flagged or blocked", share(outcome.flagged.share), _below(outcome.flagged)),
    ]
    if missed is not None:
        name = "Missed of those that must be caught"
        figures.append(markup.figure(name, share(missed.share), _below(missed), "miss"))
    without = harmless.unreadable + harmless.failed
    below = Html(f"and {count(harmless.duplicates)} duplicates, counted once")
    figures.append(markup.figure("Files without a verdict", count(without), below))
    meaning = (
        f"If these pictures are a fair sample of the harmless ones that your users upload, fewer "
        f"than {percent(outcome.blocked.bound, up=True)} of those would be blocked "
        f"({CONFIDENCE:.0%} confidence). This says nothing about what the policy misses."
    )
    return Html(
        f'<div class="figures">{markup.join(figures)}</div>'
        f'<p style="margin-top:18px">{text(meaning)}</p>'
    )


def _below(rate: Rate) -> Html:
    return Html(f"{count(rate.hits)} pictures, at most {share(rate.bound, up=True)}")


def _chosen(outcome: Outcome) -> Html:
    choice = outcome.choice
    if choice is None:
        return Html("")
    bound = percent(choice.blocked.bound, up=True)
    if choice.is_shown:
        says = f"At severity {choice.severity:g} at most {bound} of harmless pictures are blocked"
        note = f"{says}, and {percent(choice.wanted)} was wanted."
    else:
        note = (
            f"This sample is too small for the wanted {percent(choice.wanted)}. At severity "
            f"{choice.severity:g} it keeps that rate itself, but the real rate may be up to {bound}."
        )
    kind = "note good" if choice.is_shown else "note"
    return section(
        "chosen",
        f"Chosen: severity {choice.severity:g}",
        Html(f'<div class="{kind}">{markup.paragraph(text(note))}</div>'),
        table(*_trade_off(outcome)),
    )


def _trade_off(outcome: Outcome) -> tuple[list[str], list[Row]]:
    """What each severity in question costs and, where that was measured, misses."""
    choice, missing = outcome.choice, outcome.must_block
    assert choice is not None
    points = [("as it is", outcome.policy.severity), ("chosen", choice.severity)]
    if choice.needed_severity is not None:
        points.append(("to miss none", choice.needed_severity))
    headings = ["", "severity", "blocked", "share", "at most", "flagged or blocked"]
    rows: list[Row] = []
    for name, at in points:
        cells = [severity(at)]
        if math.isfinite(at):
            cells += markup.rate_cells(outcome.harmless.rate_at(at, Action.BLOCK))
            cells.append(share(outcome.harmless.rate_at(at, Action.FLAG).share))
            cells += [] if missing is None else markup.rate_cells(missed_at(missing, at))
        rows.append((text(name), cells, False))
    if missing is not None:
        headings += ["missed", "share", "at most"]
    return headings, rows


def _curve(outcome: Outcome) -> Html:
    entries = [("seen", "blocked, as seen"), ("band", f"up to the bound ({CONFIDENCE:.0%})")]
    if outcome.must_block is not None:
        entries.append(("missed", "missed of those that must be caught"))
    if outcome.choice is not None:
        entries += [("wanted", "wanted rate"), ("dot", "bound at the chosen severity")]
    plot = Html(
        f'<figure class="plot wide">{rate_plot(outcome)}'
        f"<figcaption>{markup.key(*entries)}</figcaption></figure>"
    )
    rows: list[Row] = [
        (severity(point.severity), markup.rate_cells(point.blocked), False)
        for point in outcome.curve
    ]
    numbers = table(["severity", "blocked", "share", "at most"], rows) if rows else Html("")
    says = "Severity moves all thresholds together; to the right the policy is stricter."
    return section("curve", "Rate against severity", markup.paragraph(text(says)), plot, numbers)


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
                count(group.blocked.pictures),
                *markup.rate_cells(group.blocked),
                share(group.flagged.share),
            ],
            group.is_far_above,
        )
        for group in groups[:_GROUPS_SHOWN]
    ]
    headings = ["sub-folder", "pictures", "blocked", "share", "at most", "flagged or blocked"]
    more = len(groups) - len(rows)
    rest = markup.paragraph(text(f"and {more:,} more, none of them worse"), "muted small")
    return section(
        "groups", "By sub-folder", warning, table(headings, rows), rest if more else Html("")
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
    return section("rules", "Rules that held for harmless pictures", table(headings, rows))


def _concepts(outcome: Outcome) -> Html:
    harmless = outcome.harmless
    plots = [
        Html(
            f'<figure class="plot"><h3>{text(name)}</h3>{margin_plot(outcome, place)}'
            f'<figcaption class="small muted">{_quantiles(harmless, place)}</figcaption></figure>'
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
    values = np.quantile(margins, _QUANTILES)
    pairs = [
        f"{quantile:.1%} below {value:+.3f}".replace(".0%", "%")
        for quantile, value in zip(_QUANTILES, values, strict=True)
    ]
    return text(f"{', '.join(pairs)}; highest {margins.max():+.3f}")


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
        ("Bound", f"Clopper-Pearson, one-sided, {CONFIDENCE:.0%}"),
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
