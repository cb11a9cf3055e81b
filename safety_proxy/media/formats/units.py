"""The units that a frame of H.264 or H.265 is stored in: whether other frames rest on it.

Asked to say beforehand what decoding will cost. The decoder finds out for itself, and what it does
is what counts.
"""

from collections.abc import Callable, Iterator
from typing import Final


def _of_h264(head: int) -> bool | None:
    kind, importance = head & 31, head >> 5 & 3
    return importance > 0 if 1 <= kind <= 5 else None  # noqa: PLR2004 -- slices of a frame


def _of_h265(head: int) -> bool | None:
    kind = head >> 1 & 63
    if kind >= 32:  # noqa: PLR2004 -- no slice of a frame
        return None
    return kind > 14 or kind % 2 == 1  # noqa: PLR2004 -- where even kinds are of such frames


# What the first byte of a unit says: whether others rest on its frame, None if it is of no frame.
# The number: where in a track's description stands how many bytes the length of a unit takes.
_CODECS: Final[dict[str, tuple[int, Callable[[int], bool | None]]]] = {
    "h264": (4, _of_h264),
    "hevc": (21, _of_h265),
}

# The codecs whose decoders can be told to leave out frames on which no other rests.
LAYERED: Final = frozenset(_CODECS)


def others_rest_on(packet: memoryview, codec: str, description: bytes) -> bool:
    """Whether other frames rest on the one in a packet; true where that cannot be told.

    codec: FFmpeg's name of it. description: of the track, as MP4 and Matroska have it.
    """
    if codec not in _CODECS:
        return True
    length_at, says = _CODECS[codec]
    if len(description) <= length_at:
        return True
    length_bytes = (description[length_at] & 3) + 1
    answers = (says(head) for head in _heads(packet, length_bytes))
    return next((answer for answer in answers if answer is not None), True)


def _heads(packet: memoryview, length_bytes: int) -> Iterator[int]:
    """The first byte of each unit."""
    at = 0
    while at + length_bytes < len(packet):
        length = int.from_bytes(packet[at : at + length_bytes], "big")
        yield packet[at + length_bytes]
        at += length_bytes + length
