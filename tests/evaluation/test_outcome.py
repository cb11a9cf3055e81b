"""Tests of safety_proxy/evaluation/outcome.py: the JSON says what the surveys hold."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.outcome import as_document
from safety_proxy.verdict import Action
from tests.evaluation.scenes import outcome_of

MANY = [0.5 + 0.01 * number for number in range(300)]


def told(rate: Rate) -> dict[str, Any]:
    """A rate as JSON has it."""
    return {
        "hits": rate.hits,
        "pictures": rate.pictures,
        "share": rate.hits / rate.pictures,
        "upper_bound": rate.bound,
    }


def test_document_of_an_evaluation() -> None:
    """Rates, rules, the pictures that stand out, and nothing of a calibration."""
    outcome = outcome_of([-0.5, 1.0, 2.0], groups=["a", "b", "b"])
    document = json.loads(json.dumps(as_document(outcome), allow_nan=False))
    assert document["blocked"] == told(Rate(1, 3))
    assert document["flagged_or_blocked"] == told(Rate(1, 3))
    assert document["harmless"]["rules"] == {"red-and-blue": 1, "green": 0}
    assert document["harmless"]["data_digest"] == outcome.harmless.data_digest
    first = document["harmless"]["standouts"][0]
    assert first["name"] == "0000.png"
    assert first["block_severity"] == pytest.approx(-0.5, abs=1e-4)
    assert first["reasons"][0].startswith("red-and-blue in frame 0")
    assert [group["name"] for group in document["groups"]] == ["a", "b"]
    assert document["confidence"] == 0.95
    assert not {"calibration", "curve", "must_block"} & document.keys()


def test_document_of_a_calibration() -> None:
    """The choice, its price, and the curve."""
    outcome = outcome_of(MANY, must_block=[0.1, 0.4, 0.7], wanted=0.05)
    document = json.loads(json.dumps(as_document(outcome), allow_nan=False))
    choice = document["calibration"]
    assert choice["severity"] == 0.579
    assert choice["wanted_rate"] == 0.05
    assert choice["blocked"] == told(Rate(8, 300))
    assert choice["missed"] == told(Rate(1, 3))
    assert choice["severity_that_misses_none"] == 0.701
    assert choice["bound_keeps_the_rate"] is True
    assert document["missed"] == told(Rate(3, 3))  # of the policy as it is
    assert {"severity": 0.579, **told(Rate(8, 300))} in document["curve"]


def test_what_has_no_number_is_null() -> None:
    """JSON knows no infinity: no severity catches this picture."""
    outcome = outcome_of([1.0])
    never = replace(outcome.harmless.standouts[0], block_severity=math.inf)
    outcome = replace(outcome, harmless=replace(outcome.harmless, standouts=(never,)))
    document = json.loads(json.dumps(as_document(outcome), allow_nan=False))
    assert document["harmless"]["standouts"][0]["block_severity"] is None


def test_thresholds_move_with_the_severity() -> None:
    """One severity is a tenth of a cosine at the tests' scale of 10."""
    outcome = outcome_of([1.0])
    assert outcome.thresholds("red", 0.0) == (0.6, 0.6)
    assert outcome.thresholds("red", 1.0) == pytest.approx((0.5, 0.5))
    assert outcome.blocked == outcome.harmless.rate(Action.BLOCK)
