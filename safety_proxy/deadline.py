"""How long a request may take: what the client said, and what its kind is allowed."""

import time
from typing import NamedTuple, Self

from safety_proxy.errors import DeadlineExceeded, MalformedRequest

# The point in time after which the client does not wait any more, in nanoseconds since the epoch.
# Source: pict-rs 0.5.25 `src/middleware/deadline.rs`.
HEADER = "X-Request-Deadline"

# Of a point in time within this millennium and a few more.
_MOST_DIGITS = 20


class Deadline(NamedTuple):
    """A point in time on the clock of `time.monotonic`, which is that of asyncio's loop as well."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """So many seconds from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_request(cls, header: str | None, allowed_seconds: float) -> Self:
        """The earlier of what the header says and what is allowed.

        Raises MalformedRequest if the header cannot be read, DeadlineExceeded if it is past.
        """
        seconds = allowed_seconds
        if header is not None:
            if not (header.isascii() and header.isdecimal() and len(header) <= _MOST_DIGITS):
                raise MalformedRequest("Failed to parse request deadline", code="parse-deadline")
            seconds = min(seconds, int(header) / 1e9 - time.time())
        if seconds <= 0:
            raise DeadlineExceeded("Deadline exceeded")  # pict-rs' own words
        return cls.after(seconds)

    def within(self, seconds: float) -> Self:
        """The earlier of this and so many seconds from now."""
        return type(self)(min(self.at, time.monotonic() + seconds))

    def before(self, seconds: float) -> Self:
        """So many seconds earlier: what must be left for what comes after."""
        return type(self)(self.at - seconds)

    @property
    def left(self) -> float:
        """Seconds until then; negative when it is past."""
        return self.at - time.monotonic()

    def as_header(self) -> str:
        """The value of HEADER for the next server."""
        return str(int((time.time() + self.left) * 1e9))
