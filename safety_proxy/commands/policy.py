"""`safety-proxy policy check | diff | apply`: a policy file, and the server that is to use it."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safety_proxy.commands import ExitCode
from safety_proxy.commands.admin_client import Listener, ask_running, listener_of
from safety_proxy.errors import ConfigError
from safety_proxy.policy.policy import Policy, load_policy

commands = typer.Typer(no_args_is_help=True, help="Check, try and change the policy.")

_STYLE: Final = {"allow": "green", "flag": "yellow", "block": "red"}

File = Annotated[Path, typer.Argument(help="A policy file (TOML); docs/policy.md has its form")]
Limit = Annotated[
    int, typer.Option(min=0, max=500, help="Most pictures named for each kind of change")
]
Admin = Annotated[
    str | None, typer.Option(help="Admin address of the server, such as http://127.0.0.1:8581")
]
Config = Annotated[
    Path | None, typer.Option(envvar="SAFETY_PROXY_CONFIG", help="The server's settings file")
]
Json = Annotated[bool, typer.Option("--json", help="The server's answer as it is")]


@commands.command()
def check(file: File) -> None:
    """Say what a policy file holds; 2 if it cannot be used."""
    console, policy = Console(), load_policy(file)
    console.print(f"{policy.name}, version {policy.version}, score {policy.score}", markup=False)
    if policy.note:
        console.print(policy.note, markup=False)
    console.print(f"A file that no picture can be read from: {_colored(policy.unreadable.value)}")
    console.print(_concepts(policy))
    console.print(_rules(policy))


@commands.command()
def diff(
    file: File,
    limit: Limit = 20,
    admin: Admin = None,
    config: Config = None,
    *,
    as_json: Json = False,
) -> None:
    """Show what a policy would change over all known pictures; 1 if it changes any."""
    load_policy(file)  # what is wrong with it is told without a server, and with its path
    answer = _ask("diff", file, limit, listener_of(admin, config))
    _show(answer, as_json=as_json, would="would be")
    if answer["changes"]:
        raise typer.Exit(ExitCode.FOUND)


@commands.command()
def apply(
    file: File,
    limit: Limit = 20,
    admin: Admin = None,
    config: Config = None,
    *,
    as_json: Json = False,
) -> None:
    """Put a policy in force in the running server, and in its policy.file; 2 if not in that."""
    load_policy(file)
    answer = _ask("apply", file, limit, listener_of(admin, config))
    _show(answer, as_json=as_json, would="are now")
    if answer["problem"]:
        raise ConfigError(answer["problem"])
    if not as_json:
        Console().print(f"In force, and kept in {answer['file']}.", markup=False, soft_wrap=True)


def _ask(what: str, file: Path, limit: int, listener: Listener) -> dict[str, Any]:
    with file.open("rb") as policy:
        return ask_running(listener, "POST", f"/api/v1/policy/{what}?limit={limit}", file=policy)


def _show(answer: dict[str, Any], *, as_json: bool, would: str) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    console, old, new = Console(), answer["old"], answer["new"]
    console.print(
        f"{old['name']} ({old['version']}) -> {new['name']} ({new['version']}), "
        f"model {answer['model']}",
        markup=False,
        highlight=False,
    )
    if "pictures" not in answer:
        console.print("What it changes cannot be told: the evidence cannot be read just now.")
        return
    console.print(
        f"{answer['changes']} of {answer['pictures']} known pictures {would} judged differently."
    )
    if old["unreadable"] != new["unreadable"]:
        console.print(
            f"Unreadable files: {_colored(old['unreadable'])} -> "
            f"{_colored(new['unreadable'])}; they are not among the known pictures."
        )
    if answer["pictures"]:
        console.print(_counts(answer["counts"]))
    if answer["changed"]:
        console.print(_changed(answer["changed"]))


def _counts(counts: list[dict[str, Any]]) -> Table:
    table = Table("old", "new")
    table.add_column("pictures", justify="right")
    for count in counts:
        table.add_row(_colored(count["old"]), _colored(count["new"]), str(count["pictures"]))
    return table


def _changed(changed: list[dict[str, Any]]) -> Table:
    table = Table(caption="The first of each kind of change; --limit shows more.")
    table.add_column("sha256", overflow="fold")
    for heading in ("old", "new"):
        table.add_column(heading, overflow="fold")
    for change in changed:
        table.add_row(change["sha256"], _judgment(change["old"]), _judgment(change["new"]))
    return table


def _judgment(judgment: dict[str, Any]) -> str:
    return "\n".join([_colored(judgment["action"]), *map(escape, judgment["reasons"])])


def _colored(action: str) -> str:
    return f"[{_STYLE[action]}]{action}[/]"


def _concepts(policy: Policy) -> Table:
    table = Table("concept")
    for heading in ("prompts", "least threshold", "greatest threshold"):
        table.add_column(heading, justify="right")
    for name, concept in policy.concepts.items():
        thresholds = [concept.bounds(prompt)[0] for prompt in concept.prompts]
        table.add_row(
            escape(name), str(len(thresholds)), f"{min(thresholds):g}", f"{max(thresholds):g}"
        )
    return table


def _rules(policy: Policy) -> Table:
    table = Table("rule", "action", "all of", "any of")
    for rule in policy.rules:
        conditions = [
            ", ".join(
                escape(c.concept) + (f" (weight {c.weight})" if c.weight > 1 else "")
                for c in entries
            )
            for entries in (rule.all, rule.any)
        ]
        table.add_row(escape(rule.name), _colored(rule.action.value), *conditions)
    return table
