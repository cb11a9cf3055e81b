"""The evidence store as a scan uses it: it never fails one, and never holds one up for long."""

import asyncio
import time
from contextlib import suppress
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
    """Looks up what is known of a picture, and keeps what a scan has found out about it."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store
        self._writing: set[asyncio.Task[None]] = set()
        self._silent_until = 0.0

    async def get(self, sha256: str, model: str) -> Evidence | None:
        """What is known of these bytes under this model; None also where that cannot be read."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._store.get(sha256, model)
        except (StoreUnavailable, TimeoutError) as error:
            self._fell_silent(error)
            return None

    def keep(self, verdict: Verdict, evidence: Evidence | None = None) -> None:
        """Writes both down in a while, the evidence where it is new."""
        if time.monotonic() < self._silent_until or len(self._writing) >= _MOST_WAITING:
            return
        task = spawn(self._write(verdict, evidence), name="keep evidence")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, verdict: Verdict, evidence: Evidence | None) -> None:
        try:
            if evidence is not None:
                await self._store.put(evidence)
            await self._store.record(verdict)
        except StoreUnavailable as error:
            self._fell_silent(error)

    def _fell_silent(self, error: Exception) -> None:
        self._silent_until = time.monotonic() + _PAUSE_SECONDS
        detail = str(error) or "no answer in time"
        _logger.warning("pictures are scanned without what is known of them", detail=detail)

    async def aclose(self) -> None:
        """Returns when all that was to be kept is written."""
        while self._writing:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(self._writing)
