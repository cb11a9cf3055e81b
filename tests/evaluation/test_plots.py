"""Tests of safety_proxy/evaluation/plots.py: what the curves show is what was counted."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from safety_proxy.evaluation.plots import margin_plot, rate_plot
from tests.evaluation.scenes import hostile_policy, outcome_of

MANY = [0.5 + 0.01 * number for number in range(300)]


def test_same_numbers_give_the_same_bytes() -> None:
    """No date, no random names: a report can be compared with the next."""
    outcome = outcome_of(MANY, must_block=[0.1, 0.9], wanted=0.05)
    assert rate_plot(outcome) == rate_plot(outcome)
    assert margin_plot(outcome, 0) == margin_plot(outcome, 0)


def test_plot_is_one_element_that_asks_for_nothing_and_takes_the_pages_colors() -> None:
    """Text stays text; every color is a variable of the page."""
    svg = rate_plot(outcome_of(MANY, must_block=[0.1, 0.9], wanted=0.05))
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "<metadata" not in svg
    assert re.findall(r"url\((?!#)|(?<!xmlns:xlink=\")https?://(?!www.w3.org)", svg) == []
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
    for variable in ("--ink", "--muted", "--line", "--seen", "--missed", "--wanted"):
        assert f"var({variable})" in svg
    assert ">chosen</text>" in svg
    assert ">severity</text>" in svg


def heights(svg: str, variable: str) -> list[float]:
    """How high the points of the line of this color are: downward, as SVG counts."""
    (line,) = re.findall(
        rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\({variable}\); stroke-width: 2;',
        svg,
    )
    return [float(point.split()[1]) for point in re.findall(r"[ML] ([^MLz]*)", line)]


def test_blocked_rises_and_missed_falls_with_the_severity() -> None:
    """To the right the policy is stricter."""
    svg = rate_plot(outcome_of(MANY, must_block=MANY, wanted=0.05))
    blocked, missed = heights(svg, "--seen"), heights(svg, "--missed")
    assert blocked == sorted(blocked, reverse=True)
    assert missed == sorted(missed)
    assert len(set(blocked)) > 20


@pytest.mark.parametrize("severities", [[math.inf] * 3, [-math.inf, 1.0, math.inf], [1.0]])
def test_severities_that_no_axis_has_can_be_drawn(severities: list[float]) -> None:
    """One picture, or pictures that nothing or everything blocks."""
    outcome = outcome_of([1.0] * len(severities))
    survey = replace(outcome.harmless, block_severities=np.array(severities, np.float32))
    assert "<svg" in rate_plot(replace(outcome, harmless=survey, must_block=survey))


def test_names_of_a_policy_do_nothing_in_a_plot() -> None:
    """A concept may be called anything, a formula of mathtext too."""
    outcome = outcome_of([1.0, 2.0], policy=hostile_policy())
    assert margin_plot(outcome, 0).count("</svg>") == 1


def test_import_costs_no_matplotlib() -> None:
    """It comes with the first plot."""
    code = (
        "import sys, safety_proxy.evaluation.report, safety_proxy.evaluation.summary; "
        "sys.exit(any(name in sys.modules for name in ('scipy', 'matplotlib', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
