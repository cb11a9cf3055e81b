"""The tables that a run prints: ratios first, and the times and rates that they come from."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

from benchmarks.decode import Decoding
from benchmarks.latency import Latency
from benchmarks.stages import StageMeans
from benchmarks.throughput import Throughput, ratios

_STAGES = ("receive", "decode", "embed", "upstream")


def spread(values: Sequence[float]) -> str:
    """Median, and the lowest and highest of the repeats."""
    return f"{median(values):.2f}  ({min(values):.2f}-{max(values):.2f})"


def latency_table(title: str, latencies: Iterable[Latency]) -> Table:
    """Times through the proxy over times straight to pict-rs."""
    table = _table(title, "request", "pict-rs ms", "proxy ms", "ratio (range)", "samples")
    for latency in latencies:
        table.add_row(
            latency.name,
            _ms(latency.direct),
            _ms(latency.proxied),
            spread(latency.ratios),
            str(latency.samples),
        )
    return table


def stage_table(title: str, rows: Iterable[tuple[str, StageMeans]]) -> Table:
    """Where the time went; `rest` is what no stage accounts for: headers, judging, answering."""
    table = _table(title, "mean ms of", *_STAGES, "rest", "request", "forward pass")
    for name, means in rows:
        parts = [means.get(stage, 0.0) for stage in _STAGES]
        request = means["request"]
        forward = _ms(means["forward_pass"]) if "forward_pass" in means else "-"
        table.add_row(name, *map(_ms, parts), _ms(request - sum(parts)), _ms(request), forward)
    return table


def bare_table(results: Iterable[Throughput]) -> Table:
    """What the machine does without a proxy."""
    table = _table(
        "Without the proxy: pictures a second",
        "model",
        "forward, by batch size",
        "decode + forward",
    )
    for result in results:
        by_batch = ", ".join(
            f"{batch}: {median(rates):.1f}" for batch, rates in result.forward.items()
        )
        table.add_row(result.model, by_batch, f"{median(result.scan):.1f}")
    return table


def new_table(results: Iterable[Throughput]) -> Table:
    """New pictures under load."""
    table = _table(
        "New pictures (100 KB) under load",
        "model, clients",
        "pictures/s",
        "over bare forward (range)",
        "over decode + forward (range)",
        "not stored",
    )
    for result in results:
        for under in result.new:
            table.add_row(
                f"{result.model}, {under.clients}",
                f"{median(under.rates):.1f}",
                spread(ratios(under.rates, result.best_forward)),
                spread(ratios(under.rates, result.scan)),
                str(under.not_stored),
            )
    return table


def batch_table(results: Iterable[Throughput]) -> Table:
    """The batches that formed, and what one picture cost in processor time."""
    table = _table(
        "Batches, and processor time for one picture",
        "model, clients",
        "mean batch",
        "largest",
        "waiting, mean",
        "waiting, most",
        "proxy ms",
        "pict-rs ms",
        "clients ms",
    )
    for result in results:
        for under in result.new:
            cpu = [median(values) for values in zip(*under.cpu_ms, strict=True)]
            table.add_row(
                f"{result.model}, {under.clients}",
                f"{median(under.mean_batches):.1f}",
                str(under.largest_batch),
                f"{fmean(under.frames_waiting or [0]):.1f}",
                str(max(under.frames_waiting, default=0)),
                *(f"{value:.1f}" for value in cpu),
            )
    return table


def known_table(results: Iterable[Throughput]) -> Table:
    """Cache hits under load."""
    table = _table(
        "Known pictures (100 KB) under load: pictures a second",
        "model, clients",
        "pict-rs",
        "proxy",
        "ratio (range)",
        "not stored: pict-rs",
        "proxy",
    )
    for result in results:
        for known in result.known:
            table.add_row(
                f"{result.model}, {known.clients}",
                f"{median(known.direct.rates):.0f}",
                f"{median(known.proxied.rates):.0f}",
                spread(ratios(known.proxied.rates, known.direct.rates)),
                str(known.direct.not_stored),
                str(known.proxied.not_stored),
            )
    return table


def decode_table(decodings: Iterable[Decoding]) -> Table:
    """Our processor time over that of the fastest single call of a library."""
    table = _table(
        "Decoding and cropping: processor time, best of the repeats",
        "file",
        "MB",
        "crops",
        "ours, ms",
        "the calls, ms",
        "ratio",
    )
    for it in decodings:
        calls = ", ".join(f"{name}: {_ms(min(seconds))}" for name, seconds in it.calls.items())
        table.add_row(
            it.name,
            f"{it.size_bytes / 1e6:.1f}",
            str(it.crops),
            _ms(min(it.ours)),
            calls,
            f"{it.ratio:.2f}",
        )
    return table


def print_tables(tables: Iterable[Table], environment: Mapping[str, str]) -> None:
    """To standard output; the environment first, because every figure depends on it."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(", ".join(f"{name}: {value}" for name, value in environment.items()))
    for table in tables:
        console.print()
        console.print(table)


def note(text: str) -> None:
    """How far the run is, to standard error."""
    sys.stderr.write(f"measuring {text}\n")


def mean_of(stages: Sequence[StageMeans]) -> StageMeans:
    """The mean of several repeats, stage by stage."""
    names = {name for means in stages for name in means}
    return {name: fmean(means[name] for means in stages if name in means) for name in names}


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
