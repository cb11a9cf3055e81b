"""`safety-proxy explain FILE|URL|sha256`: all that is known of a picture, for 80 columns.

First what became of it and why, then what would change that, then the numbers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from safety_proxy.commands import ExitCode
from safety_proxy.commands.admin_client import Listener, ask_running, listener_of
from safety_proxy.errors import ConfigError
from safety_proxy.store.listed import checked_sha256

_STYLES: Final = {"allow": "bold green", "flag": "bold yellow", "block": "bold red"}

# Prompts of a concept that are shown though they were not found: those nearest to it.
_NEAREST: Final = 2

Picture = Annotated[str, typer.Argument(help="A file, an address (http, https), or a sha256")]
Admin = Annotated[
    str | None, typer.Option(help="Admin address of the server, such as http://127.0.0.1:8581")
]
Config = Annotated[
    Path | None, typer.Option(envvar="SAFETY_PROXY_CONFIG", help="The server's settings file")
]
Json = Annotated[bool, typer.Option("--json", help="The server's answer as it is")]
Full = Annotated[bool, typer.Option("--full", help="All prompts, not only those found or near")]


def register(cli: typer.Typer) -> None:
    """Adds `explain`."""
    cli.command()(explain)


def explain(
    picture: Picture,
    admin: Admin = None,
    config: Config = None,
    *,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """Say all that is known of a picture, and what would change its action; 1 unless allowed."""
    answer = _asked(listener_of(admin, config), picture)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        console = Console()
        for part in told(answer, full=full):
            console.print(part, crop=False)
    if answer["action"] != "allow":
        raise typer.Exit(ExitCode.FOUND)


def _asked(listener: Listener, picture: str) -> dict[str, Any]:
    if picture.startswith(("http://", "https://")):
        return ask_running(listener, "POST", "/api/v1/explain", body={"url": picture})
    file = Path(picture)
    if not file.is_file():
        return ask_running(listener, "GET", f"/api/v1/explain/{checked_sha256(picture)}")
    try:
        with file.open("rb") as opened:
            return ask_running(listener, "POST", "/api/v1/explain", file=opened)
    except PermissionError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}.") from error


def told(answer: dict[str, Any], *, full: bool = False) -> Iterator[RenderableType]:
    """What is printed of the server's answer, part by part."""
    policy = answer.get("policy")
    yield Text.assemble((answer["action"].upper(), _STYLES[answer["action"]]), f"  {_why(answer)}")
    yield ""
    if answer["changes"]:
        yield Text("What would change it", style="bold")
        for change in answer["changes"]:
            yield Padding(Text(change["text"]), (0, 0, 0, 2))
            if change["command"]:
                # In one line however long, to be copied; in a group, since print() would
                # otherwise join the text to others and wrap it.
                command = f"    {change['command']}"
                yield Group(Text(command, style="cyan", no_wrap=True, overflow="ignore"))
        yield ""
    yield _hashes(answer)
    if policy is not None:
        yield ""
        yield _rules(policy["rules"])
        for place in policy["places"]:
            yield _place(place, full=full)


def _why(answer: dict[str, Any]) -> str:
    match, policy = answer["match"], answer.get("policy")
    if match is not None:
        near = f", {match['distance']} of 256 bits off" if match["kind"] == "pdq" else ""
        note = f" ({match['note']})" if match["note"] else ""
        beside = f" The policy alone: {policy['action']}." if policy else ""
        listed = "your own entry" if match["origin"] else f"the list {match['list']}"
        return f"by {listed}{note}: {match['kind']} {match['entry']}{near}.{beside}"
    if "unreadable" in answer:
        return f"no picture could be read: {answer['unreadable']}"
    if "recorded" in answer:
        then = answer["recorded"]
        return f"as it was judged at {then['at']}: {'; '.join(then['reasons'])}."
    held = [rule for rule in policy["rules"] if rule["is_held"]] if policy else []
    if not held:
        return "on no list, and no rule of the policy holds."
    rules = ", ".join(f"{rule['rule']} in {rule['where'] or 'the picture'}" for rule in held)
    return f"by the policy: {rules}."


def _hashes(answer: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in ("media_type", "sha256", "sha1", "md5", "model"):
        if answer.get(name):
            table.add_row(name.replace("_", " "), Text(answer[name], overflow="fold"))
    for pdq in answer.get("pdq", []):
        table.add_row("pdq", Text(f"{pdq['hash']} (quality {pdq['quality']})", overflow="fold"))
    return table


def _rules(rules: list[dict[str, Any]]) -> Table:
    table = Table("rule", "action", "holds", "lacks", title="Rules", title_justify="left")
    for rule in rules:
        missing = ", ".join(
            f"{lack['concept']} ({lack['weight']} of {lack['wanted']})" for lack in rule["missing"]
        )
        holds = f"yes, in {rule['where'] or 'the picture'}" if rule["is_held"] else "no"
        table.add_row(escape(rule["rule"]), _colored(rule["action"]), holds, escape(missing))
    return table


def _place(place: dict[str, Any], *, full: bool) -> Table:
    table = Table(
        "concept, prompt", title=f"In {place['where'] or 'the picture'}", title_justify="left"
    )
    for heading in ("score", "threshold", "critical", "weight"):
        table.add_column(heading, justify="right", no_wrap=True)
    for concept in place["concepts"]:
        shift = f"[dim], shifted by {concept['shift']:+.3f}[/]" if concept["shift"] else ""
        table.add_row(f"[bold]{escape(concept['concept'])}[/]{shift}", "", "", "", _weight(concept))
        for prompt in _shown(concept["prompts"], full=full):
            table.add_row(f"  {escape(prompt['text'])}", *_numbers(prompt), _weight(prompt))
        table.add_section()
    for control in place["controls"]:
        if control["is_found"] or full:
            shifts = ", ".join(f"{name} {shift:+.3f}" for name, shift in control["shifts"])
            named = f"control: {control['prompt']}" + (f" [{shifts}]" if shifts else "")
            table.add_row(escape(named), *_numbers({**control, "critical": None}), "")
    return table


def _shown(prompts: list[dict[str, Any]], *, full: bool) -> list[dict[str, Any]]:
    """Those found, and the nearest of the others; the highest over its threshold first."""
    ranked = sorted(prompts, key=lambda prompt: prompt["threshold"] - prompt["score"])
    found = sum(prompt["weight"] > 0 for prompt in prompts)
    return ranked if full else ranked[: found + _NEAREST]


def _numbers(prompt: dict[str, Any]) -> tuple[str, str, str]:
    critical = prompt["critical"]
    return (
        f"{prompt['score']:.3f}",
        f"{prompt['threshold']:.3f}",
        "" if critical is None else f"{critical:.3f}",
    )


def _weight(found: dict[str, Any]) -> str:
    return f"[bold]{found['weight']}[/]" if found["weight"] else "[dim]0[/]"


def _colored(action: str) -> str:
    return f"[{_STYLES[action]}]{action}[/]"
