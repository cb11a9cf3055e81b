"""Tests of safety_proxy/verdict.py: actions, reasons and verdicts."""

from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest

from safety_proxy.verdict import Action, ConceptScore, Reason, Source, Verdict

FIRE = ConceptScore("fire", score=0.81234, threshold=0.5, weight=1)
WATER = ConceptScore("water", score=0.7, threshold=0.6, weight=3)


def test_severity_rises_from_allow_over_flag_to_block() -> None:
    """The most severe of several actions is their maximum."""
    rising = [Action.ALLOW, Action.FLAG, Action.BLOCK]
    assert all(low.severity < high.severity for low, high in pairwise(rising))
    assert set(rising) == set(Action)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (
            Reason("both", (FIRE, WATER), where="frame 7"),
            "both in frame 7: fire 0.812>=0.500, water 0.700>=0.600",
        ),
        (Reason("first", (FIRE,), where="frame 0"), "first in frame 0: fire 0.812>=0.500"),
        (Reason("block-list", detail="test picture"), "block-list: test picture"),
    ],
)
def test_a_reason_reads_as_a_log_wants_it(reason: Reason, text: str) -> None:
    """Rule, frame, and each concept with its score and threshold; or a detail."""
    assert str(reason) == text


def test_names_are_those_of_policy_files_and_metrics() -> None:
    """Other programs read them."""
    assert [str(action) for action in Action] == ["allow", "flag", "block"]
    names = [str(source) for source in Source]
    assert names == ["policy", "allow_list", "block_list", "unreadable", "unscanned"]


def test_a_verdict_cannot_be_changed() -> None:
    """It is shared by all who asked, and kept."""
    verdict = Verdict(Action.BLOCK, (), "00", "model", "policy", Source.POLICY)
    with pytest.raises(FrozenInstanceError):
        verdict.action = Action.ALLOW  # type: ignore[misc]  # what this test is about
