"""A policy tried on an admin's own pictures, and set so that it keeps a wanted rate.

sources, bench, policy  ->  surveys  ->  Outcome  ->  choice of a severity  ->  policy
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from safety_proxy.errors import ConfigError
from safety_proxy.evaluation.calibration import calibrated, choose, curve
from safety_proxy.evaluation.groups import groups_of
from safety_proxy.evaluation.outcome import Outcome
from safety_proxy.evaluation.sources import Source, open_source, printable
from safety_proxy.evaluation.survey import Looker, survey
from safety_proxy.evaluation.tally import Survey
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy
from safety_proxy.verdict import Action

# Told a title and how many files there are, where that is known; what it gives back is called once
# for every file.
Progress = Callable[[str, int | None], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What pictures are looked at with.

    fingerprint: of the model. judge_of: a judge of that model by this policy; blocks for the time
    of its text tower.
    """

    fingerprint: str
    looker: Looker
    judge_of: Callable[[Policy], Judge]


@dataclass(frozen=True, slots=True)
class Samples:
    """Where pictures are: harmless ones, and perhaps such as must be caught."""

    harmless: Path
    must_block: Path | None = None


async def evaluated(bench: Bench, policy: Policy, samples: Samples, progress: Progress) -> Outcome:
    """What the policy makes of the samples. Raises ConfigError if none of them can be judged."""
    judge = await asyncio.to_thread(bench.judge_of, policy)
    sources = [
        None if path is None else await asyncio.to_thread(open_source, path)
        for path in (samples.harmless, samples.must_block)
    ]
    surveys: list[Survey | None] = [
        None
        if source is None
        else await _survey(source, bench.looker, judge, place=place, progress=progress)
        for place, source in enumerate(sources)
    ]
    harmless, must_block = surveys
    assert harmless is not None
    return Outcome(
        source=printable(str(samples.harmless)),
        policy=policy,
        form=judge.scorer.form,
        made=datetime.now(UTC),
        harmless=harmless,
        groups=groups_of(harmless),
        must_block_source="" if must_block is None else printable(str(samples.must_block)),
        must_block=must_block,
    )


async def _survey(
    source: Source, looker: Looker, judge: Judge, *, place: int, progress: Progress
) -> Survey:
    title = ("Harmless pictures", "Pictures that must be caught")[place]
    on_file = progress(title, source.count)
    result = await survey(source, looker, judge, furthest=place > 0, on_file=on_file)
    if not result.pictures:
        first = result.problems[0] if result.problems else None
        why = f": {first.name}: {first.problem}" if first else ""
        raise ConfigError(
            f"{title}: none of {result.unreadable + result.failed} files could be judged{why}. "
            "Name a folder, a tar or a list of JPEG, PNG, GIF, WebP or AVIF files."
        )
    return result


def with_choice(outcome: Outcome, wanted: float, *, point_estimate: bool) -> Outcome:
    """The outcome with the most severe setting that keeps the wanted rate. Raises NoChoice."""
    choice = choose(
        outcome.harmless, wanted, must_block=outcome.must_block, point_estimate=point_estimate
    )
    return replace(outcome, choice=choice, curve=curve(outcome.harmless, choice))


async def chosen_policy(bench: Bench, outcome: Outcome) -> Policy:
    """The policy at the chosen severity, tried once more on the pictures that stand out.

    Those around the choice are among them, so that a file is written only if it does what the
    curve says. Raises RuntimeError if it does not.
    """
    choice = outcome.choice
    assert choice is not None
    policy = calibrated(
        outcome.policy, outcome.harmless, choice, outcome.curve, outcome.made.date()
    )
    judge = await asyncio.to_thread(bench.judge_of, policy)
    for standout in outcome.harmless.standouts:
        evidence = standout.looked.evidence
        is_blocked = judge.judge(evidence.embeddings, evidence.places).action is Action.BLOCK
        if is_blocked is not (standout.block_severity <= choice.severity):
            raise RuntimeError(
                f"At severity {choice.severity:g} the policy does not judge {standout.name} as "
                f"its severity {standout.block_severity:g} says; nothing is written. "
                "This is a defect of the program: please report it."
            )
    return policy
