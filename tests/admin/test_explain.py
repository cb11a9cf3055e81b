"""Tests of safety_proxy/admin/explain.py: all that is known, and what would change it."""

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from safety_proxy.admin.explain import _severity_change, as_json
from safety_proxy.store.hashlist import test_picture as harmless_picture
from safety_proxy.store.listed import Exclusion, OwnEntry
from safety_proxy.store.pictures import Known
from safety_proxy.store.shared import ListSource
from safety_proxy.verdict import Action, Reason, Source, Verdict
from tests.fakes import ask
from tests.listing import ADDRESS, Listing, evidence_of, serving
from tests.pictures import BLUE, GREEN, PURPLE, plain

FILE = {"Content-Type": "application/octet-stream"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Listing, str]]:
    file = tmp_path / "theirs.txt"
    file.write_text(f"{evidence_of(plain(GREEN)).md5}\n")
    async with serving(tmp_path, ListSource("theirs", file)) as served:
        yield served


async def explained(client: ClientSession, url: str, body: bytes) -> Any:
    answer = await ask(client, "POST", url, "/api/v1/explain", data=body, headers=FILE)
    assert answer.status == 200, answer.body
    return answer.json


def commands(answer: Any) -> list[str]:
    return [change["command"] for change in answer["changes"] if change["command"]]


async def test_a_file_is_explained(client: ClientSession, served: tuple[Listing, str]) -> None:
    """Hashes, scores by frame with thresholds, the rule, and changes that end it."""
    evidence = evidence_of(plain(PURPLE))
    answer = await explained(client, served[1], plain(PURPLE))
    assert (answer["action"], answer["match"]) == ("block", None)
    for name in ("sha256", "sha1", "md5", "media_type", "model"):
        assert answer[name] == getattr(evidence, name)
    assert answer["pdq"] == [{"hash": evidence.pdq[0].bits.hex(), "quality": 0}]
    (place,) = answer["policy"]["places"]
    assert place["where"] == "frame 0"
    assert {concept["concept"] for concept in place["concepts"]} >= {"red", "blue", "green"}
    assert [rule["rule"] for rule in answer["policy"]["rules"] if rule["is_held"]]
    allow = f"safety-proxy allow {evidence.sha256} --note WHY"
    assert commands(answer) == [allow]
    first, severity, *thresholds = (change["text"] for change in answer["changes"])
    assert first == "Let exactly these bytes in."
    assert "it is not blocked any more" in severity
    assert len(thresholds) == 1
    assert "Rule red-and-blue no longer holds with threshold = " in thresholds[0]


async def test_an_allowed_picture_is_explained(
    client: ClientSession, served: tuple[Listing, str]
) -> None:
    """What would block it; nothing is offered that would allow it."""
    answer = await explained(client, served[1], plain(BLUE))
    assert (answer["action"], answer["policy"]["action"]) == ("allow", "allow")
    assert commands(answer) == []
    severity, *thresholds = (change["text"] for change in answer["changes"])
    assert "it is blocked; now 0" in severity
    assert [text.split(" with ")[0] for text in thresholds] == [
        "Rule red-and-blue holds",
        "Rule green holds",
    ]


async def test_a_list_s_decision_stands_beside_the_policy_s(
    client: ClientSession, served: tuple[Listing, str]
) -> None:
    """Of others' lists the entry can be excluded; an own one taken back."""
    listing, url = served
    answer = await explained(client, url, plain(GREEN))
    match = answer["match"]
    assert (answer["action"], answer["policy"]["action"]) == ("block", "flag")
    assert (match["list"], match["kind"]) == ("theirs", "md5")
    assert commands(answer) == [
        f"safety-proxy lists exclude {match['entry']}",
        f"safety-proxy allow {answer['sha256']} --note WHY",
    ]
    await listing.lists.exclude(Exclusion(match["entry"]))
    assert (await explained(client, url, plain(GREEN)))["action"] == "flag"
    sha256 = evidence_of(plain(PURPLE)).sha256
    await listing.lists.put(OwnEntry(sha256, Action.ALLOW, "a test", "anna"))
    answer = await explained(client, url, plain(PURPLE))
    assert (answer["action"], answer["policy"]["action"]) == ("allow", "block")
    assert answer["match"]["note"] == "anna, a test"
    assert commands(answer) == [f"safety-proxy allow --remove {sha256}"]


async def test_a_known_digest_is_explained_without_a_scan(
    client: ClientSession, served: tuple[Listing, str]
) -> None:
    """From what is kept of it; the answer is that for the file."""
    listing, url = served
    evidence = evidence_of(plain(PURPLE))
    listing.seen[evidence.sha256] = evidence
    answer = await ask(client, "GET", url, f"/api/v1/explain/{evidence.sha256}")
    assert (answer.status, listing.looks) == (200, 0)
    assert answer.json == await explained(client, url, plain(PURPLE))


async def test_a_listed_digest_is_explained_though_it_was_never_seen(
    client: ClientSession, served: tuple[Listing, str]
) -> None:
    """One that is on no list either is not found, and the message says what to give."""
    listing, url = served
    answer = await ask(client, "GET", url, f"/api/v1/explain/{'a' * 64}")
    assert answer.status == 404
    assert "Give the file itself" in answer.json["msg"]
    await listing.lists.put(OwnEntry("a" * 64, Action.BLOCK))
    answer = await ask(client, "GET", url, f"/api/v1/explain/{'a' * 64}")
    assert (answer.status, answer.json["action"]) == (200, "block")
    assert commands(answer.json)[0] == f"safety-proxy block --remove {'a' * 64}"


@pytest.mark.parametrize(
    ("action", "source", "offered"),
    [
        (Action.BLOCK, Source.BLOCK_LIST, [f"safety-proxy allow {'a' * 64} --note WHY"]),
        (Action.FLAG, Source.UNREADABLE, [f"safety-proxy allow {'a' * 64} --note WHY"]),
        (Action.ALLOW, Source.UNREADABLE, []),
    ],
)
async def test_a_digest_whose_verdict_alone_is_known_is_explained_by_that(
    client: ClientSession,
    served: tuple[Listing, str],
    action: Action,
    source: Source,
    offered: list[str],
) -> None:
    """A list had it by its look, or nothing could be read: nobody has kept embeddings of it."""
    listing, url = served
    reason = Reason("a-rule", detail="theirs: pdq")
    verdict = Verdict(action, (reason,), "a" * 64, "a model", "1", source)
    listing.recorded["a" * 64] = Known("a" * 64, "a model", None, 5.0, 6.0, verdict, 0.0)
    answer = await ask(client, "GET", url, f"/api/v1/explain/{'a' * 64}")
    assert (answer.status, answer.json["action"]) == (200, action.value)
    assert answer.json["recorded"] == {
        "at": "1970-01-01T00:00:00+00:00",
        "reasons": ["a-rule: theirs: pdq"],
    }
    assert commands(answer.json) == offered
    # What the lists say now goes before what was said then.
    await listing.lists.put(OwnEntry("a" * 64, Action.ALLOW))
    answer = await ask(client, "GET", url, f"/api/v1/explain/{'a' * 64}")
    assert (answer.json["action"], "recorded" in answer.json) == ("allow", False)


async def test_an_address_is_fetched(client: ClientSession, served: tuple[Listing, str]) -> None:
    """By the server, which says so if there is nothing."""
    listing, url = served
    answer = await ask(client, "POST", url, "/api/v1/explain", json={"url": ADDRESS})
    assert answer.status == 500
    assert "Unable to download" in answer.json["msg"]
    listing.online = plain(PURPLE)
    answer = await ask(client, "POST", url, "/api/v1/explain", json={"url": ADDRESS})
    assert answer.json == await explained(client, url, plain(PURPLE))


async def test_what_is_no_picture_is_explained(
    client: ClientSession, served: tuple[Listing, str]
) -> None:
    """The policy says what follows, and a list may say otherwise."""
    listing, url = served
    answer = await explained(client, url, b"no picture")
    assert (answer["action"], answer["match"]) == ("block", None)
    assert answer["unreadable"] == "damaged: not a picture of a known format"
    await listing.lists.put(OwnEntry(answer["sha256"], Action.ALLOW))
    assert (await explained(client, url, b"no picture"))["action"] == "allow"


@pytest.mark.parametrize("body", [{}, {"url": ""}, {"url": 5}])
async def test_a_wrong_request_is_refused(
    client: ClientSession, served: tuple[Listing, str], body: Any
) -> None:
    """Neither a file nor an address."""
    answer = await ask(client, "POST", served[1], "/api/v1/explain", json=body)
    assert answer.status == 400


async def test_the_test_picture_cannot_be_talked_away(
    client: ClientSession, served: tuple[Listing, str]
) -> None:
    """No command would change it, so none is offered."""
    answer = await explained(client, served[1], harmless_picture())
    assert (answer["action"], answer["match"]["list"]) == ("block", "test picture")
    assert answer["changes"] == []


@pytest.mark.parametrize(
    ("least", "now", "text"),
    [
        (0.784, 0.0, "At severity 0.79 it is blocked; now 0."),
        (0.78, 0.5, "At severity 0.78 it is blocked; now 0.5."),
        (-1.054, 0.0, "At severity -1.06 it is not blocked any more; now 0."),
        (-1.0, 0.0, "At severity -1.01 it is not blocked any more; now 0."),
        (0.0, 0.0, "At severity -0.01 it is not blocked any more; now 0."),
    ],
)
def test_a_severity_is_rounded_to_the_side_that_tells(least: float, now: float, text: str) -> None:
    """Whoever sets just that sees the change."""
    assert _severity_change(Action.BLOCK, least, now) == text


def test_json_has_no_infinity() -> None:
    """A rule that no severity brings about has null there; the rest is as it was."""

    @dataclass
    class Value:
        severity: float
        places: tuple[str, ...]

    assert as_json([Value(math.inf, ("a",)), 1.5, None]) == [
        {"severity": None, "places": ["a"]},
        1.5,
        None,
    ]
    json.dumps(as_json(Value(-math.inf, ())), allow_nan=False)
