"""The figures of a run as text, and whether they are as they must be."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.faults.behaviors import TURNING, UNFAIR
from tests.faults.phases import CLIENTS, LONG_RUN
from tests.faults.plans import ODD_HOSTS, Road
from tests.faults.proxy import MODEL_FAULTS
from tests.faults.wire import CUTS

if TYPE_CHECKING:
    from tests.faults.run import Result

_MEBIBYTE: Final = 1024 * 1024

# Of the process at rest: torch and the allocator keep some of what they once had, and the cache of
# verdicts fills up to its limit.
_GROWTH: Final = 1.15
_GROWTH_BYTES: Final = 48 * _MEBIBYTE

# Of uploads that failed just now: a few may wait for the garbage collector.
_MORE_KEPT: Final = CLIENTS

# Connections to pict-rs are kept for the next reads, one a client at most.
_MORE: Final = {"tasks": 3, "files": 3, "sockets": CLIENTS}

# Share and number of the clean pictures that may find the proxy busy where nothing is broken: with
# other programs on the processors, or in the moments after a fault.
_CALM_MISSES: Final = 0.01
_CALM_MISSES_LEAST: Final = 3

NEVER: Final = (
    "blocked pictures stored",
    "blocked pictures in internal/hashes",
    "blocked pictures accepted",
    "blocked pictures shown",
    "clean uploads without an answer",
    "other requests without one",
    "answers that are no JSON with msg",
    "clean pictures refused as unsafe",
    "reads with other bytes than were stored",
    "secrets in the log of safety-proxy",
    "secrets in the log of pict-rs",
    "unforeseen errors in the log of the proxy",
    "proxy's exit codes after SIGTERM",
    "proxied pictures that no row knows",
    "proxied leftovers that were not swept",
    "addresses that show what they did before",
    "faults that met nothing",
    "proxies that did not recover",
)

_ERRORS: Final = (
    (400, "failed-external-validation"),
    (400, "damaged"),
    (400, "not-a-picture"),
    (400, "file-upload-error"),
    (400, "invalid-query"),
    (400, "download-file-error"),
    (404, "not-found"),
    (404, "proxy-not-found"),
    (413, "validate-file-size"),
    (500, "download-file-error"),
    (502, "upstream-error"),
    (503, "busy"),
    (503, "scan-unavailable"),
)
# With a pause of pict-rs beyond all that a client waits for.
_ERRORS_OF_LONG_RUNS: Final = ((408, "request-timeout"), (504, "upstream-error"))


class Check(NamedTuple):
    """A figure, and what it must be."""

    name: str
    value: str
    wanted: str
    is_met: bool


def failed(result: "Result") -> list[Check]:
    """The checks that are not met."""
    return [check for check in checks(result) if not check.is_met]


def checks(result: "Result") -> Iterator[Check]:
    """All that decides between 0 and 1."""
    world, tally = result.world, result.tally
    for name in NEVER:
        count = len(world.findings[name])
        yield Check(name, str(count), "0", not count)
    yield Check(
        "connections to the inside", str(world.origins.inside), "0", not world.origins.inside
    )
    calm = tally.calm_total()
    most = int(calm.total() * _CALM_MISSES) + _CALM_MISSES_LEAST
    yield Check(
        "clean, nothing broken, and not in",
        f"{calm[False]} of {calm.total()}",
        f"at most {most}",
        calm[True] > 0 and calm[False] <= most,
    )
    yield from _traffic_checks(result)
    yield from _fault_checks(result)
    yield from _resource_checks(result)


def _traffic_checks(result: "Result") -> Iterator[Check]:
    tally = result.tally
    least = max(1, tally.requests // 1000)
    for road in Road:
        ok = tally.roads[road]["clean ok"]
        yield Check(f"clean let in: {road}", str(ok), f"at least {least}", ok >= least)
    blocked = result.world.ledger.forbidden()
    wanted = tally.requests // 10
    yield Check("bodies that must not be stored", str(blocked), f"{wanted}", blocked >= wanted)
    is_long = tally.requests >= LONG_RUN * 2
    for status, code in (*_ERRORS, *(_ERRORS_OF_LONG_RUNS if is_long else ())):
        count = tally.answers[status, code]
        yield Check(f"answers {status} {code}", str(count), "at least 1", count > 0)


def _fault_checks(result: "Result") -> Iterator[Check]:
    world = result.world
    seen = {
        "pict-rs killed": world.faults["pict-rs killed"],
        "pict-rs paused": world.faults["pict-rs paused"],
        "proxy stopped": world.faults["proxy stopped"],
        "proxy killed": world.faults["proxy killed"],
        "left unfinished by the proxy's kill": len(world.left_by_kill),
        "leftovers swept": world.swept,
    }
    seen |= {f"model: {fault}": world.faults[f"model: {fault}"] for fault in MODEL_FAULTS}
    seen |= {f"origin: {name}": world.origins.served[name] for name in (*UNFAIR, *TURNING)}
    seen |= {f"name: {name}": result.lookups.get(name, 0) for name in (*ODD_HOSTS, "turned inward")}
    seen |= {f"client: {manner}": result.tally.cuts[manner] for manner in CUTS}
    missed = [name for name, count in seen.items() if not count]
    yield Check(
        "kinds of fault that happened",
        f"{len(seen) - len(missed)}" + (f", not: {', '.join(missed)}" if missed else ""),
        str(len(seen)),
        not missed,
    )


def _resource_checks(result: "Result") -> Iterator[Check]:
    before, after = result.before, result.after
    for name, more in _MORE.items():
        most = before[name] + more
        yield Check(f"proxy's {name}", f"{after[name]}", f"at most {most}", after[name] <= most)
    kept = result.world.most_kept
    yield Check(
        "handles of spooled files at rest", str(kept), f"at most {_MORE_KEPT}", kept <= _MORE_KEPT
    )
    pools = after["threads"].keys() - {"io"}
    grown = [name for name in pools if after["threads"][name] > before["threads"].get(name, 0) + 2]
    yield Check("pools of threads that grew", ", ".join(grown) or "0", "0", not grown)
    most = int(before["resident_bytes"] * _GROWTH + _GROWTH_BYTES) // _MEBIBYTE
    used = after["resident_bytes"] // _MEBIBYTE
    yield Check("proxy's memory", f"{used} MiB", f"at most {most} MiB", used <= most)
    for name in ("in_flight", "spooled_bytes"):
        yield Check(f"proxy's {name} at rest", str(after[name]), "0", not after[name])


def text(result: "Result") -> str:
    """The tables, for people."""
    tally, world = result.tally, result.world
    sections = [
        f"# {tally.requests} requests, seed {result.seed}, {result.seconds:.0f} s",
        _table(("phase", "requests", "seconds"), result.phases),
        _table(
            ("road", "sent", "clean", "clean ok", "no answer", "slowest s"),
            [
                (
                    road,
                    tally.roads[road]["sent"],
                    tally.roads[road]["clean"],
                    tally.roads[road]["clean ok"],
                    tally.roads[road]["silent"],
                    tally.slowest[road],
                )
                for road in Road
            ],
        ),
        _table(("no answer", "requests"), sorted(tally.silences.items())),
        _table(
            ("answer", "code", "count"),
            [(status, code, count) for (status, code), count in sorted(tally.answers.items())],
        ),
        _table(("fault", "times"), sorted(world.faults.items())),
        f"Longest time to take all uploads again after a fault: {world.recovery:.1f} s",
        _table(("in pict-rs' store", "files seen"), sorted(result.audit.kinds.items())),
        _table(
            ("of the proxy at rest", "before", "after"),
            [
                (name, result.before[name], result.after[name])
                for name in ("tasks", "files", "sockets", "threads", "resident_bytes")
            ],
        ),
        _table(
            ("check", "value", "wanted", ""),
            [
                (it.name, it.value, it.wanted, "ok" if it.is_met else "FAILED")
                for it in checks(result)
            ],
        ),
    ]
    details = [
        f"- {name}: {detail}" for name, all_of in world.findings.items() for detail in all_of[:12]
    ]
    details += [f"- not in, though nothing was broken: {note}" for note in world.notes[:20]]
    return "\n\n".join([*sections, *(["\n".join(details)] if details else [])]) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [
        [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows
    ]
    widths = [
        max(len(row[column]) for row in [list(heads), *cells]) for column in range(len(heads))
    ]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(heads), ["-" * width for width in widths], *cells]
    ]
    return "\n".join(lines)
