"""`safety-proxy allow | block | lists`: decisions about single pictures, and the lists of others.

The running server is asked, so that it takes effect with the answer. Where none runs, the same
tables are written directly, and the next start reads them.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

import typer
from PIL import Image

from safety_proxy.commands import ExitCode
from safety_proxy.commands.admin_client import (
    Listener,
    NoServer,
    ask,
    ask_running,
    given_up,
    listener_of,
)
from safety_proxy.commands.lists_shown import print_lists, print_reports, say
from safety_proxy.errors import ConfigError, StoreUnavailable
from safety_proxy.evidence import Pdq
from safety_proxy.media.pdq import pdq_of
from safety_proxy.settings import load_settings
from safety_proxy.store.database import Database
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.listed import (
    Exclusion,
    OwnEntry,
    checked_hash,
    checked_sha256,
    user_name,
)
from safety_proxy.verdict import Action

T = TypeVar("T")

lists_cli = typer.Typer(
    invoke_without_command=True, help="The lists of hashes: what they hold, and what is wrong."
)

_FORMATS: Final = ("AVIF", "GIF", "JPEG", "PNG", "WEBP")

Picture = Annotated[str, typer.Argument(help="A file, or the sha256 of one (64 hex digits)")]
Hash = Annotated[str, typer.Argument(metavar="HASH", help="An entry of a shared list, in hex")]
Note = Annotated[str, typer.Option(help="Why; kept with the entry, and shown by `explain`")]
Who = Annotated[str | None, typer.Option(help="Who decides; the user that runs this, if not given")]
Remove = Annotated[bool, typer.Option("--remove", help="Take it back")]
Admin = Annotated[
    str | None, typer.Option(help="Admin address of the server, such as http://127.0.0.1:8581")
]
Config = Annotated[
    Path | None, typer.Option(envvar="SAFETY_PROXY_CONFIG", help="The server's settings file")
]
Json = Annotated[bool, typer.Option("--json", help="The server's answer as it is")]


def register(cli: typer.Typer) -> None:
    """Adds `allow`, `block` and `lists`."""
    cli.command()(allow)
    cli.command()(block)
    cli.add_typer(lists_cli, name="lists")


def allow(
    picture: Picture,
    note: Note = "",
    who: Who = None,
    admin: Admin = None,
    config: Config = None,
    *,
    remove: Remove = False,
) -> None:
    """Let exactly these bytes in from now on, whatever lists and model say of them."""
    sha256 = _sha256(picture)
    if remove:
        _take_back(sha256, Action.ALLOW, admin, config)
        return
    entry = OwnEntry(sha256, Action.ALLOW, note, who or user_name())
    fields = {"action": "allow", "sha256": sha256, "note": note, "who": entry.who}
    _, where = _write(
        admin,
        config,
        lambda listener: ask(listener, "POST", "/api/v1/lists/entries", body=fields),
        lambda lists: lists.put(entry),
    )
    say(f"Allowed{where}: {sha256}")


def block(
    picture: Picture,
    note: Note = "",
    who: Who = None,
    admin: Admin = None,
    config: Config = None,
    *,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only these bytes, not what looks the same")
    ] = False,
    remove: Remove = False,
) -> None:
    """Keep these bytes out from now on, and what looks the same (by PDQ)."""
    sha256, file = _sha256(picture), Path(picture)
    if remove:
        _take_back(sha256, Action.BLOCK, admin, config)
        return
    who = who or user_name()
    spreads = file.is_file() and not exact
    fields = {"action": "block", "note": note, "who": who}

    def by_server(listener: Listener) -> dict[str, Any]:
        if not spreads:
            body = {**fields, "sha256": sha256, "exact": exact}
            return ask(listener, "POST", "/api/v1/lists/entries", body=body)
        with file.open("rb") as opened:
            return ask(listener, "POST", f"/api/v1/lists/entries?{urlencode(fields)}", file=opened)

    async def directly(lists: HashLists) -> None:
        pdq = await asyncio.to_thread(_pdq_of, file) if spreads else ()
        await lists.put(OwnEntry(sha256, Action.BLOCK, note, who, pdq))

    answer, where = _write(admin, config, by_server, directly)
    say(f"Blocked{where}: {sha256}")
    if problem := (answer or {}).get("problem"):
        say(problem)


@lists_cli.callback()
def show(
    context: typer.Context, admin: Admin = None, config: Config = None, *, as_json: Json = False
) -> None:
    """Show the lists, what they hold, and what is wrong with them; 1 if anything is."""
    if context.invoked_subcommand is not None:
        return
    answer = ask_running(listener_of(admin, config), "GET", "/api/v1/lists")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        print_lists(answer)
    if any(report["error"] or report["bad"] for report in answer["lists"]):
        raise typer.Exit(ExitCode.FOUND)


@lists_cli.command()
def reload(admin: Admin = None, config: Config = None) -> None:
    """Read the files of all lists anew; 1 if one stays as it was, because it cannot be read."""
    answer = ask_running(listener_of(admin, config), "POST", "/api/v1/lists/reload", body={})
    print_reports(answer["lists"])
    if any(report["error"] for report in answer["lists"]):
        raise typer.Exit(ExitCode.FOUND)


@lists_cli.command()
def exclude(
    hash_: Hash,
    note: Note = "",
    who: Who = None,
    admin: Admin = None,
    config: Config = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Let it count again")] = False,
) -> None:
    """Let an entry of the shared lists not count on this server."""
    entry = checked_hash(hash_)
    if remove:
        target = f"/api/v1/lists/exclusions/{entry}"
        answer, where = _write(
            admin,
            config,
            lambda listener: ask(listener, "DELETE", target),
            lambda lists: lists.include(entry),
        )
        _say_removed(answer, f"Counts again{where}: {entry}", f"Was not excluded: {entry}")
        return
    exclusion = Exclusion(entry, note, who or user_name())
    fields = {"hash": entry, "note": note, "who": exclusion.who}
    _, where = _write(
        admin,
        config,
        lambda listener: ask(listener, "POST", "/api/v1/lists/exclusions", body=fields),
        lambda lists: lists.exclude(exclusion),
    )
    say(f"Does not count any more{where}: {entry}")


def _take_back(sha256: str, action: Action, admin: str | None, config: Path | None) -> None:
    target = f"/api/v1/lists/entries/{sha256}?action={action}"
    answer, where = _write(
        admin,
        config,
        lambda listener: ask(listener, "DELETE", target),
        lambda lists: lists.remove(sha256, action),
    )
    _say_removed(
        answer, f"No {action} any more{where}: {sha256}", f"There is no {action} of {sha256}"
    )


def _write(
    admin: str | None,
    config: Path | None,
    by_server: Callable[[Listener], dict[str, Any]],
    directly: Callable[[HashLists], Awaitable[Any]],
) -> tuple[Any, str]:
    """What came of it, and a word on when it takes effect."""
    try:
        return by_server(listener_of(admin, config)), ""
    except NoServer as error:
        if admin is not None:  # it was named: then the database of another must not be written
            raise given_up(str(error)) from error
        folder = load_settings(config).store.folder
        try:
            return asyncio.run(_directly(folder, directly)), _LATER.format(folder=folder)
        except StoreUnavailable as unavailable:
            raise given_up(f"The database in {folder}: {unavailable}.") from unavailable


# With the folder: that of another user's settings would never be looked into.
_LATER: Final = ", from the next start on (no server runs; written to {folder})"


async def _directly(folder: Path, write: Callable[[HashLists], Awaitable[Any]]) -> Any:
    database = Database(folder)
    try:
        await database.open()
        return await write(HashLists(database=database))
    finally:
        await database.aclose()


def _sha256(picture: str) -> str:
    file = Path(picture)
    try:
        if file.is_file():
            with file.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}.") from error
    return checked_sha256(picture)


def _pdq_of(file: Path) -> tuple[Pdq, ...]:
    """Of the first picture in the file; the running server looks at all of an animation."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return (pdq_of(image),)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        say(f"Only these exact bytes: no picture could be read: {error}.")
        return ()


def _say_removed(answer: Any, done: str, not_there: str) -> None:
    """answer: the server's, or whether there was something to remove."""
    removed = answer["removed"] if isinstance(answer, dict) else answer
    if not removed:
        sys.stderr.write(f"{not_there}\n")
        raise typer.Exit(ExitCode.FOUND)
    say(done)
