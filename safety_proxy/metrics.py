"""Counters and timings: one object, read by `/metrics` (Prometheus) and `/stats` (JSON)."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import prometheus_client as prometheus
from cachetools import LRUCache

from safety_proxy.verdict import Verdict

# What a picture spends its time on, in order.
Stage = Literal[
    "receive", "fetch", "decode", "embed", "forward_pass", "scan", "upstream", "request"
]

# From a cached verdict (a millisecond) to the longest that a client of pict-rs waits (30 s).
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Latest durations that the percentiles of `/stats` are taken from.
_RECENT = 1000

# Clients whose refusals are counted; those not seen for longest are forgotten.
_CLIENTS = 10_000


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the latest durations, in seconds; `count` is since start."""

    p50: float
    p90: float
    p99: float
    count: int


class Metrics:
    """All that is counted, in a registry of its own: two proxies in one process stay apart."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.scans_by_action: Counter[str] = Counter()
        self.verdicts_by_action: Counter[str] = Counter()
        self.verdicts_by_source: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.blocked_by_client: LRUCache[str, int] = LRUCache(_CLIENTS)
        self.batches = 0
        self.frames = 0
        self.largest_batch = 0
        self._recent: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._counts: Counter[str] = Counter()
        self._verdicts = prometheus.Counter(
            "safety_proxy_verdicts",
            "Pictures judged, known ones included, by action and by who decided",
            ["action", "source"],
            registry=self.registry,
        )
        self._scans = prometheus.Counter(
            "safety_proxy_scans",
            "New pictures that were decoded and judged by the policy, by action",
            ["action"],
            registry=self.registry,
        )
        self._failed = prometheus.Counter(
            "safety_proxy_failures",
            "Requests that ended in an error of the proxy, by its reason",
            ["reason"],
            registry=self.registry,
        )
        self._batch_size = prometheus.Histogram(
            "safety_proxy_batch_frames",
            "Frames in one forward pass",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self._seconds = prometheus.Histogram(
            "safety_proxy_stage_duration_seconds",
            "Time by stage",
            ["stage"],
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def verdict(self, verdict: Verdict) -> None:
        """One picture judged, by whatever means."""
        self.verdicts_by_action[verdict.action] += 1
        self.verdicts_by_source[verdict.source] += 1
        self._verdicts.labels(verdict.action, verdict.source).inc()

    def scan(self, verdict: Verdict) -> None:
        """One picture whose bytes were not known, decoded and judged."""
        self.scans_by_action[verdict.action] += 1
        self._scans.labels(verdict.action).inc()

    def blocked(self, client: str) -> None:
        """A picture of this client's was judged and refused; who tries often shows in `/stats`."""
        self.blocked_by_client[client] = self.blocked_by_client.get(client, 0) + 1

    def failure(self, reason: str) -> None:
        self.failures[reason] += 1
        self._failed.labels(reason).inc()

    def batch(self, frames: int) -> None:
        """One forward pass."""
        self.batches += 1
        self.frames += frames
        self.largest_batch = max(self.largest_batch, frames)
        self._batch_size.observe(frames)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Times what runs inside, failures too."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._recent[stage].append(seconds)
            self._counts[stage] += 1
            self._seconds.labels(stage).observe(seconds)

    def latencies(self) -> dict[str, Percentiles]:
        """Percentiles by stage, for the stages that occurred."""
        return {
            stage: _percentiles(sorted(values), self._counts[stage])
            for stage, values in self._recent.items()
        }


def _percentiles(ordered: list[float], count: int) -> Percentiles:
    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Percentiles(p50=at(0.5), p90=at(0.9), p99=at(0.99), count=count)
