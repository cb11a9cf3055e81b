"""A model and decoders without listeners, for `evaluate` and `calibrate`: the server's own way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from safety_proxy.assembly import build_batcher, build_decoders, build_judge, load_clip
from safety_proxy.deadline import Deadline
from safety_proxy.evaluation.survey import LOOKS
from safety_proxy.evaluation.tally import Looked
from safety_proxy.evaluation.trial import Bench
from safety_proxy.inference.batcher import Batcher
from safety_proxy.inference.embedder import Embedder
from safety_proxy.look import Viewer
from safety_proxy.media.spool import Media
from safety_proxy.metrics import Metrics
from safety_proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class _Looker:
    viewer: Viewer
    embedder: Embedder
    batcher: Batcher
    seconds: float

    async def look(self, media: Media) -> Looked:
        """As the server would, one picture in as much time as an upload has."""
        spec, deadline = self.embedder.crop_spec, Deadline.after(self.seconds)
        look = await self.viewer.look(media.hold(), media.sha256, spec, deadline)
        embeddings = await self.viewer.embed(look.frames, self.batcher)
        return Looked(look.evidence(self.embedder.fingerprint, embeddings), look.frames[0].crop)


@asynccontextmanager
async def open_bench(settings: Settings) -> AsyncIterator[Bench]:
    """The bench for these settings. Raises ConfigError."""
    metrics = Metrics()
    async with AsyncExitStack() as closing:
        decoders = build_decoders(settings)
        await decoders.start()
        closing.push_async_callback(decoders.aclose)
        embedder = await asyncio.to_thread(load_clip, settings)
        batcher = build_batcher(settings, embedder, metrics)
        closing.push_async_callback(batcher.aclose)
        # Many wait for one another here, and nobody for them: the time is for what hangs.
        seconds = settings.scan.timeout_seconds * LOOKS
        looker = _Looker(Viewer(settings, decoders, metrics), embedder, batcher, seconds)
        yield Bench(embedder.fingerprint, looker, partial(build_judge, embedder, batcher))
