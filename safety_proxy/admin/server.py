"""`/healthz`, `/readyz`, `/stats` and `/metrics`, for the admin and the supervisor alone."""

import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import prometheus_client as prometheus
from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from safety_proxy import __version__
from safety_proxy.admin.bodies import guarded
from safety_proxy.media.isolation.processes import Decoders
from safety_proxy.metrics import Metrics
from safety_proxy.scanner import Scanner
from safety_proxy.store.cache import VerdictCache
from safety_proxy.store.unscanned import Unscanned

# A policy file; pictures are streamed.
_MOST_BODY_BYTES = 4 * 1024 * 1024

# Of those whose pictures were blocked most often.
_CLIENTS = 20


class AdminServer(Collector):
    """The aiohttp application of the admin listener; `routes` are served beside its own."""

    def __init__(
        self,
        scanner: Scanner,
        cache: VerdictCache,
        metrics: Metrics,
        *,
        unscanned: Unscanned,
        decoders: Decoders,
        queue_limit: int,
        upstream_alive: Callable[[], Awaitable[bool]],
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self._scanner = scanner
        self._cache = cache
        self._metrics = metrics
        self._unscanned = unscanned
        self._decoders = decoders
        self._queue_limit = queue_limit
        self._upstream_alive = upstream_alive
        self._started = time.monotonic()
        metrics.registry.register(self)
        self.app = web.Application(client_max_size=_MOST_BODY_BYTES)
        self.app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/stats", guarded(self._stats)),  # names clients
                web.get("/metrics", self._prometheus),
                *routes,
            ]
        )

    async def _healthz(self, request: web.Request) -> web.Response:
        """200 while the event loop turns: a supervisor restarts the process when it does not."""
        del request
        return web.json_response({"status": "alive"})

    async def _readyz(self, request: web.Request) -> web.Response:
        """200 when an upload would be judged and stored; else 503 with what is missing."""
        del request
        checks = {
            "model": self._scanner.proven and self._model_works(),
            "decoders": self._decoders.healthy,
            "pictrs": await self._upstream_alive(),
        }
        return web.json_response(checks, status=200 if all(checks.values()) else 503)

    def _model_works(self) -> bool:
        model = self._scanner.model
        return model is not None and not model.batcher.failing and not model.batcher.stuck

    async def _stats(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(self.stats())

    async def _prometheus(self, request: web.Request) -> web.Response:
        del request
        body = prometheus.generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST})

    def stats(self) -> dict[str, Any]:
        """All counts since start, as `/stats` gives them."""
        counts, metrics, model = self._cache.counts, self._metrics, self._scanner.model
        asked = counts.hits + counts.coalesced + counts.misses
        return {
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "model": model.fingerprint if model else None,
            "policy": {"name": model.judge.policy.name, "version": model.judge.version}
            if model
            else None,
            "cache": {
                **dataclasses.asdict(counts),
                "hit_rate": round(counts.hits / asked, 4) if asked else 0.0,
                "entries": len(self._cache),
                "capacity": self._cache.max_entries,
            },
            "verdicts": {
                "by_action": dict(metrics.verdicts_by_action),
                "by_source": dict(metrics.verdicts_by_source),
            },
            "scans": {"by_action": dict(metrics.scans_by_action)},
            "failures": dict(metrics.failures),
            "blocked_by_client": dict(
                sorted(metrics.blocked_by_client.items(), key=lambda item: -item[1])[:_CLIENTS]
            ),
            "unscanned": len(self._unscanned),
            "queue": {
                "scans_in_flight": self._scanner.in_flight,
                "limit": self._queue_limit,
                "frames_waiting": model.batcher.frames_waiting if model else 0,
            },
            "decoders": {"healthy": self._decoders.healthy, "lost": self._decoders.lost},
            "batches": {
                "count": metrics.batches,
                "frames": metrics.frames,
                "mean_frames": round(metrics.frames / metrics.batches, 2) if metrics.batches else 0,
                "largest": metrics.largest_batch,
            },
            "latency_seconds": {
                stage: dataclasses.asdict(percentiles)
                for stage, percentiles in metrics.latencies().items()
            },
        }

    def collect(self) -> Iterator[Metric]:
        """What is counted elsewhere, as Prometheus has it: this object is a collector of it."""
        counts = self._cache.counts
        for name, documentation, value in (
            ("hits", "Verdicts that were known", counts.hits),
            ("misses", "Verdicts that were not known", counts.misses),
            ("coalesced", "Askers that joined a scan under way", counts.coalesced),
            ("evictions", "Verdicts dropped for room", counts.evictions),
        ):
            yield CounterMetricFamily(f"safety_proxy_cache_{name}", documentation, value=value)
        yield GaugeMetricFamily(
            "safety_proxy_cache_entries", "Verdicts in memory", value=len(self._cache)
        )
        yield GaugeMetricFamily(
            "safety_proxy_unscanned",
            "Pictures that were let in unseen and have not been scanned since",
            value=len(self._unscanned),
        )
        yield CounterMetricFamily(
            "safety_proxy_decoders_lost",
            "Decoder processes that ended on the file they were given",
            value=self._decoders.lost,
        )
        yield GaugeMetricFamily(
            "safety_proxy_scans_in_flight", "Scans under way", value=self._scanner.in_flight
        )
