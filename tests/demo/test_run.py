"""The samples, and what the demo makes of their outcomes."""

import socket
from dataclasses import replace

import pytest

from safety_proxy.demo.run import Outcome, Sample, samples
from safety_proxy.demo.upstream import demo_upstream, free_port
from safety_proxy.store.hashlist import test_picture as blocked_by_hash
from safety_proxy.verdict import Action, Source, Verdict


def test_samples_cover_every_action_and_a_duplicate() -> None:
    """Two dozen pictures, one of them twice, and the test picture last."""
    listed = list(samples())
    assert {sample.expected for sample in listed} == set(Action)
    assert len(listed) >= 26
    assert sum(sample.body == listed[0].body for sample in listed) == 2
    assert listed[-1].body == blocked_by_hash()


@pytest.mark.parametrize(
    ("expected", "judged", "status", "right"),
    [
        (Action.ALLOW, Action.ALLOW, 201, True),
        (Action.FLAG, Action.FLAG, 201, True),
        (Action.BLOCK, Action.BLOCK, 400, True),
        (Action.ALLOW, Action.BLOCK, 400, False),
        (Action.BLOCK, Action.ALLOW, 201, False),
        (Action.BLOCK, Action.BLOCK, 201, False),
        (Action.ALLOW, Action.ALLOW, 502, False),
    ],
)
def test_outcome_is_right_only_if_verdict_and_answer_are(
    expected: Action, judged: Action, status: int, *, right: bool
) -> None:
    """A blocked picture that was stored is as wrong as a clean one that was refused."""
    verdict = Verdict(judged, (), "0" * 64, "model", "policy", Source.POLICY)
    outcome = Outcome(Sample("a.png", expected, b""), status, verdict, 1.0, 1)
    assert outcome.is_right is right
    assert replace(outcome, milliseconds=2.0).is_right is right


async def test_without_pictrs_the_stand_in_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody shall take it for storage."""
    monkeypatch.setenv("PATH", "")
    async with demo_upstream(None) as (address, description):
        assert address.startswith("http://127.0.0.1:")
        assert "stand-in" in description


async def test_given_upstream_is_used_as_it_is() -> None:
    """`--upstream` wins over whatever is on PATH."""
    async with demo_upstream("http://pictrs:8080") as (address, _):
        assert address == "http://pictrs:8080"


def test_taken_port_is_avoided() -> None:
    """A server on the usual port does not stop the demo."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
