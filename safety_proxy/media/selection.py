"""Which frames of a video are judged, chosen while they come by.

Half of the places go to the clock: a frame in every so many seconds, so that what is shown for
long is judged whatever else happens. The others go to the frames that differ most: of any frame
that is offered, one is kept that looks nearly like it. When more different frames come than there
are places, both meshes widen; so neither the length of the video nor the number of its frames need
be known before, and headers need not be believed.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np

from safety_proxy.media.likeness import EQUAL, Thumb, distances

T = TypeVar("T")

# How unlike two frames are of which both are kept while there is room.
_DIFFERENT: Final = 2 * EQUAL

# How much the mesh widens at a time. The smaller, the more frames are taken that go again.
_WIDER: Final = 1.2


@dataclass(slots=True)
class _Kept(Generic[T]):
    """A frame that has a place; `timed`: one of the clock's."""

    picture: T
    thumb: Thumb
    timed: bool


class Selection(Generic[T]):
    """Up to `most` (at least 2) of the frames that are offered, the first and the last among them.

    gap_seconds: most between two frames of the clock, while there are places; how much less it is
    each time depends on `salt` alone.
    A frame that looks like one already kept takes no place, be it the last.
    """

    def __init__(self, most: int, gap_seconds: float, salt: str) -> None:
        self._places = most - 1  # one is the last frame's
        self._gap_seconds = gap_seconds
        self._random = random.Random(salt)  # noqa: S311 -- unpredictable to who lacks the salt
        self._apart = _DIFFERENT
        self._due = -math.inf
        self._kept: list[_Kept[T]] = []
        self._thumbs: Thumb | None = None  # of all that are kept, stacked, until that changes
        self._last: Callable[[], T] | None = None

    def offer(self, seconds: float, thumb: Thumb, take: Callable[[], T]) -> None:
        """The next frame in order; `take` makes of it what is kept: now, later, or never.

        thumb: of one shape for all frames of a selection.
        """
        timed = seconds >= self._due
        if timed:
            self._due = seconds + self._gap_seconds * self._random.uniform(0.5, 1)
        nearest, distance = self._nearest(thumb)
        self._last = None
        if nearest is not None and distance <= EQUAL:
            nearest.timed |= timed
            self._make_room()
        elif timed or distance > self._apart:
            one = _Kept(take(), thumb, timed)
            self._keep([*self._kept, one])
            self._make_room()
            if one is not self._kept[-1]:  # it may be the last
                self._last = lambda: one.picture
        else:
            self._last = take

    def chosen(self) -> list[T]:
        """What was taken of the frames, in order; called once, after the last was offered."""
        pictures = [kept.picture for kept in self._kept]
        return pictures if self._last is None else [*pictures, self._last()]

    def _nearest(self, thumb: Thumb) -> tuple[_Kept[T] | None, float]:
        """The one that looks most like this of the frames that are kept, and how unlike it is."""
        if not self._kept:
            return None, math.inf
        newest = self._kept[-1]
        distance = float(distances(newest.thumb[None], thumb)[0])
        if distance <= EQUAL:  # true of most frames of a calm video; the others need not be asked
            return newest, distance
        if self._thumbs is None:
            self._thumbs = np.stack([kept.thumb for kept in self._kept])
        all_distances = distances(self._thumbs, thumb)
        index = int(all_distances.argmin())
        return self._kept[index], float(all_distances[index])

    def _keep(self, kept: list[_Kept[T]]) -> None:
        self._kept = kept
        self._thumbs = None

    def _make_room(self) -> None:
        timed = [kept for kept in self._kept if kept.timed]
        if len(timed) > max(1, self._places // 2):
            self._gap_seconds *= 2
            for kept in timed[1::2]:
                kept.timed = False
        while len(self._kept) > self._places:
            self._apart *= _WIDER
            self._widen()

    def _widen(self) -> None:
        """Lets go of frames that are not `_apart` from the clock's and from those that stay."""
        kept = self._kept
        self._keep([one for one in kept if one.timed])
        stay = []
        for one in kept:
            if one.timed or self._nearest(one.thumb)[1] > self._apart:
                stay.append(one)
                if not one.timed:
                    self._keep([*self._kept, one])
        self._keep(stay)
