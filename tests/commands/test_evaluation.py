"""Tests of safety_proxy/commands/evaluation.py: the commands, from options to files."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from safety_proxy.commands import ExitCode
from safety_proxy.commands.evaluation import register
from safety_proxy.errors import ConfigError
from safety_proxy.evaluation.bounds import Rate
from safety_proxy.evaluation.trial import Bench
from safety_proxy.policy.policy import load_policy
from safety_proxy.settings import Settings
from tests.evaluation.scenes import bench_of, write_shades
from tests.fakes import POLICY_TEXT

# Reds of blue pictures. From 192 on, red's cosine is 0.6 and the color policy blocks them.
HARMLESS = range(180)
BLOCKED = [200, 220]


@asynccontextmanager
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    """The tests' model of colors."""
    yield bench_of()


def run(*arguments: object) -> Result:
    """What the commands print and end with."""
    cli = typer.Typer()
    register(cli, bench)
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The color policy as a file."""
    file = tmp_path / "colors.toml"
    file.write_text(f'model = "fake"\n{POLICY_TEXT}', encoding="utf-8")
    return file


@pytest.fixture
def harmless(tmp_path: Path) -> Path:
    """180 pictures, none of which is blocked."""
    return write_shades(tmp_path / "harmless", HARMLESS)


def folder(tmp_path: Path, reds: Iterable[int]) -> Path:
    """Pictures that must be caught."""
    return write_shades(tmp_path / "stand-ins", reds)


def test_evaluate_prints_tables_and_no_progress_where_nobody_watches(
    harmless: Path, policy: Path
) -> None:
    """Standard error stays empty for a log, standard output has no escapes."""
    result = run("evaluate", harmless, "--policy", policy)
    assert result.exit_code == 0
    assert "0 of 180" in result.stdout
    assert "\x1b" not in result.output
    assert result.stderr == ""


def test_progress_is_shown_to_who_watches(harmless: Path, policy: Path) -> None:
    """On standard error, so that what is piped on stays clean."""
    cli = typer.Typer()
    register(cli, bench)
    arguments = ["evaluate", str(harmless), "--policy", str(policy), "--json"]
    result = CliRunner().invoke(cli, arguments, env={"TTY_COMPATIBLE": "1"})
    assert "Harmless pictures" in result.stderr
    assert "180/180" in result.stderr
    assert json.loads(result.stdout)["harmless"]["pictures"] == 180


def test_evaluate_as_json_is_nothing_but_json(tmp_path: Path, harmless: Path, policy: Path) -> None:
    """With the stand-ins' share of misses."""
    stand_ins = folder(tmp_path, [*BLOCKED, 20])
    result = run("evaluate", harmless, "--policy", policy, "--should-block", stand_ins, "--json")
    document = json.loads(result.stdout)
    assert document["blocked"]["hits"] == 0
    assert document["harmless"]["pictures"] == 180
    assert document["missed"]["hits"] == 1
    assert document["policy"]["name"] == "colors"


def test_report_is_written_where_asked(tmp_path: Path, harmless: Path, policy: Path) -> None:
    """And the command says where."""
    page = tmp_path / "report.html"
    result = run("evaluate", harmless, "--policy", policy, "--report", page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert result.stderr == f"Report: {page}\n"


def test_calibrate_writes_a_policy_that_says_how_it_was_found(
    tmp_path: Path, harmless: Path, policy: Path
) -> None:
    """It loads, blocks what it says, and is more severe: no picture came near."""
    out = tmp_path / "calibrated.toml"
    result = run("calibrate", harmless, "--rate", 0.05, "--policy", policy, "--out", out)
    assert result.exit_code == 0, result.output
    written = load_policy(out)
    assert written.severity > 0
    assert written.provenance is not None
    assert written.provenance.pictures == 180
    assert result.stderr == f"Policy: {out}, version {written.version}\n"
    again = json.loads(run("evaluate", harmless, "--policy", out, "--json").stdout)
    assert again["blocked"]["hits"] == 3
    assert again["blocked"]["upper_bound"] <= 0.05 < Rate(4, 180).bound
    assert out.read_text(encoding="utf-8").startswith("# Written by `safety-proxy calibrate`")


def test_a_sample_that_cannot_suffice_is_refused_before_any_work(
    harmless: Path, policy: Path
) -> None:
    """With the number that it takes."""
    result = run("calibrate", harmless, "--rate", 0.001, "--policy", policy)
    assert isinstance(result.exception, ConfigError)
    assert "at least 2,995 distinct pictures" in str(result.exception)


def test_a_sample_that_turns_out_too_small_is_shown_and_nothing_is_written(
    tmp_path: Path, policy: Path
) -> None:
    """Copies of one picture are one picture."""
    out = tmp_path / "calibrated.toml"
    copies = write_shades(tmp_path / "copies", [0] * 60)
    result = run("calibrate", copies, "--rate", 0.05, "--policy", policy, "--out", out)
    assert result.exit_code == ExitCode.FOUND
    assert "0 of 1" in result.stdout
    assert "A sample of 1 cannot show a rate of 0.05" in result.stderr
    assert not out.exists()


def test_a_point_estimate_is_written_only_when_asked_for(
    tmp_path: Path, harmless: Path, policy: Path
) -> None:
    """And named as such in the file."""
    out = tmp_path / "calibrated.toml"
    result = run(
        *("calibrate", harmless, "--rate", 0.006, "--policy", policy, "--out", out),
        "--point-estimate",
    )
    assert result.exit_code == 0, result.output
    assert "point estimate" in load_policy(out).note
    assert "too small" in result.stdout


def test_a_policy_that_misses_is_written_only_when_that_is_accepted(
    tmp_path: Path, harmless: Path, policy: Path
) -> None:
    """The trade-off is shown either way."""
    out = tmp_path / "calibrated.toml"
    stand_ins = folder(tmp_path, [*BLOCKED, 20])
    arguments = ("calibrate", harmless, "--rate", 0.05, "--policy", policy, "--out", out)
    result = run(*arguments, "--should-block", stand_ins)
    assert result.exit_code == ExitCode.FOUND
    assert "1 of 3 pictures that must be caught are missed" in result.stderr
    assert "to miss none" in result.stdout
    assert not out.exists()
    result = run(*arguments, "--should-block", stand_ins, "--accept-missed")
    assert result.exit_code == 0
    assert load_policy(out).severity > 0


def test_a_policy_that_misses_nothing_needs_no_word(
    tmp_path: Path, harmless: Path, policy: Path
) -> None:
    """The stand-ins are caught at the chosen severity."""
    out = tmp_path / "calibrated.toml"
    result = run(
        *("calibrate", harmless, "--rate", 0.05, "--policy", policy, "--out", out),
        *("--should-block", folder(tmp_path, BLOCKED)),
    )
    assert result.exit_code == 0
    assert out.exists()


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_a_rate_that_is_none_is_refused(harmless: Path, rate: float) -> None:
    """Ten per cent is 0.1."""
    result = run("calibrate", harmless, "--rate", rate)
    assert isinstance(result.exception, ConfigError)
    assert "above 0 and below 1" in str(result.exception)


def test_what_cannot_be_written_or_read_is_an_error_with_its_path(
    tmp_path: Path, harmless: Path, policy: Path
) -> None:
    """Not a traceback."""
    nowhere = tmp_path / "nowhere" / "report.html"
    result = run("evaluate", harmless, "--policy", policy, "--report", nowhere)
    assert isinstance(result.exception, ConfigError)
    assert str(nowhere) in str(result.exception)
    result = run("evaluate", tmp_path / "none", "--policy", policy)
    assert isinstance(result.exception, ConfigError)
    assert "not found" in str(result.exception)


def test_without_out_nothing_is_written_and_that_is_said(harmless: Path, policy: Path) -> None:
    """The choice is shown all the same."""
    result = run("calibrate", harmless, "--rate", 0.05, "--policy", policy)
    assert result.exit_code == 0
    assert result.stderr == "No policy is written without --out FILE.\n"


def test_cosines_of_another_model_are_refused_by_evaluate_and_set_anew_by_calibrate(
    tmp_path: Path, harmless: Path, policy: Path
) -> None:
    """They mean something else there, until they are calibrated."""
    other = tmp_path / "other.toml"
    other.write_text(
        POLICY_TEXT.replace('score = "cosine"', 'score = "cosine"\nmodel = "other"'), "utf-8"
    )
    result = run("evaluate", harmless, "--policy", other)
    assert isinstance(result.exception, ConfigError)
    out = tmp_path / "calibrated.toml"
    result = run("calibrate", harmless, "--rate", 0.05, "--policy", other, "--out", out)
    assert result.exit_code == 0
    assert load_policy(out).model == ["fake"]
