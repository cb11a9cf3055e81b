"""Tests of safety_proxy/evaluation/trial.py: from samples to an outcome and a checked policy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from safety_proxy.errors import ConfigError
from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.trial import Samples, chosen_policy, evaluated, with_choice
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy
from safety_proxy.verdict import Action
from tests.evaluation.scenes import bench_of, judge_of, outcome_of, write_shades
from tests.fakes import FakeEmbedder, color_policy


class Bars:
    """What a progress was told: titles, counts, and how often it moved."""

    def __init__(self) -> None:
        self.moves: dict[str, int] = {}
        self.counts: dict[str, int | None] = {}

    def __call__(self, title: str, count: int | None) -> Callable[[], None]:
        self.counts[title], self.moves[title] = count, 0

        def move() -> None:
            self.moves[title] += 1

        return move


async def test_both_samples_are_looked_through(tmp_path: Path) -> None:
    """Each with its own progress; the furthest of those that must be caught stands out."""
    harmless = write_shades(tmp_path / "harmless", [0, 30, 60, 250])
    must_block = write_shades(tmp_path / "stand-ins", [255, 20])
    bars = Bars()
    outcome = await evaluated(bench_of(), color_policy(), Samples(harmless, must_block), bars)
    assert outcome.blocked == Rate(1, 4)
    assert outcome.missed == Rate(1, 2)
    assert outcome.source == str(harmless)
    assert outcome.must_block_source == str(must_block)
    assert outcome.must_block is not None
    assert outcome.must_block.standouts[0].name == "0001.png"
    assert bars.counts == {"Harmless pictures": 4, "Pictures that must be caught": 2}
    assert bars.moves == bars.counts


async def test_a_sample_in_which_nothing_can_be_judged_is_an_error(tmp_path: Path) -> None:
    """With the first file's trouble, and what would be looked at."""
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none of 1 files .* notes.txt: not a picture .* WebP"):
        await evaluated(bench_of(), color_policy(), Samples(tmp_path), Bars())


async def test_chosen_policy_does_what_the_curve_says() -> None:
    """Judged again, it blocks the pictures of the choice and no others."""
    outcome = with_choice(
        outcome_of([0.5 + 0.01 * n for n in range(300)]), 0.05, point_estimate=False
    )
    policy = await chosen_policy(bench_of(), outcome)
    judge = judge_of(policy, FakeEmbedder())
    actions = [
        judge.judge(one.looked.evidence.embeddings, one.looked.evidence.places).action
        for one in outcome.harmless.standouts
    ]
    assert actions == [Action.BLOCK] * 8 + [Action.ALLOW] * 40
    assert policy.provenance is not None
    assert policy.provenance.pictures == 300


async def test_a_policy_that_does_otherwise_is_not_given_out() -> None:
    """Were severities and judgments to disagree, the curve would be worth nothing."""
    outcome = with_choice(
        outcome_of([0.5 + 0.01 * n for n in range(300)]), 0.05, point_estimate=False
    )

    def stricter(policy: Policy) -> Judge:
        return judge_of(policy.with_severity(policy.severity + 1), FakeEmbedder())

    with pytest.raises(RuntimeError, match="nothing is written"):
        await chosen_policy(replace(bench_of(), judge_of=stricter), outcome)
