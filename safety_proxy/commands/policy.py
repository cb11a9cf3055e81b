"""`safety-proxy policy check | diff | apply`: a policy file, and the server that is to use it."""

import http.client
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safety_proxy.commands import ExitCode
from safety_proxy.errors import ConfigError
from safety_proxy.policy.policy import Policy, load_policy
from safety_proxy.settings import load_settings

commands = typer.Typer(no_args_is_help=True, help="Check, try and change the policy.")

# A million pictures are judged in seconds; the rest is for a machine that is busy with uploads.
_PATIENCE_SECONDS: Final = 300.0

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
    answer = _ask("diff", file, limit, _address(admin, config))
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
    answer = _ask("apply", file, limit, _address(admin, config))
    _show(answer, as_json=as_json, would="are now")
    if answer["problem"]:
        raise ConfigError(answer["problem"])
    if not as_json:
        Console().print(f"In force, and kept in {answer['file']}.", markup=False, soft_wrap=True)


def _address(admin: str | None, config: Path | None) -> str:
    if admin is not None:
        return admin
    server = load_settings(config).server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.admin_host, server.admin_host)  # noqa: S104 -- any address includes this one
    return (
        f"http://[{host}]:{server.admin_port}"
        if ":" in host
        else f"http://{host}:{server.admin_port}"
    )


def _ask(what: str, file: Path, limit: int, address: str) -> dict[str, Any]:
    """The server's answer. Raises ConfigError, and Exit where it cannot be had."""
    try:
        status, body = _post(address, f"/api/v1/policy/{what}?limit={limit}", file.read_bytes())
        answer: dict[str, Any] = json.loads(body)
        message = str(answer.get("msg"))
    except (OSError, http.client.HTTPException) as error:
        raise _given_up(
            f"No server answers at {address}: {error}. Start it with `safety-proxy serve`, or "
            "name its admin listener by --admin or --config."
        ) from error
    except (ValueError, AttributeError) as error:
        raise _given_up(
            f"What answers at {address} is not the admin listener of this version."
        ) from error
    if status == http.HTTPStatus.OK:
        return answer
    if status == http.HTTPStatus.BAD_REQUEST:
        raise ConfigError(message)
    raise _given_up(f"The server at {address} cannot do that just now: {message}.")


def _host_and_port(address: str) -> tuple[str, int | None]:
    try:
        url = urlsplit(address)
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or not address.startswith("http://"):
        raise ConfigError(f"--admin {address}: give an address such as http://127.0.0.1:8581.")
    return host, port


def _post(address: str, target: str, body: bytes) -> tuple[int, bytes]:
    host, port = _host_and_port(address)
    # Not urllib, which would go through the proxy that the environment names.
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request("POST", target, body, {"Content-Type": "application/toml"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _given_up(message: str) -> typer.Exit:
    sys.stderr.write(f"{message}\n")
    return typer.Exit(ExitCode.UNAVAILABLE)


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
