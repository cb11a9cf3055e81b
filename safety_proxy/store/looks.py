"""What a file looks like, for the while until pict-rs shows it to its validator.

pict-rs strips metadata from a file, and so shows its validator other bytes than those that were
uploaded: another digest, the same decoded picture. What is known of the first holds for what has
equal crops, pixel by pixel, and never for what merely looks alike. So an allow of exact bytes, too,
covers what pict-rs makes of them, and nothing else.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

# pict-rs asks within the request that brings the file; the rest is room for its queue.
_SECONDS: Final = 600.0

_MAX_ENTRIES: Final = 10_000


class Looks:
    """Digest of crops -> digest of the bytes that they were made of, for some minutes.

    Whether those bytes are still allowed, or still known, the caller asks anew.
    generation: another when there is something new to be found.
    """

    def __init__(
        self, *, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self.generation = 0
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, shown: str, sha256: str) -> None:
        """The bytes `sha256` have just been decoded to the crops `shown`."""
        if self.origin(shown) != sha256:
            self.generation += 1
        self._known[shown] = (sha256, self._clock() + self._seconds)
        self._known.move_to_end(shown)
        while len(self._known) > _MAX_ENTRIES:
            self._known.popitem(last=False)

    def origin(self, shown: str) -> str | None:
        """The sha256 of the latest bytes that gave exactly these crops a while ago."""
        known = self._known.get(shown)
        if known is None:
            return None
        sha256, until = known
        if until < self._clock():
            del self._known[shown]
            return None
        return sha256
