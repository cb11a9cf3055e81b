"""The main path: bytes -> Verdict. Everything that judges a picture calls this; nothing goes round.

    listed by its bytes?  ->  verdict known?  ->  evidence known?  -------------------->  policy
                                                  else decode  ->  listed by its look?
                                                               ->  look known, or embed  ->  policy

and where that fails, `scan.on_failure` decides: here, and nowhere else.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from safety_proxy.crops import CropSpec, Float32Array
from safety_proxy.deadline import Deadline
from safety_proxy.errors import (
    EmbedderUnavailable,
    QueueFull,
    ScanError,
    ScanTimeout,
    StoreUnavailable,
    UndecodableImage,
)
from safety_proxy.evidence import Evidence, Pdq
from safety_proxy.inference.batcher import Batcher
from safety_proxy.logs import get_logger
from safety_proxy.look import Look, Viewer
from safety_proxy.media.spool import Held, Media
from safety_proxy.metrics import Metrics
from safety_proxy.pace import Pace
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy
from safety_proxy.settings import Settings
from safety_proxy.store.cache import CacheKey, VerdictCache
from safety_proxy.store.entries import Kind
from safety_proxy.store.hashlist import HashLists, Match
from safety_proxy.store.looks import Looks
from safety_proxy.store.recall import Recall
from safety_proxy.store.unscanned import Unscanned
from safety_proxy.tasks import SingleFlight
from safety_proxy.verdict import Action, Reason, Source, Verdict

_logger = get_logger(__name__)


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
    """What a scan needs beyond the bytes; there is none before the model has loaded.

    judge_of: makes a policy ready for this model, by its text tower; blocks, see `Batcher`.
    """

    fingerprint: str
    crop_spec: CropSpec
    batcher: Batcher
    judge: Judge
    judge_of: Callable[[Policy], Judge]


class Scanner:
    """Judges media. Until `model` is set, every scan raises EmbedderUnavailable.

    proven: whether the pictures that are built in came out as they must, as `Proof` sets it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        cache: VerdictCache,
        lists: HashLists,
        recall: Recall,
        unscanned: Unscanned,
        viewer: Viewer,
        metrics: Metrics,
    ) -> None:
        self._scan_settings = settings.scan
        self._follows_allowed = bool(settings.validator.ids)
        self._cache = cache
        self._lists = lists
        self._recall = recall
        self._viewer = viewer
        self._looks = Looks()  # of what was scanned
        self._allowed = Looks()  # of what the admin lets in, see _follow
        self._embedding = SingleFlight[tuple[str, str], Float32Array]("embed")
        self._following = SingleFlight[str, Look]("follow")
        self._unscanned = unscanned
        self._metrics = metrics
        self._pace = Pace()
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
            sha256=verdict.sha256,  # whole: `allow` and `explain` take it
            action=verdict.action.value,
            source=verdict.source.value,
            cached=cached,
            reasons=[str(reason) for reason in verdict.reasons],
        )
        return verdict

    async def look(self, media: Media, deadline: Deadline) -> tuple[Evidence, Look]:
        """What the model makes of a file, whatever is known of it, and without a verdict.

        For who asks why, and who measures a policy. Raises UndecodableImage, ScanError.
        """
        model = self.loaded()
        with self._admitted(deadline):
            look = await self._viewer.look(media.hold(), media.sha256, model.crop_spec, deadline)
            embeddings = await self._viewer.embed(look.frames, model.batcher)
        return look.evidence(model.fingerprint, embeddings), look

    def switch(self, judge: Judge) -> None:
        """Judges by this from the next scan on; who is being scanned is judged as it began."""
        self.model = replace(self.loaded(), judge=judge)

    async def _on_failure(self, media: Media, error: ScanError) -> Verdict | None:
        """The verdict that lets a picture in unseen; None if the error stands, as by default.

        What is listed by its bytes stays out: that needs neither decoders nor the model.
        """
        chosen = self._scan_settings.on_failure == "allow"
        listed = await self._match_bytes(media.hold(), media.sha256) if chosen else None
        let_in = chosen and listed is None
        self._metrics.failure(error.reason)
        _logger.warning(
            "scan failed",
            sha256=media.sha256,
            reason=error.reason,
            detail=str(error),
            let_in=let_in,
        )
        if listed is not None:
            return _listed(media.sha256, self.model, listed)
        if not let_in:
            return None
        with suppress(StoreUnavailable):  # the admin chose that nothing keeps a picture out
            await self._unscanned.mark(media.sha256, error.reason)
        reason = Reason("unscanned", detail=error.reason)
        return _verdict(media.sha256, self.model, Action.ALLOW, Source.UNSCANNED, reason)

    def loaded(self) -> Model:
        """The model. Raises EmbedderUnavailable while there is none."""
        if self.model is None:
            raise EmbedderUnavailable("the model is still loading")
        return self.model

    async def _decide(self, media: Media, deadline: Deadline) -> tuple[Verdict, bool]:
        """The verdict, and whether it was known."""
        deadline = deadline.within(self._scan_settings.timeout_seconds)
        # Before the model is asked for: on_failure must not let in what is listed.
        listed = self._lists.match_exact(media.sha256)
        if listed is not None:
            if listed.action is Action.ALLOW:
                await self._follow(media, deadline)
            return _listed(media.sha256, self.model, listed), False
        model = self.loaded()
        # What decides is part of the key: a policy or a list that changes counts at once.
        decides = f"{model.judge.version} {self._lists.generation} {self._allowed.generation}"
        key = CacheKey(media.sha256, model.fingerprint, decides)
        known = self._cache.get(key)
        if known is not None:
            self._recall.seen(media.sha256, model.fingerprint)
            return known, True
        # Held from here on, while this caller surely has the media open: the scan may outlive it
        # when others wait for the same digest.
        scan = partial(self._find, media.hold(), media.sha256, model, deadline)
        # Not `from` the time-out: its frames lead back to the task, and would hold the bytes.
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.left):
                return await self._cache.scan_once(key, scan), False
        raise ScanTimeout("no verdict in time")

    async def _follow(self, media: Media, deadline: Deadline) -> None:
        """Remembers what an allowed file looks like, for when pict-rs shows it to its validator."""
        model = self.model
        if self._follows_allowed and model is not None:
            look = partial(self._viewer.look, media.hold(), media.sha256, model.crop_spec, deadline)
            with suppress(UndecodableImage, ScanError):
                shown = (await self._following.run(media.sha256, look)).named.shown
                self._allowed.remember(shown, media.sha256)

    async def _find(self, held: Held, sha256: str, model: Model, deadline: Deadline) -> Verdict:
        known = await self._recall.get(sha256, model.fingerprint)
        if known is not None and known.look == self._viewer.version:
            listed = await self._match(sha256, known.sha1, known.md5, known.pdq)
            verdict = (
                _listed(sha256, model, listed) if listed else await _judged_aside(known, model)
            )
            # Evidence does not tell what it was made of: that may be allowed as other bytes.
            if verdict.action is not Action.BLOCK or not len(self._allowed):
                self._recall.keep(verdict)
                return verdict
        with self._admitted(deadline):
            return await self._scan_new(held, sha256, model)

    async def _scan_new(self, held: Held, sha256: str, model: Model) -> Verdict:
        # Not until the asker's own deadline: others may have joined who have more time.
        deadline = Deadline.after(self._scan_settings.timeout_seconds)
        evidence = None
        try:
            look = await self._viewer.look(held, sha256, model.crop_spec, deadline)
        except UndecodableImage as error:
            verdict = await self._unreadable(held, sha256, model, error)
        else:
            listed = await self._match_look(look)
            if listed is not None:
                verdict = _listed(sha256, model, listed)
            else:
                evidence = look.evidence(model.fingerprint, await self._embeddings(look, model))
                self._looks.remember(look.named.shown, sha256)
                verdict = await _judged_aside(evidence, model)
                self._metrics.scan(verdict)
        self._recall.keep(verdict, evidence)
        return verdict

    async def _unreadable(
        self, held: Held, sha256: str, model: Model, error: UndecodableImage
    ) -> Verdict:
        """The policy's action; but no policy lets in what is listed by its bytes."""
        action = model.judge.policy.unreadable
        if action is not Action.BLOCK:
            listed = await self._match_bytes(held, sha256)
            if listed is not None:
                return _listed(sha256, model, listed)
        reason = Reason(error.code, detail=str(error))
        return _verdict(sha256, model, action, Source.UNREADABLE, reason)

    async def _match_look(self, look: Look) -> Match | None:
        """What the lists say of a file by its bytes and by what it shows.

        The allow of other bytes that show exactly this goes before PDQ, as theirs would.
        """
        named = look.named
        listed = await self._match(look.sha256, named.sha1, named.md5, look.pdq)
        if listed is not None and listed.kind is not Kind.PDQ:
            return listed
        origin = self._allowed.origin(named.shown)
        allowed = self._lists.match_exact(origin) if origin else None
        return allowed if allowed is not None and allowed.action is Action.ALLOW else listed

    async def _embeddings(self, look: Look, model: Model) -> Float32Array:
        """Of what is shown, whose bytes gave it.

        pict-rs strips metadata before it shows a picture to its validator: other bytes, the same
        crops, and so the same embeddings without another forward pass.
        """
        shown = look.named.shown
        origin = self._looks.origin(shown)
        known = await self._recall.get(origin, model.fingerprint) if origin else None
        if known is not None and known.look == look.version:
            return known.embeddings
        embed = partial(self._viewer.embed, look.frames, model.batcher)
        return await self._embedding.run((shown, model.fingerprint), embed)

    async def _match(
        self, sha256: str, sha1: str, md5: str, pdq: Sequence[Pdq] = ()
    ) -> Match | None:
        """What the lists say of a picture by all of its hashes."""
        return await asyncio.to_thread(self._lists.match, sha256, sha1=sha1, md5=md5, pdq=pdq)

    async def _match_bytes(self, held: Held, sha256: str) -> Match | None:
        """What the lists say of bytes that nothing has been seen of."""
        if not held.size_bytes:
            return self._lists.match_exact(sha256)
        named = await self._viewer.name(held)
        return await self._match(sha256, named.sha1, named.md5)

    @contextmanager
    def _admitted(self, deadline: Deadline) -> Iterator[None]:
        """Counts what runs inside as a scan. Raises QueueFull if it would not end in time."""
        expected = self._pace.expected_seconds()
        if self._pace.running >= self._scan_settings.queue_limit:
            raise QueueFull("as many scans are under way as scan.queue_limit", retry_after=expected)
        if expected > deadline.left:
            raise QueueFull("the scans under way leave no time", retry_after=expected)
        self._pace.begin()
        reached = False
        try:
            yield
            reached = True
        finally:
            self._pace.end(reached=reached)


async def _judged_aside(evidence: Evidence, model: Model) -> Verdict:
    """What the policy says of it, found out on a thread: a video takes a tenth of a second."""
    return await asyncio.to_thread(_judged, evidence, model)


def _judged(evidence: Evidence, model: Model) -> Verdict:
    """That, and it blocks. Raises EmbedderUnavailable on values that are not finite."""
    judgment = model.judge.judge(evidence.embeddings, evidence.places)
    return Verdict(
        judgment.action,
        judgment.reasons,
        evidence.sha256,
        model.fingerprint,
        model.judge.version,
        Source.POLICY,
        judgment.scores,
    )


def _listed(sha256: str, model: Model | None, match: Match) -> Verdict:
    """What a list says of it."""
    source = Source.ALLOW_LIST if match.action is Action.ALLOW else Source.BLOCK_LIST
    reason = Reason(source.value.replace("_", "-"), detail=str(match))
    return _verdict(sha256, model, match.action, source, reason)


def _verdict(
    sha256: str, model: Model | None, action: Action, source: Source, reason: Reason
) -> Verdict:
    """A verdict that no scores led to."""
    fingerprint, version = (model.fingerprint, model.judge.version) if model else ("", "")
    return Verdict(action, (reason,), sha256, fingerprint, version, source)
