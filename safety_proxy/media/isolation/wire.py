"""What the proxy and a decoder process say to each other: one message each way a picture.

    proxy -> decoder   {"size_bytes": ..., "spec": {...}, "bounds": {...}}   and two descriptors:
                       the picture (read-only) and the memory for its crops
    decoder -> proxy   {"frames": [["where", "PDQ hashes, if any"], ...]}
                       the crops lie in that memory in this order
                       or {"undecodable": "why", "code": "..."}

A decoder that a file has taken over may answer anything. So nothing but JSON is read of it, of
bounded length and of exactly this form; the shape of the crops is known beforehand and never told.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.evidence import Pdq
from safety_proxy.media.bounds import Bounds, Frame

# Crops of one file: `limits.max_frames` can be set to a quarter, and a frame may take several.
MOST_FRAMES: Final = 1024

# Below what a Unix socket takes as one message.
MOST_BYTES: Final = 128 * 1024

# Of a text that a decoder sends, the rest is cut.
_MOST_WHERE: Final = 100
_MOST_WHY: Final = 300
_CODE: Final = re.compile(r"[a-z0-9-]{1,40}")

# Frames of one file of which hashes are told: later ones of an animation look like earlier ones.
_MOST_HASHED: Final = 32
_PDQ: Final = re.compile(r"([0-9a-f]{64})([0-5][0-9a-f]|6[0-4])")
_PDQS: Final = re.compile(rf"({_PDQ.pattern}){{,8}}")

# Of a frame: `where` and `pdq`.
Told = tuple[str, tuple[Pdq, ...]]

# What a decoder says when it waits for its first picture.
READY: Final = b"ready"


class Garbled(ValueError):
    """Not what a decoder answers."""


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to be decoded; its bytes come as a descriptor."""

    size_bytes: int
    spec: CropSpec
    bounds: Bounds

    def pack(self) -> bytes:
        return _pack(asdict(self))

    @classmethod
    def unpack(cls, message: bytes) -> "Request":
        fields: dict[str, Any] = json.loads(message)
        return cls(fields["size_bytes"], CropSpec(**fields["spec"]), Bounds(**fields["bounds"]))


def crop_bytes(spec: CropSpec) -> int:
    """Size of one crop, 8 bit RGB."""
    return spec.height * spec.width * 3


def pack_frames(frames: Sequence[Frame]) -> bytes:
    """The answer of a decoder that has left the crops of these frames."""
    room = iter(range(_MOST_HASHED))
    return _pack(
        {
            "frames": [
                [
                    _plain(frame.where, _MOST_WHERE),
                    "".join(map(_hex, frame.pdq))
                    if frame.pdq and next(room, None) is not None
                    else "",
                ]
                for frame in frames
            ]
        }
    )


def pack_undecodable(error: UndecodableImage) -> bytes:
    """The answer of a decoder that could not read the picture."""
    return _pack({"undecodable": _plain(str(error), _MOST_WHY), "code": error.code})


def unpack_answer(message: bytes) -> list[Told]:
    """What is told of each frame, 1 to MOST_FRAMES of them.

    Raises UndecodableImage if that is the answer, Garbled if it is none.
    """
    if len(message) > MOST_BYTES:
        raise Garbled("too long")
    try:
        answer = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Garbled("no JSON") from error
    match answer:
        case {"undecodable": str(why), "code": str(code), **rest} if not rest:
            if _CODE.fullmatch(code):
                undecodable = UndecodableImage(_plain(why, _MOST_WHY))
                undecodable.code = code
                raise undecodable
        case {"frames": [_, *_] as frames, **rest} if not rest and len(frames) <= MOST_FRAMES:
            return [_unpack_frame(frame) for frame in frames]
    raise Garbled("another form")


def _unpack_frame(frame: object) -> Told:
    match frame:
        case [str(where), str(text)] if _PDQS.fullmatch(text):
            hashes = _PDQ.findall(text)
            return _plain(where, _MOST_WHERE), tuple(
                Pdq(bytes.fromhex(bits), int(quality, 16)) for bits, quality in hashes
            )
    raise Garbled("a frame of another form")


def _hex(pdq: Pdq) -> str:
    return pdq.bits.hex() + f"{pdq.quality:02x}"


def is_answer(message: bytes) -> bool:
    """Whether `unpack_answer` can make something of it."""
    try:
        unpack_answer(message)
    except Garbled:
        return False
    except UndecodableImage:
        pass
    return True


def _pack(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _plain(text: str, most: int) -> str:
    """One line of what can be printed: texts of decoders go to logs, and hold what files say."""
    return "".join(it if it.isprintable() else " " for it in text[:most])
