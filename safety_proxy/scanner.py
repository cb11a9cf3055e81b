"""The main path: bytes -> Verdict. Everything that judges a picture calls this; nothing goes round.

listed?  ->  verdict known?  ->  frames and crops  ->  embeddings  ->  policy
"""

import asyncio
import logging
import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from safety_proxy.crops import CropSpec
from safety_proxy.errors import EmbedderUnavailable, QueueFull, ScanTimeout, UndecodableImage
from safety_proxy.inference.batcher import Batcher
from safety_proxy.media.frames import Frame, read_frames
from safety_proxy.media.spool import Media
from safety_proxy.metrics import Metrics
from safety_proxy.policy.judge import Judge
from safety_proxy.settings import Settings
from safety_proxy.store.cache import CacheKey, VerdictCache
from safety_proxy.store.hashlist import BlockList
from safety_proxy.verdict import Action, Reason, Source, Verdict

_logger = logging.getLogger(__name__)


class _Seal:
    """Of its type there is one object, and only this module holds it."""


_SEAL: Final = _Seal()


class Cleared:
    """Bytes that a scan let in: all that `proxy.forward` stores, and made by `Scanner` alone."""

    __slots__ = ("media", "verdict")

    def __init__(self, media: Media, verdict: Verdict, *, seal: _Seal) -> None:
        if seal is not _SEAL:
            raise TypeError("only Scanner.clear makes a Cleared")
        if verdict.sha256 != media.sha256 or verdict.action is Action.BLOCK:
            raise ValueError("the verdict does not let these bytes in")
        self.media: Final = media
        self.verdict: Final = verdict


@dataclass(frozen=True, slots=True)
class Model:
    """What a scan needs beyond the bytes; there is none before the model has loaded."""

    fingerprint: str
    crop_spec: CropSpec
    batcher: Batcher
    judge: Judge


class Scanner:
    """Judges media. Until `model` is set, every scan raises EmbedderUnavailable."""

    def __init__(
        self, settings: Settings, *, cache: VerdictCache, block_list: BlockList, metrics: Metrics
    ) -> None:
        self._scan_settings = settings.scan
        self._limits = settings.limits
        self._cache = cache
        self._block_list = block_list
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(
            settings.scan.decode_threads, thread_name_prefix="decode"
        )
        self.model: Model | None = None
        self.in_flight = 0

    async def clear(self, media: Media) -> Cleared | Verdict:
        """`Cleared` if the media may be stored, else the verdict against it. Raises ScanError."""
        verdict = await self.scan(media)
        return verdict if verdict.action is Action.BLOCK else Cleared(media, verdict, seal=_SEAL)

    async def scan(self, media: Media) -> Verdict:
        """The verdict on exactly these bytes. Raises ScanError if none could be reached."""
        if self.model is None:
            raise EmbedderUnavailable("the model is still loading")
        with self._metrics.stage("scan"):
            verdict, cached = await self._decide(media, self.model)
        self._metrics.verdict(verdict)
        _logger.info(
            "scan sha256=%s action=%s source=%s cached=%s reasons=%s",
            verdict.sha256[:16],
            verdict.action,
            verdict.source,
            cached,
            "; ".join(map(str, verdict.reasons)) or "-",
        )
        return verdict

    async def _decide(self, media: Media, model: Model) -> tuple[Verdict, bool]:
        listed = self._block_list.match(media.sha256)
        if listed is not None:
            reason = Reason("block-list", detail=listed)
            return _verdict(media.sha256, model, Action.BLOCK, Source.BLOCK_LIST, reason), False
        key = CacheKey(media.sha256, model.fingerprint, model.judge.version)
        known = self._cache.get(key)
        if known is not None:
            return known, True
        # The map is made here, while this caller surely holds the media open: the scan may outlive
        # it when others wait for the same digest.
        view = media.map() if media.size_bytes else b""
        scan = partial(self._scan_new, view, media.sha256, model)
        try:
            async with asyncio.timeout(self._scan_settings.timeout_seconds):
                return await self._cache.scan_once(key, scan), False
        except TimeoutError as error:
            raise ScanTimeout("over scan.timeout_seconds") from error

    async def _scan_new(self, view: mmap.mmap | bytes, sha256: str, model: Model) -> Verdict:
        if self.in_flight >= self._scan_settings.queue_limit:
            raise QueueFull("more scans are under way than scan.queue_limit")
        self.in_flight += 1
        try:
            verdict = await self._look(view, sha256, model)
        finally:
            self.in_flight -= 1
        self._metrics.scan(verdict)
        return verdict

    async def _look(self, view: mmap.mmap | bytes, sha256: str, model: Model) -> Verdict:
        try:
            frames = await self._decode(view, model.crop_spec)
        except UndecodableImage as error:
            action = model.judge.policy.unreadable
            reason = Reason("unreadable", detail=str(error))
            return _verdict(sha256, model, action, Source.UNREADABLE, reason)
        with self._metrics.stage("embed"):
            embeddings = await model.batcher.embed([frame.crop for frame in frames])
        judgment = model.judge.judge(embeddings, [frame.index for frame in frames])
        return Verdict(
            judgment.action,
            judgment.reasons,
            sha256,
            model.fingerprint,
            model.judge.version,
            Source.POLICY,
            judgment.scores,
        )

    async def _decode(self, view: mmap.mmap | bytes, spec: CropSpec) -> list[Frame]:
        decode = partial(
            read_frames,
            view,
            spec,
            max_frame_pixels=self._limits.max_frame_pixels,
            max_frames=self._limits.max_frames,
        )
        with self._metrics.stage("decode"):
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _verdict(sha256: str, model: Model, action: Action, source: Source, reason: Reason) -> Verdict:
    """A verdict that no scores led to."""
    return Verdict(action, (reason,), sha256, model.fingerprint, model.judge.version, source)
