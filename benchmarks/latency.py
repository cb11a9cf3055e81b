"""One request at a time: through the proxy, and straight to the same pict-rs, by turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.client import Client
from benchmarks.origin import Origin
from benchmarks.pictures import Pictures, form
from benchmarks.servers import Proxy, Server
from benchmarks.stages import StageMeans, stages_of

Prepare = Callable[[], Callable[[Client], object]]


@dataclass(frozen=True, slots=True)
class Latency:
    """Medians over all samples, in seconds; ratios of the medians of each repeat."""

    name: str
    samples: int
    direct: float
    proxied: float
    ratios: list[float]
    stages: StageMeans

    @property
    def ratio(self) -> float:
        return median(self.ratios)


@dataclass(frozen=True, slots=True)
class Duel:
    """The two sides, and how often they are compared."""

    upstream: Server
    proxy: Proxy
    origin: Origin
    repeats: int

    def upload_new(self, pictures: Pictures, samples: int) -> Latency:
        """Each picture is one that neither side has seen."""

        def prepare() -> Callable[[Client], object]:
            body = form(pictures.new())
            return lambda client: client.store(body)

        return self._fight(f"upload, new, {pictures.kind.name}", prepare, samples)

    def upload_known(self, pictures: Pictures, samples: int) -> Latency:
        """Always the same picture, known to both sides."""
        body = form(pictures.new())
        self._store(body)
        return self._fight(
            f"upload, known, {pictures.kind.name}",
            lambda: lambda client: client.store(body),
            samples,
        )

    def read(self, pictures: Pictures, samples: int) -> Latency:
        """The original of one stored picture."""
        alias = self._store(form(pictures.new()))
        return self._fight(
            f"read, {pictures.kind.name}", lambda: lambda client: client.read(alias), samples
        )

    def proxied_new(self, pictures: Pictures, samples: int) -> Latency:
        """Each address is one that neither side has been asked for."""

        def prepare() -> Callable[[Client], object]:
            address = self.origin.put(pictures.new())
            return lambda client: client.show(address)

        return self._fight(f"?proxy=, new, {pictures.kind.name}", prepare, samples)

    def proxied_known(self, pictures: Pictures, samples: int) -> Latency:
        """Always the same address, known to both sides."""
        address = self.origin.put(pictures.new())
        return self._fight(
            f"?proxy=, known, {pictures.kind.name}",
            lambda: lambda client: client.show(address),
            samples,
        )

    def _store(self, body: bytes) -> str:
        with Client(self.proxy.port) as client:
            return client.store(body)

    def _fight(self, name: str, prepare: Prepare, samples: int) -> Latency:
        before = self.proxy.stage_totals()
        direct: list[list[float]] = []
        proxied: list[list[float]] = []
        with Client(self.upstream.port) as straight, Client(self.proxy.port) as through:
            for client in (straight, through):  # connections, and whatever warms up
                prepare()(client)
            for _ in range(self.repeats):
                direct.append([])
                proxied.append([])
                for number in range(samples):
                    turns = [(straight, direct[-1]), (through, proxied[-1])]
                    for client, times in turns if number % 2 else reversed(turns):
                        times.append(_timed(prepare(), client))
        return Latency(
            name=name,
            samples=samples * self.repeats,
            direct=median(t for times in direct for t in times),
            proxied=median(t for times in proxied for t in times),
            ratios=[median(p) / median(d) for p, d in zip(proxied, direct, strict=True)],
            stages=stages_of(before, self.proxy.stage_totals()),
        )


def _timed(request: Callable[[Client], object], client: Client) -> float:
    start = time.perf_counter()
    request(client)
    return time.perf_counter() - start
