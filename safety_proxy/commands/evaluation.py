"""`safety-proxy evaluate | calibrate`: what a policy does to an admin's own pictures."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safety_proxy.commands import ExitCode
from safety_proxy.errors import ConfigError
from safety_proxy.evaluation.bounds import pictures_needed
from safety_proxy.evaluation.calibration import NoChoice, too_few
from safety_proxy.evaluation.outcome import Outcome, as_document
from safety_proxy.evaluation.report import report
from safety_proxy.evaluation.sources import open_source
from safety_proxy.evaluation.summary import summary
from safety_proxy.evaluation.trial import (
    Bench,
    Samples,
    chosen_policy,
    evaluated,
    with_choice,
)
from safety_proxy.policy.policy import Policy, check_model, default_policy, load_policy
from safety_proxy.policy.writer import policy_toml
from safety_proxy.settings import Settings, load_settings

# Loads the model of these settings, and lets go of it at the end.
OpenBench = Callable[[Settings], AbstractAsyncContextManager[Bench]]

Source = Annotated[
    Path, typer.Argument(help="Your harmless pictures: a folder, a tar, or a list of paths")
]
ShouldBlock = Annotated[
    Path | None,
    typer.Option(help="Pictures that must be caught: harmless stand-ins, never illegal ones"),
]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="A policy file, in place of the server's own")
]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write an HTML page here")]
Json = Annotated[bool, typer.Option("--json", help="Numbers for machines, and no tables")]
Config = Annotated[
    Path | None, typer.Option(envvar="SAFETY_PROXY_CONFIG", help="The server's settings file")
]

_HEAD: Final = """\
Written by `safety-proxy calibrate`; [provenance] says on what it rests. Check it with
`safety-proxy policy check`, see what it changes with `policy diff`, use it as `policy.file`."""


def register(cli: typer.Typer, open_bench: OpenBench) -> None:
    """Adds the two commands."""
    commands = EvaluationCommands(open_bench)
    cli.command()(commands.evaluate)
    cli.command()(commands.calibrate)


class EvaluationCommands:
    """The commands, over a way to get at a model."""

    def __init__(self, open_bench: OpenBench) -> None:
        self._open_bench = open_bench

    def evaluate(
        self,
        source: Source,
        should_block: ShouldBlock = None,
        policy: PolicyFile = None,
        report_file: ReportFile = None,
        config: Config = None,
        *,
        as_json: Json = False,
    ) -> None:
        """Show how many of your harmless pictures the policy blocks and flags, and which."""
        settings = load_settings(config)
        outcome = asyncio.run(self._evaluate(settings, Samples(source, should_block), policy))
        _show(outcome, report_file, as_json=as_json)

    def calibrate(  # noqa: PLR0913 -- a parameter is an option
        self,
        source: Source,
        rate: Annotated[
            float,
            typer.Option(help="Share of harmless pictures that may be blocked, such as 0.001"),
        ],
        out: Annotated[Path | None, typer.Option(help="Write the policy here")] = None,
        should_block: ShouldBlock = None,
        policy: PolicyFile = None,
        report_file: ReportFile = None,
        config: Config = None,
        *,
        point_estimate: Annotated[
            bool,
            typer.Option("--point-estimate", help="Be content with what a small sample shows"),
        ] = False,
        accept_missed: Annotated[
            bool,
            typer.Option(
                "--accept-missed", help="Write the policy even if it misses some of --should-block"
            ),
        ] = False,
        as_json: Json = False,
    ) -> None:
        """Find the severity that blocks at most a wanted share of harmless pictures."""
        settings = load_settings(config)
        if settings.policy.severity is not None:
            raise ConfigError(
                "policy.severity is set, and would stand over what calibrate finds. Unset it "
                "(SAFETY_PROXY_POLICY__SEVERITY), and use the policy that calibrate writes."
            )
        if not 0 < rate < 1:
            raise ConfigError(f"--rate {rate:g}: give a share above 0 and below 1, such as 0.001.")
        if not point_estimate:
            _check_size(source, rate)
        outcome, chosen = asyncio.run(
            self._calibrate(
                settings,
                Samples(source, should_block),
                policy,
                lambda outcome: with_choice(outcome, rate, point_estimate=point_estimate),
            )
        )
        _show(outcome, report_file, as_json=as_json)
        if isinstance(chosen, NoChoice):
            raise _given_up(str(chosen))
        _check_missed(outcome, accept_missed=accept_missed)
        _write(chosen, out)

    async def _evaluate(self, settings: Settings, samples: Samples, file: Path | None) -> Outcome:
        async with self._open_bench(settings) as bench:
            policy = await asyncio.to_thread(_policy, settings, file, bench.fingerprint)
            note = check_model(policy, bench.fingerprint)
            if note:
                sys.stderr.write(f"Note: {note}\n")
            return await _looked_through(bench, policy, samples)

    async def _calibrate(
        self,
        settings: Settings,
        samples: Samples,
        file: Path | None,
        choose: Callable[[Outcome], Outcome],
    ) -> tuple[Outcome, Policy | NoChoice]:
        """The outcome, and the policy that was chosen, or why none could be."""
        async with self._open_bench(settings) as bench:
            policy = await asyncio.to_thread(_policy, settings, file, bench.fingerprint)
            outcome = await _looked_through(bench, policy, samples)
            try:
                outcome = choose(outcome)
            except NoChoice as error:
                return outcome, error
            return outcome, await chosen_policy(bench, outcome)


def _check_size(source: Path, rate: float) -> None:
    """Says before an hour of work what that hour could not change. Raises ConfigError."""
    count = open_source(source).count
    if count is not None and count < pictures_needed(rate):
        raise ConfigError(too_few(count, rate))


def _policy(settings: Settings, file: Path | None, fingerprint: str) -> Policy:
    file, severity = file or settings.policy.file, settings.policy.severity
    if file is None:
        return default_policy(fingerprint, severity=severity)
    return load_policy(file.expanduser(), severity=severity)


async def _looked_through(bench: Bench, policy: Policy, samples: Samples) -> Outcome:
    with _progress() as begin:
        return await evaluated(bench, policy, samples, begin)


@contextmanager
def _progress() -> Iterator[Callable[[str, int | None], Callable[[], None]]]:
    """Bars on standard error, where that is a terminal; nothing at all elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:

        def begin(title: str, count: int | None) -> Callable[[], None]:
            task = progress.add_task(title, total=count)
            return lambda: progress.advance(task)

        yield begin


def _show(outcome: Outcome, report_file: Path | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(as_document(outcome), indent=2))
    else:
        console = Console()
        for part in summary(outcome):
            console.print(part)
    if report_file is not None:
        _write_text(report_file, report(outcome))
        sys.stderr.write(f"Report: {report_file}\n")


def _check_missed(outcome: Outcome, *, accept_missed: bool) -> None:
    """Nobody gets a policy that misses what must be caught without having said so."""
    missed = outcome.choice.missed if outcome.choice is not None else None
    if missed is not None and missed.hits and not accept_missed:
        raise _given_up(
            f"At this severity {missed.hits:,} of {missed.pictures:,} pictures that must be caught "
            "are missed; no policy is written. Change prompts or rules so that the two samples "
            "part better, ask for a higher --rate, or accept it with --accept-missed."
        )


def _write(policy: Policy, out: Path | None) -> None:
    if out is None:
        sys.stderr.write("No policy is written without --out FILE.\n")
        return
    _write_text(out, policy_toml(policy, comment=_HEAD))
    sys.stderr.write(f"Policy: {out}, version {policy.version}\n")


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}.") from error


def _given_up(message: str) -> typer.Exit:
    sys.stderr.write(f"{message}\n")
    return typer.Exit(ExitCode.FOUND)
