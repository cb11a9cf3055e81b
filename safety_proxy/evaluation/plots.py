"""The outcome's curves as SVG that stands in a page: its colors are the page's own, its text text.

matplotlib writes fixed colors; those below stand for variables of the page's style sheet, so that a
figure follows light and dark. The same numbers give the same bytes.
"""

import io
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from safety_proxy.crops import Float32Array
from safety_proxy.evaluation.bounds import upper_bounds
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.wording import in_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _LINE = "#010101", "#020202", "#030303"
_SEEN, _MISSED, _WANTED = "#040404", "#050505", "#060606"
_VARIABLES: Final = {
    _INK: "--ink",
    _MUTED: "--muted",
    _LINE: "--line",
    _SEEN: "--seen",
    _MISSED: "--missed",
    _WANTED: "--wanted",
}

# In points of 1/72 inch, so the text keeps its size relative to a phone's width.
_WIDTH: Final = 380
# Any: matplotlib types each key, and no dict of several kinds of values fits that.
_SETTINGS: Final[Any] = {
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 12,
    "grid.color": _LINE,
    "svg.fonttype": "none",
    "svg.hashsalt": "safety-proxy",
    "text.color": _INK,
    "text.parse_math": False,  # names may hold dollars
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}

# Past this share of blocked pictures a curve says nothing that anybody would choose.
_SHARE_SHOWN: Final = 0.5
_CURVE_POINTS: Final = 400
_BINS: Final = 48


def rate_plot(outcome: Outcome) -> str:
    """Share of harmless pictures blocked against severity, with its bound, and of those missed."""
    from matplotlib import rc_context  # noqa: PLC0415 -- costs a second that `serve` must not pay

    with rc_context(_SETTINGS):
        figure, axes = _figure(300)
        low, high = _range(outcome)
        severities = np.linspace(low, high, _CURVE_POINTS)
        pictures = outcome.harmless.pictures
        hits = _at_or_below(outcome.harmless.block_severities, severities)
        bounds, shares = upper_bounds(hits, pictures), hits / pictures
        floor = float(10 ** np.floor(np.log10(bounds.min() / 2)))
        axes.fill_between(
            severities, np.maximum(shares, floor), bounds, color=_SEEN, alpha=0.22, lw=0
        )
        axes.plot(severities, np.where(shares > 0, shares, np.nan), color=_SEEN, lw=2)
        if outcome.must_block is not None and outcome.must_block.pictures:
            caught = _at_or_below(outcome.must_block.block_severities, severities)
            missed = 1 - caught / outcome.must_block.pictures
            axes.plot(severities, np.where(missed > 0, missed, np.nan), color=_MISSED, lw=2)
        _mark(axes, outcome, (low, high))
        axes.set(xlim=(low, high), ylim=(floor, 1), yscale="log", xlabel="severity")
        axes.yaxis.set_major_formatter(lambda value, _: in_percent(value))
        axes.yaxis.set_minor_locator(_no_ticks())
        axes.grid(visible=True, axis="y", lw=0.8)
        return _svg(figure)


def margin_plot(outcome: Outcome, concept: int) -> str:
    """How many pictures pass a concept's threshold by how much; the threshold is the 0."""
    from matplotlib import rc_context  # noqa: PLC0415 -- as above

    with rc_context(_SETTINGS):
        figure, axes = _figure(150)
        margins = [outcome.harmless.margins[:, concept]]
        if outcome.must_block is not None and outcome.must_block.pictures:
            margins.append(outcome.must_block.margins[:, concept])
        both = np.concatenate([*margins, [0.0]])
        edges = np.linspace(both.min(), both.max() + 1e-6, _BINS + 1).tolist()
        for values, color in zip(margins, (_SEEN, _MISSED), strict=False):
            axes.hist(values, edges, color=color, alpha=0.45, lw=0)
            axes.hist(values, edges, color=color, histtype="step", lw=1.2)
        axes.axvline(0, color=_INK, lw=1.2)
        axes.set(yscale="log", ylabel="pictures", xlabel="score over its threshold")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_minor_locator(_no_ticks())
        return _svg(figure)


def _mark(axes: "Axes", outcome: Outcome, limits: tuple[float, float]) -> None:
    """The policy's own severity, the wanted rate, and the chosen point."""
    now, choice = outcome.policy.severity, outcome.choice
    middle = sum(limits) / 2 if choice is None or choice.severity == now else choice.severity
    if choice is None or choice.severity != now:
        axes.axvline(now, color=_MUTED, lw=1.2, ls=(0, (1, 2)))
        _label(axes, now, "as it is", _MUTED, leftward=now < middle)
    if choice is None:
        return
    axes.axhline(choice.wanted, color=_WANTED, lw=1.2, ls=(0, (5, 3)))
    axes.axvline(choice.severity, color=_INK, lw=1.2)
    axes.plot([choice.severity], [choice.blocked.bound], "o", color=_INK, ms=6, zorder=5)
    _label(axes, choice.severity, "chosen", _INK, leftward=choice.severity < now)


def _label(axes: "Axes", at: float, text: str, color: str, *, leftward: bool) -> None:
    """Above the plot, so that it covers no curve; on the side away from the other label."""
    side = "right" if leftward else "left"
    axes.annotate(text, (at, 1.02), xycoords=("data", "axes fraction"), ha=side, color=color)


def _range(outcome: Outcome) -> tuple[float, float]:
    """The severities shown: what is set and chosen, and where the curve leaves its floor."""
    values = outcome.harmless.block_severities
    finite = np.sort(values[np.isfinite(values)])
    shown = finite[: max(1, int(_SHARE_SHOWN * len(values)))]
    points = [outcome.policy.severity, *shown[[0, -1]].tolist()] if len(shown) else []
    points = points or [outcome.policy.severity]
    if outcome.choice is not None:
        points.append(outcome.choice.severity)
    if outcome.must_block is not None:
        caught = outcome.must_block.block_severities
        points += caught[np.isfinite(caught)].tolist()
    low, high = min(points), max(points)
    edge = max(0.05 * (high - low), 1e-3)
    return low - edge, high + edge


def _at_or_below(values: Float32Array, severities: Any) -> Any:
    return np.searchsorted(np.sort(values), severities, side="right")


def _figure(height: int) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure  # noqa: PLC0415 -- as above

    figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator  # noqa: PLC0415 -- as above

    return NullLocator()


def _svg(figure: "Figure") -> str:
    """The figure as an element for a page: no prolog, no metadata, no names that meet again."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z0-9]+_\d+"', "", svg)
    svg = re.sub(r'font: ([\d.]+)px [^;"]*', r"font-size: \1px", svg)
    return re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", svg)
