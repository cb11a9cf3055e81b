"""The main path: bytes -> Verdict. Everything that judges a picture calls this; nothing goes round.

listed?  ->  verdict known?  ->  frames and crops  ->  same crops known?  ->  embeddings  ->  policy

and where that fails, `scan.on_failure` decides: here, and nowhere else.
"""

import asyncio
import hashlib
import mmap
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from safety_proxy.crops import CropSpec
from safety_proxy.deadline import Deadline
from safety_proxy.errors import (
    EmbedderUnavailable,
    QueueFull,
    ScanError,
    ScanTimeout,
    StoreUnavailable,
    UndecodableImage,
)
from safety_proxy.inference.batcher import Batcher, Control
from safety_proxy.logs import get_logger
from safety_proxy.media.frames import Frame, read_frames
from safety_proxy.media.spool import Media
from safety_proxy.metrics import Metrics
from safety_proxy.pace import Pace
from safety_proxy.policy.judge import Judge
from safety_proxy.settings import Settings
from safety_proxy.store.cache import CacheKey, VerdictCache
from safety_proxy.store.hashlist import BlockList
from safety_proxy.store.unscanned import Unscanned
from safety_proxy.verdict import Action, Reason, Source, Verdict

_logger = get_logger(__name__)

# Verdicts kept by what was seen: the second look at a picture follows the first within seconds.
_LOOKS: Final = 10_000

# Cosine from which on the embeddings of two quite different pictures count as one.
_SAME: Final = 0.9999


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
    """Judges media. Until `model` is set, every scan raises EmbedderUnavailable.

    proven: whether the pictures that are built in came out as they must (see `prove`).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        cache: VerdictCache,
        block_list: BlockList,
        unscanned: Unscanned,
        metrics: Metrics,
    ) -> None:
        self._scan_settings = settings.scan
        self._limits = settings.limits
        self._cache = cache
        self._looks = VerdictCache(_LOOKS)
        self._block_list = block_list
        self._unscanned = unscanned
        self._metrics = metrics
        self._pace = Pace()
        self._decoders = ThreadPoolExecutor(
            settings.scan.decode_threads, thread_name_prefix="decode"
        )
        self.model: Model | None = None
        self.proven = False

    @property
    def in_flight(self) -> int:
        """Scans of new pictures under way."""
        return self._pace.running

    async def clear(self, media: Media, deadline: Deadline) -> Cleared | Verdict:
        """`Cleared` if the media may be stored, else the verdict against it. Raises ScanError."""
        verdict = await self.scan(media, deadline)
        return verdict if verdict.action is Action.BLOCK else Cleared(media, verdict, seal=_SEAL)

    async def scan(self, media: Media, deadline: Deadline) -> Verdict:
        """The verdict on exactly these bytes, by then or within `scan.timeout_seconds`.

        Raises ScanError if none could be reached, unless `scan.on_failure` lets such pictures in.
        """
        cached = False
        try:
            with self._metrics.stage("scan"):
                verdict, cached = await self._decide(media, deadline)
        except ScanError as error:
            let_in = await self._on_failure(media, error)
            if let_in is None:
                raise
            verdict = let_in
        if verdict.source is Source.POLICY:
            with suppress(StoreUnavailable):
                await self._unscanned.clear(media.sha256)
        self._metrics.verdict(verdict)
        _logger.info(
            "scan",
            sha256=verdict.sha256[:16],
            action=verdict.action.value,
            source=verdict.source.value,
            cached=cached,
            reasons=[str(reason) for reason in verdict.reasons],
        )
        return verdict

    async def prove(self, blocked: Media, allowed: Media) -> None:
        """Looks at two pictures that are built in, and sets `proven`.

        A model that sees no difference between them, a policy that blocks the plain one, or a list
        that misses the test picture would fail every user, or none. The first picture is shown to
        the model in every pass from then on. Raises ScanError.
        """
        model = self.model
        if model is None:
            raise EmbedderUnavailable("the model is still loading")
        frames = [
            (await self._decode(media.map(), model.crop_spec))[0][0] for media in (blocked, allowed)
        ]
        embeddings = await model.batcher.embed([frame.crop for frame in frames])
        model.batcher.control = Control(frames[0].crop, embeddings[0])
        self.proven = (
            self._block_list.match(blocked.sha256) is not None
            and model.judge.judge(embeddings[1:], [""]).action is not Action.BLOCK
            and float(embeddings[0] @ embeddings[1]) < _SAME
        )

    async def _on_failure(self, media: Media, error: ScanError) -> Verdict | None:
        """The verdict that lets a picture in unseen; None if the error stands, as by default."""
        let_in = self._scan_settings.on_failure == "allow"
        self._metrics.failure(error.reason)
        _logger.warning(
            "scan failed",
            sha256=media.sha256[:16],
            reason=error.reason,
            detail=str(error),
            let_in=let_in,
        )
        if not let_in:
            return None
        with suppress(StoreUnavailable):  # the admin chose that nothing keeps a picture out
            await self._unscanned.mark(media.sha256, error.reason)
        reason = Reason("unscanned", detail=error.reason)
        return _verdict(media.sha256, self.model, Action.ALLOW, Source.UNSCANNED, reason)

    async def _decide(self, media: Media, deadline: Deadline) -> tuple[Verdict, bool]:
        """The verdict, and whether it was known."""
        model = self.model
        if model is None:
            raise EmbedderUnavailable("the model is still loading")
        listed = self._block_list.match(media.sha256)
        if listed is not None:
            reason = Reason("block-list", detail=listed)
            return _verdict(media.sha256, model, Action.BLOCK, Source.BLOCK_LIST, reason), False
        key = CacheKey(media.sha256, model.fingerprint, model.judge.version)
        known = self._cache.get(key)
        if known is not None:
            return known, True
        deadline = deadline.within(self._scan_settings.timeout_seconds)
        # The map is made here, while this caller surely holds the media open: the scan may outlive
        # it when others wait for the same digest.
        view = media.map() if media.size_bytes else b""
        scan = partial(self._scan_new, view, media.sha256, model, deadline)
        # Not `from` the time-out: its frames lead back to the task, and would keep the view mapped.
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.left):
                return await self._cache.scan_once(key, scan), False
        raise ScanTimeout("no verdict in time")

    async def _scan_new(
        self, view: mmap.mmap | bytes, sha256: str, model: Model, deadline: Deadline
    ) -> Verdict:
        expected = self._pace.expected_seconds()
        if self._pace.running >= self._scan_settings.queue_limit:
            raise QueueFull("as many scans are under way as scan.queue_limit", retry_after=expected)
        if expected > deadline.left:
            raise QueueFull("the scans under way leave no time", retry_after=expected)
        self._pace.begin()
        verdict = None
        try:
            verdict = await self._look(view, sha256, model)
        finally:
            self._pace.end(reached=verdict is not None)
        return verdict

    async def _look(self, view: mmap.mmap | bytes, sha256: str, model: Model) -> Verdict:
        try:
            frames, shown = await self._decode(view, model.crop_spec)
        except UndecodableImage as error:
            action = model.judge.policy.unreadable
            reason = Reason("unreadable", detail=str(error))
            return _verdict(sha256, model, action, Source.UNREADABLE, reason)
        # pict-rs strips metadata before it shows a picture to its validator: other bytes, the same
        # crops, and so the same verdict without another forward pass.
        key = CacheKey(shown, model.fingerprint, model.judge.version)
        verdict = self._looks.get(key)
        if verdict is None:
            judge = partial(self._judge, frames, shown, model)
            verdict = await self._looks.scan_once(key, judge)
        return replace(verdict, sha256=sha256)

    async def _judge(self, frames: list[Frame], shown: str, model: Model) -> Verdict:
        with self._metrics.stage("embed"):
            embeddings = await model.batcher.embed([frame.crop for frame in frames])
        judgment = model.judge.judge(embeddings, [f"frame {frame.index}" for frame in frames])
        verdict = Verdict(
            judgment.action,
            judgment.reasons,
            shown,
            model.fingerprint,
            model.judge.version,
            Source.POLICY,
            judgment.scores,
        )
        self._metrics.scan(verdict)
        return verdict

    async def _decode(self, view: mmap.mmap | bytes, spec: CropSpec) -> tuple[list[Frame], str]:
        """The frames to be judged, and a digest of all that the model is shown of them."""

        def decode() -> tuple[list[Frame], str]:
            frames = read_frames(
                view,
                spec,
                max_frame_pixels=self._limits.max_frame_pixels,
                max_frames=self._limits.max_frames,
            )
            digest = hashlib.sha256()
            for frame in frames:
                digest.update(frame.index.to_bytes(8, "big"))
                digest.update(frame.crop.tobytes())
            return frames, digest.hexdigest()

        with self._metrics.stage("decode"):
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decode)

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _verdict(
    sha256: str, model: Model | None, action: Action, source: Source, reason: Reason
) -> Verdict:
    """A verdict that no scores led to."""
    fingerprint, version = (model.fingerprint, model.judge.version) if model else ("", "")
    return Verdict(action, (reason,), sha256, fingerprint, version, source)
