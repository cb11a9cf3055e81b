"""The evidence store as a scan uses it: it never fails one, and never holds one up for long."""

import asyncio
import time
from collections import deque
from typing import Final

from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence
from safety_proxy.logs import get_logger
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Verdict

_logger = get_logger(__name__)

# A read takes less than a millisecond; beyond this the scan itself is the better way.
_PATIENCE_SECONDS: Final = 0.25

# After a failure nobody asks for so long: each would wait as well.
_PAUSE_SECONDS: Final = 5.0

# Writes that wait; what comes while there are more is not kept.
_MOST_WAITING: Final = 256


class Recall:
    """Looks up what is known of a picture, and keeps what a scan has found out about it.

    One write at a time is handed to the store: where its file is locked each of them waits a
    second, and all that others ask of the database waits behind it, a stop too.
    """

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store
        self._waiting: deque[tuple[Verdict, Evidence | None]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._silent_until = 0.0

    async def get(self, sha256: str, model: str) -> Evidence | None:
        """What is known of these bytes under this model; None also where that cannot be read."""
        if self._is_silent:
            return None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._store.get(sha256, model)
        except (StoreUnavailable, TimeoutError) as error:
            self._fell_silent(error)
            return None

    def seen(self, sha256: str, model: str) -> None:
        """Somebody asked for a picture whose verdict was at hand; it is not forgotten for that."""
        self._store.seen(sha256, model)

    def keep(self, verdict: Verdict, evidence: Evidence | None = None) -> None:
        """Writes both down in a while, the evidence where it is new."""
        if self._is_silent or len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting.append((verdict, evidence))
        if self._writing is None or self._writing.done():
            self._writing = spawn(self._write(), name="keep evidence")

    async def _write(self) -> None:
        while self._waiting:
            verdict, evidence = self._waiting.popleft()
            try:
                if evidence is not None:
                    await self._store.put(evidence)
                await self._store.record(verdict)
            except StoreUnavailable as error:
                self._waiting.clear()
                self._fell_silent(error)

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() < self._silent_until

    def _fell_silent(self, error: Exception) -> None:
        self._silent_until = time.monotonic() + _PAUSE_SECONDS
        detail = str(error) or "no answer in time"
        _logger.warning("pictures are scanned without what is known of them", detail=detail)

    async def aclose(self) -> None:
        """Returns when all that was to be kept is written, or cannot be."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
