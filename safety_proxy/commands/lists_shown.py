"""What is printed of lists and of decisions about single pictures."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def say(text: str) -> None:
    """A line as it is, which the terminal may break but this does not: it may hold a hash."""
    Console().print(escape(text), highlight=False, soft_wrap=True)


def print_lists(answer: dict[str, Any]) -> None:
    """All lists, own entries and exclusions, of the server's answer."""
    console = Console()
    if answer["lists"]:
        print_reports(answer["lists"])
    else:
        console.print("No shared lists: docs/lists.md says how to add one.")
    if answer["own"]:
        console.print(_own(answer["own"]))
    if answer["excluded"]:
        table = Table(title="Does not count here", title_justify="left")
        table.add_column("entry", overflow="fold")
        for heading in ("who", "why"):
            table.add_column(heading)
        for exclusion in answer["excluded"]:
            table.add_row(*(escape(exclusion[name]) for name in ("hash", "who", "note")))
        console.print(table)


def _reports(reports: list[dict[str, Any]]) -> Table:
    table = Table("list", "hashes in use", "left out", title="Shared lists", title_justify="left")
    for report in reports:
        counts = "\n".join(f"{count:,} {kind}" for kind, count in report["counts"].items())
        left_out = "\n".join(
            f"{report[name]:,} {what}"
            for name, what in (
                ("duplicates", "twice"),
                ("flat", "flat pictures"),
                ("other", "not of pictures"),
                ("bad", "unreadable"),
            )
            if report[name]
        )
        name = f"{escape(report['name'])}\n[dim]{escape(report['source'])}[/]"
        table.add_row(name, counts or "none", left_out or "none")
    return table


def print_reports(reports: list[dict[str, Any]]) -> None:
    """What each list holds, and under it what is wrong."""
    Console().print(_reports(reports))
    for report in reports:
        if report["error"]:
            say(f"{report['name']} stays as it was. {report['error']}")
        for problem in report["problems"]:
            say(f"{report['name']}, {problem}")


def _own(entries: list[dict[str, Any]]) -> Table:
    table = Table(title="Your own", title_justify="left")
    table.add_column("sha256", overflow="fold")
    table.add_column("action")
    table.add_column("who, why")
    for entry in entries:
        spreads = " and what looks the same" if entry["pdq"] else ""
        why = ", ".join(filter(None, (entry["who"], entry["note"])))
        table.add_row(entry["sha256"], entry["action"] + spreads, escape(why))
    return table
