"""Many clients at once: pictures a second beside what the bare model does on the same machine.

Everything is measured by turns within each repeat, so that a slow minute hits all sides.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from statistics import median

from benchmarks.client import Client, Load, load
from benchmarks.models import BareModel, model_settings
from benchmarks.pictures import SMALL, Pictures, form
from benchmarks.servers import Proxy, Server
from benchmarks.stages import StageMeans, stages_of

_POLL_SECONDS = 0.25

# Each is uploaded again and again; enough that clients seldom send the same one at one time.
_KNOWN_PICTURES = 256


@dataclass(slots=True)
class Rates:
    """Pictures stored a second, of each repeat, and how many were answered otherwise in all."""

    rates: list[float] = field(default_factory=list)
    not_stored: int = 0

    def add(self, done: Load) -> None:
        self.rates.append(done.rate)
        self.not_stored += done.not_stored


@dataclass(slots=True)
class UnderLoad(Rates):
    """New pictures from some number of clients; one entry in each list a repeat.

    frames_waiting: samples over time. cpu_ms: processor time for one picture, of the proxy, of
    pict-rs, and of the process with the clients.
    """

    clients: int = 0
    mean_batches: list[float] = field(default_factory=list)
    largest_batch: int = 0
    frames_waiting: list[int] = field(default_factory=list)
    cpu_ms: list[tuple[float, float, float]] = field(default_factory=list)
    stages: list[StageMeans] = field(default_factory=list)


@dataclass(slots=True)
class Known:
    """Known pictures from some number of clients, through the proxy and straight to pict-rs."""

    clients: int
    proxied: Rates = field(default_factory=Rates)
    direct: Rates = field(default_factory=Rates)


@dataclass(slots=True)
class Throughput:
    """Pictures a second of one model; one entry in each list a repeat.

    forward: of the bare image tower, by batch size, on tensors that lie ready.
    scan: with decoding, without HTTP.
    """

    model: str
    forward: dict[int, list[float]]
    scan: list[float] = field(default_factory=list)
    new: list[UnderLoad] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)

    @property
    def best_forward(self) -> list[float]:
        """Of each repeat, the rate at the batch size that is best by its median."""
        return max(self.forward.values(), key=median)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How many clients at once, how often, and how long each time."""

    clients: Sequence[int]
    repeats: int
    seconds: float


def measure(model: str, upstream: Server, proxy: Proxy, plan: LoadPlan) -> Throughput:
    """All rates of one model."""
    settings = model_settings(model)
    bare, pictures = BareModel(settings), Pictures(SMALL)
    result = Throughput(
        model,
        forward={batch: [] for batch in sorted({1, 8, settings.model.batch_limit})},
        new=[UnderLoad(clients=count) for count in plan.clients],
        known=[Known(count) for count in plan.clients],
    )
    known = [form(pictures.new()) for _ in range(_KNOWN_PICTURES)]
    with Client(proxy.port) as client:
        for body in known:
            client.store(body)
    next_known = cycle(known).__next__
    for _ in range(plan.repeats):
        for batch, rates in result.forward.items():
            rates.append(bare.forward_rate(batch, plan.seconds / 3))
        for under_load in result.new:
            _new(under_load, upstream, proxy, pictures, plan.seconds)
        result.scan.append(bare.scan_rate(pictures.new(), plan.seconds))
        for side in result.known:
            for port, side_rates in ((upstream.port, side.direct), (proxy.port, side.proxied)):
                side_rates.add(load(port, side.clients, plan.seconds / 3, next_known))
    return result


def _new(
    result: UnderLoad, upstream: Server, proxy: Proxy, pictures: Pictures, seconds: float
) -> None:
    stages, batches = proxy.stage_totals(), proxy.stats()["batches"]
    cpu = _cpu_seconds(upstream, proxy)
    with _watched(proxy, result.frames_waiting):
        done = load(proxy.port, result.clients, seconds, lambda: form(pictures.new()))
    spent = [
        after - before for before, after in zip(cpu, _cpu_seconds(upstream, proxy), strict=True)
    ]
    proxy_ms, pictrs_ms, clients_ms = (1000 * used / max(1, done.stored) for used in spent)
    after = proxy.stats()["batches"]
    passes = after["count"] - batches["count"]
    result.add(done)
    result.mean_batches.append((after["frames"] - batches["frames"]) / max(1, passes))
    result.largest_batch = after["largest"]
    result.cpu_ms.append((proxy_ms, pictrs_ms, clients_ms))
    result.stages.append(stages_of(stages, proxy.stage_totals()))


def _cpu_seconds(upstream: Server, proxy: Proxy) -> tuple[float, float, float]:
    return proxy.cpu_seconds(), upstream.cpu_seconds(), time.process_time()


@contextmanager
def _watched(proxy: Proxy, frames_waiting: list[int]) -> Iterator[None]:
    """Notes now and then how many frames wait for the model."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            frames_waiting.append(proxy.stats()["queue"]["frames_waiting"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def ratios(rates: Sequence[float], over: Sequence[float]) -> list[float]:
    """Of each repeat; two rates of one repeat saw the same machine."""
    return [rate / other for rate, other in zip(rates, over, strict=True)]
