"""Tests of safety_proxy/evaluation/tally.py: exact counts, few bytes, the right standouts."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.sources import Unopened
from safety_proxy.evaluation.tally import STANDOUTS, Looked, Tally
from safety_proxy.verdict import Action
from tests.evaluation.scenes import at_severity, judge_of, looked, survey_of
from tests.fakes import FakeEmbedder, color_policy


def tally(*, furthest: bool = False) -> Tally:
    return Tally(judge_of(color_policy(), FakeEmbedder()), furthest=furthest)


def test_severities_say_from_where_on_each_picture_is_blocked() -> None:
    """The known ones come out; at severity 0 those below it are blocked already."""
    survey = survey_of([1.0, -0.5, 2.0, -0.25])
    assert survey.block_severities == pytest.approx([1.0, -0.5, 2.0, -0.25], abs=1e-4)
    assert survey.rate(Action.BLOCK) == Rate(2, 4)
    assert survey.rate_at(0.0, Action.BLOCK) == Rate(2, 4)
    assert survey.rate_at(1.5, Action.BLOCK) == Rate(3, 4)
    assert survey.rate_at(-1.0, Action.BLOCK) == Rate(0, 4)
    assert survey.rules == {"red-and-blue": 2, "green": 0}


def test_a_blocked_picture_counts_as_flagged_too() -> None:
    """Of flags the rate is that of pictures which get at least one."""
    counts = tally()
    counts.add("red-and-blue", "", at_severity(-0.5, "a"))
    counts.add("green", "", looked((0, 1, 0, 0), "b"))
    counts.add("neither", "", looked((0, 0, 0, 1), "c"))
    survey = counts.survey()
    assert survey.rate(Action.BLOCK) == Rate(1, 3)
    assert survey.rate(Action.FLAG) == Rate(2, 3)
    assert survey.actions.tolist() == [2, 1, 0]


def test_margins_are_scores_over_thresholds() -> None:
    """Of each concept, in the policy's order."""
    survey = survey_of([1.0])
    assert survey.concepts == ("red", "green", "blue")
    blue = np.sqrt(1 - 0.5**2)
    assert survey.margins.tolist() == [pytest.approx([-0.1, -0.9, blue - 0.6], abs=1e-4)]


def test_the_same_bytes_count_once() -> None:
    """Whatever they are called; the second is a duplicate."""
    counts = tally()
    digest = hashlib.sha256(b"x").hexdigest()
    assert counts.is_new(digest)
    assert not counts.is_new(digest)
    assert counts.survey().duplicates == 1


def test_data_digest_is_that_of_sha256sum_and_sort() -> None:
    """So that an admin can check it with tools of the system; order does not matter."""
    names = [f"{number}" for number in range(5)]
    digests = sorted(hashlib.sha256(name.encode()).hexdigest() for name in names)
    expected = hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
    assert survey_of([1.0] * 5).data_digest == expected
    assert survey_of([1.0] * 4).data_digest != expected


def test_the_nearest_to_a_block_stand_out() -> None:
    """In order, no more than so many; of equals the first found."""
    severities = np.random.default_rng(3).permutation(np.linspace(-0.5, 3, 200))
    standouts = survey_of(severities).standouts
    assert len(standouts) == STANDOUTS
    nearest = [f"{number:04}.png" for number in np.argsort(severities)[:STANDOUTS]]
    assert [standout.name for standout in standouts] == nearest
    assert standouts[0].action is Action.BLOCK
    assert standouts[0].reasons[0].rule == "red-and-blue"
    assert standouts[-1].action is Action.ALLOW
    equal = survey_of([1.0] * 3).standouts
    assert [standout.name for standout in equal] == ["0000.png", "0001.png", "0002.png"]


def test_of_what_must_be_caught_the_furthest_stand_out() -> None:
    """The hardest first."""
    standouts = survey_of([0.5, 2.0, 1.0], furthest=True).standouts
    assert [standout.name for standout in standouts] == ["0001.png", "0002.png", "0000.png"]


def test_files_without_a_verdict_are_counted_and_the_first_named() -> None:
    """They are in no rate."""
    counts = tally()
    for number in range(150):
        counts.add_unreadable(Unopened(f"{number}", "no picture"))
    counts.add_failed(Unopened("late", "no model"))
    counts.add("a", "", at_severity(1.0, "a"))
    survey = counts.survey()
    assert (survey.unreadable, survey.failed, survey.pictures) == (150, 1, 1)
    assert len(survey.problems) == 100


def test_what_is_not_finite_is_no_verdict_and_leaves_no_trace() -> None:
    """NaN is below every threshold; counted in, it would look harmless."""
    counts = tally()
    counts.add("a", "", at_severity(1.0, "a"))
    with pytest.raises(EmbedderUnavailable):
        counts.add("b", "", looked((np.nan, 0, 0, 0), "b"))
    assert counts.survey().pictures == 1


def test_nothing_at_all_is_an_empty_survey() -> None:
    """The caller says that there was none."""
    survey = tally().survey()
    assert survey.pictures == 0
    assert survey.margins.shape == (0, 3)


def test_a_picture_leaves_a_few_hundred_bytes() -> None:
    """100,000 pictures take tens of megabytes: crops and embeddings are let go of."""
    counts, pictures = tally(), 4_000
    row = at_severity(1.0, "a").evidence

    def add(number: int) -> None:
        digest = f"{number:064x}"
        assert counts.is_new(digest)
        evidence = type(row)(digest, "", "", "", row.model, row.embeddings.copy(), row.places)
        counts.add(f"{number}", "", Looked(evidence, np.zeros((64, 64, 3), np.uint8)))

    for number in range(500):  # all that stands out is held by now
        add(number)
    tracemalloc.start()
    for number in range(500, 500 + pictures):
        add(number)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown / pictures < 400
