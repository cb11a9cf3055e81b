"""How fast scans end, measured while they run."""

import math
import time

# Time after which what was measured counts a third: long against one batch, short against a change
# of load. Bursts of equal ends, as batches bring them, even out within it.
_MEMORY_SECONDS = 10.0

# Of a model that has not ended a scan for long: clients are told to come again in a while.
_MOST_SECONDS = 600.0


class Pace:
    """Seconds of work a scan costs when others run beside it.

    Counted are the seconds in which any scan ran, and the scans that ended in them; both fade, so
    that their ratio is that of the latest seconds of work.
    """

    def __init__(self) -> None:
        self.running = 0
        self._since = 0.0
        self._busy_seconds = 0.0
        self._ended = 0.0
        self._known = False

    def begin(self) -> None:
        """A scan begins."""
        self._pass_time()
        self.running += 1

    def end(self, *, reached: bool) -> None:
        """A scan ends. `reached`: it came to a verdict, and was not given up."""
        self._pass_time()
        self.running -= 1
        self._ended += reached
        self._known |= reached

    def expected_seconds(self) -> float:
        """Until a scan that begins now ends; 0 while nothing is known or nothing runs.

        A scan that runs alone is always worth the attempt: it is how a model that hung is found to
        work again.
        """
        if not self.running or not self._known:
            return 0.0
        if not self._ended:
            return _MOST_SECONDS
        return min(_MOST_SECONDS, (self.running + 1) * self._busy_seconds / self._ended)

    def _pass_time(self) -> None:
        now = time.monotonic()
        if self.running:
            elapsed = now - self._since
            fading = math.exp(-elapsed / _MEMORY_SECONDS)
            self._busy_seconds = self._busy_seconds * fading + elapsed
            self._ended *= fading
        self._since = now
