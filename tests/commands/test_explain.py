"""Tests of safety_proxy/commands/explain.py: an admin understands it, on 80 columns."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from safety_proxy.commands.explain import register, told
from safety_proxy.errors import ConfigError
from tests.listing import ADDRESS, Listing, evidence_of, serving_beside
from tests.pictures import BLUE, PURPLE, plain


def run(*arguments: str) -> Result:
    cli = typer.Typer()
    cli.callback()(lambda: None)  # else the only command would be the program
    register(cli)
    result = CliRunner().invoke(cli, list(arguments))
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Listing, str]]:
    with serving_beside(tmp_path) as served:
        yield served


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    file.write_bytes(plain(PURPLE))
    return file


def test_a_blocked_file_is_explained(server: tuple[Listing, str], picture: Path) -> None:
    """First the action and why, then what would change it, then the numbers; code 1.

    Only a command is wider than the terminal: broken into two lines it could not be copied.
    """
    result = run("explain", str(picture), "--admin", server[1])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].startswith("BLOCK  by the policy: ")
    commands = [line.strip() for line in lines if line.startswith("    safety-proxy")]
    assert commands == [f"safety-proxy allow {evidence_of(plain(PURPLE)).sha256} --note WHY"]
    assert max(len(line) for line in lines if line.strip() not in commands) <= 80
    order = ["BLOCK", "What would change it", "sha256", "Rules", "In frame 0"]
    places = [next(i for i, line in enumerate(lines) if line.startswith(text)) for text in order]
    assert places == sorted(places)
    assert evidence_of(plain(PURPLE)).sha256 in result.output.replace("\n", "").replace(" ", "")


def test_json_is_what_the_server_says(server: tuple[Listing, str], picture: Path) -> None:
    """For machines; the code is the same."""
    result = run("explain", str(picture), "--json", "--admin", server[1])
    assert result.exit_code == 1
    assert json.loads(result.output)["policy"]["action"] == "block"


def test_an_address_or_a_digest_will_do(server: tuple[Listing, str]) -> None:
    """The server fetches the one and remembers the other; an allowed picture ends with 0."""
    listing, url = server
    listing.online = plain(BLUE)
    result = run("explain", ADDRESS, "--admin", url)
    assert result.exit_code == 0
    assert result.output.startswith("ALLOW  on no list, and no rule of the policy holds.")
    evidence = evidence_of(plain(BLUE))
    listing.seen[evidence.sha256] = evidence
    assert run("explain", evidence.sha256.upper(), "--admin", url).output == result.output
    with pytest.raises(ConfigError, match="Give the file itself"):
        run("explain", "a" * 64, "--admin", url)
    with pytest.raises(ConfigError, match="neither a file nor a sha256"):
        run("explain", "no-such-file", "--admin", url)


def test_without_a_server_there_is_no_explanation(picture: Path) -> None:
    """Code 3, and how to start one."""
    result = run("explain", str(picture), "--admin", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "safety-proxy serve" in result.output


def printed(answer: dict[str, Any], **options: Any) -> str:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    for part in told(answer, **options):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def prompt(text: str, score: float, weight: int = 0) -> dict[str, Any]:
    return {"text": text, "score": score, "threshold": 0.2, "critical": 0.25, "weight": weight}


PDQ = "d8f8f0cce0f4a84f0e370a22028f67f0b36e2ed596623e1d33e6b39c4e9c9b22"


CHANGE = {"text": "a change", "command": "safety-proxy [x]"}


def listed(**fields: Any) -> dict[str, Any]:
    match = {
        "list": "theirs",
        "kind": "pdq",
        "entry": PDQ,
        "distance": 12,
        "note": "",
        "origin": "",
    }
    return {"sha256": "a" * 64, "action": "block", "match": match | fields, "changes": [CHANGE]}


def test_a_near_duplicate_is_told_with_its_distance() -> None:
    """And what the policy alone would have said."""
    text = printed(listed(note="anna, spam", origin="b" * 64))
    assert text.startswith("BLOCK  by your own entry (anna, spam): pdq")
    assert ", 12 of 256 bits off." in text.replace("\n", " ")
    assert "\n  a change" in text
    assert "\n    safety-proxy [x]" in text
    text = printed(listed() | {"policy": {"action": "allow", "rules": [], "places": []}})
    assert "The policy alone: allow." in text.replace("\n", " ")


def test_an_unreadable_file_is_told() -> None:
    """Nothing of it has scores."""
    answer: dict[str, Any] = {
        "sha256": "a" * 64,
        "action": "block",
        "match": None,
        "changes": [],
    }
    text = printed(answer | {"unreadable": "decoder failed"})
    assert text.startswith("BLOCK  no picture could be read: decoder failed")


def test_a_verdict_that_is_only_recorded_is_told_with_its_time() -> None:
    """It was given then, and the lists may have changed since."""
    recorded = {"at": "2026-01-02T03:04:05+00:00", "reasons": ["block-list: theirs: pdq"]}
    answer = {"sha256": "a" * 64, "action": "block", "match": None, "changes": [CHANGE]}
    text = printed(answer | {"recorded": recorded}).replace("\n", " ")
    said = "BLOCK  as it was judged at 2026-01-02T03:04:05+00:00: block-list: theirs: pdq."
    assert text.startswith(said)


def test_prompts_found_and_near_are_shown_and_all_if_asked() -> None:
    """The highest first, controls that were found with their shifts; markup is text."""
    prompts = [prompt(f"[p{number}]", number / 100, int(number >= 20) * 3) for number in range(23)]
    place = {
        "where": "frame 3",
        "concepts": [{"concept": "c", "weight": 9, "shift": -0.03, "prompts": prompts}],
        "controls": [
            {
                "prompt": "a drawing",
                "score": 0.3,
                "threshold": 0.2,
                "is_found": True,
                "shifts": [["c", -0.03]],
            },
            {"prompt": "unseen", "score": 0.1, "threshold": 0.2, "is_found": False, "shifts": []},
        ],
    }
    rule = {
        "rule": "r",
        "action": "flag",
        "is_held": False,
        "where": "frame 3",
        "missing": [{"concept": "c", "weight": 9, "wanted": 10}],
    }
    policy = {"action": "allow", "rules": [rule], "places": [place]}
    answer: dict[str, Any] = {
        "sha256": "a" * 64,
        "action": "allow",
        "match": None,
        "changes": [],
    }
    text = printed(answer | {"policy": policy})
    shown = [number for number in range(23) if f"[p{number}]" in text]
    assert shown == [18, 19, 20, 21, 22]
    assert text.index("[p22]") < text.index("[p18]")
    assert "shifted by -0.030" in text
    assert "control: a drawing [c -0.030]" in text
    assert "unseen" not in text
    assert "c (9 of 10)" in text
    full = printed(answer | {"policy": policy}, full=True)
    assert all(f"[p{number}]" in full for number in range(23))
    assert "unseen" in full
