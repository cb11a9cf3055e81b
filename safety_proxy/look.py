"""A file -> what there is to be seen of it, and what the model makes of that; nothing is judged."""

import asyncio
import hashlib
from dataclasses import dataclass, replace

from safety_proxy import __version__
from safety_proxy.crops import CropSpec, Float32Array
from safety_proxy.deadline import Deadline
from safety_proxy.evidence import Evidence, Pdq
from safety_proxy.inference.batcher import Batcher
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.fingerprint import Fingerprint, fingerprint
from safety_proxy.media.isolation.processes import Decoders
from safety_proxy.media.spool import Held
from safety_proxy.metrics import Metrics
from safety_proxy.settings import Settings
from safety_proxy.store.vectors import as_stored


@dataclass(frozen=True, slots=True)
class Look:
    """A decoded file: its digest, what else names it, and the frames that the model is to see.

    version: of the viewer that looked.
    """

    sha256: str
    named: Fingerprint
    frames: list[Frame]
    version: str

    @property
    def pdq(self) -> tuple[Pdq, ...]:
        """The PDQ hashes of all frames, each once."""
        return tuple(dict.fromkeys(pdq for frame in self.frames for pdq in frame.pdq))

    def evidence(self, model: str, embeddings: Float32Array) -> Evidence:
        """With the embeddings of the frames under this model, as they will be stored."""
        return Evidence(
            self.sha256,
            self.named.sha1,
            self.named.md5,
            self.named.media_type,
            model,
            as_stored(embeddings),
            tuple(frame.where for frame in self.frames),
            self.pdq,
            self.version,
        )


class Viewer:
    """Looks at files, with the bounds of the settings.

    version: another one sees other frames or hidden pictures in the same file, so what is known by
    it does not count here.
    """

    def __init__(self, settings: Settings, decoders: Decoders, metrics: Metrics) -> None:
        limits = settings.limits
        self._bounds = Bounds(
            frame_pixels=limits.max_frame_pixels,
            total_pixels=limits.max_total_pixels,
            frames=limits.max_frames,
            gap_seconds=limits.max_gap_seconds,
            hidden=settings.scan.hidden,
            turned=settings.lists.turned,
        )
        bounds = replace(self._bounds, salt="")  # which differs with each start, and may
        self.version = hashlib.sha256(f"{__version__} {bounds}".encode()).hexdigest()[:16]
        self._decoders = decoders
        self._metrics = metrics

    async def look(self, held: Held, sha256: str, spec: CropSpec, deadline: Deadline) -> Look:
        """What is to be seen of these bytes. Raises UndecodableImage, ScanError."""
        with self._metrics.stage("decode"):
            frames = await self._decoders.decode(
                held.descriptor, held.size_bytes, spec, self._bounds, deadline=deadline
            )
            named = await asyncio.to_thread(fingerprint, held, frames)
            return Look(sha256, named, frames, self.version)

    async def name(self, held: Held) -> Fingerprint:
        """What names these bytes, at least one, whatever is to be seen of them."""
        return await asyncio.to_thread(fingerprint, held, ())

    async def embed(self, frames: list[Frame], batcher: Batcher) -> Float32Array:
        """(F, D) embeddings of the frames. Raises EmbedderUnavailable."""
        with self._metrics.stage("embed"):
            return await batcher.embed([frame.crop for frame in frames])
