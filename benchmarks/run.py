"""`python benchmarks/run.py`: what the proxy costs beside pict-rs and beside its bare model.

All servers are started here, on loopback, with data in a temporary folder that is deleted.
docs/performance.md explains the tables. Settings come from the environment as for `serve`, so
`SAFETY_PROXY_MODEL__THREADS=1 python benchmarks/run.py` measures another one.
"""

import argparse
import dataclasses
import json
import logging
import os
import platform
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from benchmarks import report
from benchmarks.decode import Decoding, decodings
from benchmarks.latency import Duel, Latency
from benchmarks.models import available_models
from benchmarks.origin import origin
from benchmarks.pictures import LARGE, SMALL, Pictures
from benchmarks.servers import ServerFailedError, pictrs, proxy
from benchmarks.throughput import LoadPlan, Throughput, measure
from safety_proxy import __version__


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    repeats: int
    small_samples: int
    large_samples: int
    load_repeats: int
    load_seconds: float
    decode_repeats: int


FULL = Plan(
    repeats=5,
    small_samples=20,
    large_samples=6,
    load_repeats=3,
    load_seconds=6.0,
    decode_repeats=7,
)
QUICK = Plan(
    repeats=2,
    small_samples=4,
    large_samples=2,
    load_repeats=2,
    load_seconds=3.0,
    decode_repeats=3,
)


@dataclass(frozen=True, slots=True)
class Results:
    """Of one run."""

    environment: dict[str, str]
    latencies: dict[str, list[Latency]]
    throughputs: list[Throughput]
    decodings: list[Decoding]


def main() -> int:
    """Measures, prints, and returns the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that random weights are random
    plan = QUICK if options.quick else FULL
    results = Results(_environment(real=options.real), {}, [], [])
    if options.only in {None, "decode"}:
        report.note("decoding")
        results.decodings.extend(decodings(plan.decode_repeats))
    models = [] if options.only == "decode" else options.model or available_models()
    try:
        with tempfile.TemporaryDirectory(prefix="safety-proxy-bench-") as temporary:
            for model in models:
                _measure(model, Path(temporary), plan, options, results)
    except ServerFailedError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    report.print_tables(_tables(results), results.environment)
    if options.json:
        options.json.write_text(json.dumps(dataclasses.asdict(results), indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few samples, to try it out")
    parser.add_argument("--real", action="store_true", help="pict-rs with ImageMagick and ffmpeg")
    parser.add_argument(
        "--model",
        action="append",
        help="ViT-B-32 (random weights), demo, or a name for model.name; may be repeated",
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--only", choices=["latency", "throughput", "decode"])
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    return parser.parse_args()


def _measure(
    model: str, temporary: Path, plan: Plan, options: argparse.Namespace, results: Results
) -> None:
    folder = temporary / str(len(list(temporary.iterdir())))
    with (
        pictrs(folder / "pict-rs", real=options.real) as upstream,
        proxy(folder / "proxy", upstream, model) as tested,
        origin() as foreign,
    ):
        if options.only != "throughput":
            duel = Duel(upstream, tested, foreign, plan.repeats)
            report.note(f"{model}: latency")
            results.latencies[model] = _latencies(duel, plan)
        if options.only != "latency":
            report.note(f"{model}: throughput")
            load = LoadPlan(options.clients, plan.load_repeats, plan.load_seconds)
            results.throughputs.append(measure(model, upstream, tested, load))


def _latencies(duel: Duel, plan: Plan) -> list[Latency]:
    small, large = Pictures(SMALL), Pictures(LARGE)
    return [
        duel.upload_new(small, plan.small_samples),
        duel.upload_known(small, plan.small_samples),
        duel.upload_new(large, plan.large_samples),
        duel.upload_known(large, plan.large_samples),
        duel.proxied_new(small, plan.small_samples),
        duel.proxied_known(small, plan.small_samples),
        duel.read(small, plan.small_samples),
        duel.read(large, plan.large_samples),
    ]


def _tables(results: Results) -> list[Table]:
    stages = [
        (f"{model}: {latency.name}", latency.stages)
        for model, latencies in results.latencies.items()
        for latency in latencies
        if not latency.name.startswith("read")
    ] + [
        (f"{result.model}: {under.clients} clients", report.mean_of(under.stages))
        for result in results.throughputs
        for under in result.new
    ]
    latency_tables = [
        report.latency_table(f"Latency, {model}: proxy over pict-rs", latencies)
        for model, latencies in results.latencies.items()
    ]
    throughputs = results.throughputs
    throughput_tables = [
        report.new_table(throughputs),
        report.bare_table(throughputs),
        report.batch_table(throughputs),
        report.known_table(throughputs),
    ]
    return [
        *([report.decode_table(results.decodings)] if results.decodings else []),
        *latency_tables,
        *(throughput_tables if throughputs else []),
        *([report.stage_table("Where the time goes", stages)] if stages else []),
    ]


def _environment(*, real: bool) -> dict[str, str]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return {
        "safety_proxy": __version__,
        "cpu": models[0] if models else platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pict-rs": "real" if real else "dummy mode",
    }


if __name__ == "__main__":
    sys.exit(main())
