"""The outcome as one HTML file: it asks nothing of any network and runs no script.

Its pictures are blurred until they are pointed at, touched or reached by the keyboard. Whoever
reads it should see in this order: what the policy does, how sure that is, what to choose, and why
single pictures score as they do.
"""

import base64
import io
from importlib import resources
from typing import Final

from PIL import Image

from safety_proxy import __version__
from safety_proxy.crops import UInt8Array
from safety_proxy.evaluation import markup
from safety_proxy.evaluation.bounds import CONFIDENCE, Rate
from safety_proxy.evaluation.markup import (
    Html,
    bound,
    count,
    section,
    severity,
    share,
    text,
)
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.panels import (
    concepts_panel,
    groups_panel,
    rules_panel,
    severity_panel,
)
from safety_proxy.evaluation.tally import Standout, Survey
from safety_proxy.evaluation.wording import bound_of, in_percent

_CSP: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
_THUMBNAIL_PIXELS: Final = 192
_THUMBNAIL_QUALITY: Final = 75


def report(outcome: Outcome) -> str:
    """The page, to be written as UTF-8."""
    css = resources.files("safety_proxy.evaluation").joinpath("report.css").read_text("utf-8")
    title = f"{outcome.policy.name}: {outcome.blocked.hits:,} of {outcome.blocked.pictures:,}"
    parts = (
        _head(outcome),
        _figures(outcome),
        severity_panel(outcome),
        groups_panel(outcome),
        rules_panel(outcome),
        concepts_panel(outcome),
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
        f'<div class="figures" id="figures">{markup.join(figures)}</div><p>{text(meaning)}</p>'
    )


def _below(rate: Rate) -> Html:
    return Html(f"{count(rate.hits)} pictures, at most {bound(rate)}")


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
        f"blocked from severity {severity(standout.block_severity)}<br>{text(standout.name)}<br>"
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
