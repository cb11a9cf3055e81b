"""Pieces of HTML, each escaped where it is made: file names and policies are not ours.

A `Html` is markup that may stand in a page as it is; any other text goes through `text`.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NewType

from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.wording import bound_of, level, share_of

Html = NewType("Html", str)

_HIGH = ' class="high"'

# A row of a table: its heading, its cells, and whether it is to stand out.
Row = tuple[Html, Sequence[Html], bool]


def text(plain: str) -> Html:
    """The text, with nothing in it that HTML would understand."""
    return Html(escape(plain))


def join(pieces: Iterable[Html]) -> Html:
    """One after the other."""
    return Html("".join(pieces))


def count(number: int) -> Html:
    """A whole number, also for machines."""
    return Html(f'<data value="{number}">{number:,}</data>')


def share(rate: Rate) -> Html:
    """The share that was seen, also for machines as the fraction that it is."""
    return Html(f'<data value="{rate.share!r}">{share_of(rate)}</data>')


def bound(rate: Rate) -> Html:
    """The bound, also for machines as the fraction that it is."""
    return Html(f'<data value="{rate.bound!r}">{bound_of(rate)}</data>')


def severity(value: float) -> Html:
    """A severity, also for machines."""
    if not math.isfinite(value):
        return text(level(value))
    return Html(f'<data value="{value!r}">{level(value)}</data>')


def rate_cells(rate: Rate) -> list[Html]:
    """Three cells: how many, their share, and the bound."""
    return [count(rate.hits), share(rate), bound(rate)]


def paragraph(content: Html, kind: str = "") -> Html:
    """A paragraph of this class."""
    return Html(f'<p class="{kind}">{content}</p>' if kind else f"<p>{content}</p>")


def figure(name: str, value: Html, below: Html, kind: str = "") -> Html:
    """A number that is to be seen first."""
    return Html(
        f'<div class="figure {kind}"><span class="muted small">{escape(name)}</span>'
        f'<b>{value}</b><span class="small">{below}</span></div>'
    )


def section(identity: str, heading: str, *content: Html) -> Html:
    """A part of the page; nothing at all without content."""
    if not any(content):
        return Html("")
    return Html(f'<section id="{identity}"><h2>{escape(heading)}</h2>{"".join(content)}</section>')


def table(headings: Sequence[str], rows: Iterable[Row], kind: str = "") -> Html:
    """A table whose first column names the rows and whose others are numbers."""
    first, *others = (escape(heading) for heading in headings)
    head = f'<th scope="col">{first}</th>' + "".join(
        f'<th scope="col" class="n">{heading}</th>' for heading in others
    )
    body = "".join(
        f'<tr{_HIGH if stands_out else ""}><th scope="row">{name}</th>'
        f"{''.join(f'<td class=n>{cell}</td>' for cell in cells)}</tr>"
        for name, cells, stands_out in rows
    )
    return Html(
        f'<div class="scroll {kind}" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def key(*entries: tuple[str, str]) -> Html:
    """What the colors of a plot mean: pairs of a class and a text."""
    items = "".join(f'<li><i class="{kind}"></i>{escape(what)}</li>' for kind, what in entries)
    return Html(f'<ul class="key">{items}</ul>')
