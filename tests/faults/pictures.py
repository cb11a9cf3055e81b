"""Pictures of known verdict, any number of them, and the ledger of all that were sent.

Each is a sample of the demo with a few other pixels, so the model has to look at it, and carries
its kind and number in front, so that a file in pict-rs' store says itself what it is.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from io import BytesIO
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safety_proxy.proxy.server import PLACEHOLDER
from tests.e2e.samples import bodies

# Small files keep 10,000 requests short; every sample keeps its verdict at this size, with room.
_SIDE: Final = 96
_CORNER: Final = 3

# Of the clean samples the one that some corners turn into a block at this size; the others keep
# their verdict with a severity of 1 and more to spare.
_NEAR: Final = 10
_MARK: Final = re.compile(rb"tEXtpicture\0(clean|blocked) ([0-9]+);")
_MARK_WITHIN: Final = 100

# One in so many is an animation whose last frame decides.
_ANIMATED: Final = 16


class Kind(StrEnum):
    """What the proxy should make of a body."""

    CLEAN = "clean"
    BLOCKED = "blocked"
    UNREADABLE = "unreadable"


@lru_cache(maxsize=2048)
def picture(kind: Kind, number: int) -> bytes:
    """A body of this kind that no other number has."""
    if kind is Kind.UNREADABLE:
        return _unreadable(number)
    bases = _bases("block") if kind is Kind.BLOCKED else _bases("allow")
    last = _with_corner(bases[number % len(bases)], number)
    info = PngInfo()
    info.add_text("picture", f"{kind} {number};")
    body = BytesIO()
    if number % _ANIMATED == _ANIMATED - 1:
        first = _with_corner(_bases("allow")[0], number)
        first.save(body, "PNG", pnginfo=info, compress_level=1, save_all=True, append_images=[last])
    else:
        last.save(body, "PNG", pnginfo=info, compress_level=1)
    return body.getvalue()


def told(body: bytes) -> tuple[Kind, int] | None:
    """Kind and number of a picture, or of a piece of one that begins where it does."""
    found = _MARK.search(body[:_MARK_WITHIN])
    return (Kind(found[1].decode()), int(found[2])) if found else None


@lru_cache
def _bases(action: str) -> Sequence[Image.Image]:
    pictures = []
    for body in bodies(action):
        with Image.open(BytesIO(body)) as image:
            pictures.append(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    if action == "allow":
        del pictures[_NEAR]
    return pictures


def _with_corner(base: Image.Image, number: int) -> Image.Image:
    noise = random.Random(number).randbytes(3 * _CORNER * _CORNER)
    image = base.copy()
    image.paste(Image.frombytes("RGB", (_CORNER, _CORNER), noise), (0, 0))
    return image


def _unreadable(number: int) -> bytes:
    """Bytes that no viewer shows a picture of, in turn; what is merely cut short is judged."""
    whole = picture(Kind.BLOCKED, number)
    name = f"unreadable {number}"
    match number % 6:
        case 0:
            return whole[:37]  # nothing of its pixels
        case 1:
            return f"<html><body><img src=x>{name}</body></html>".encode()
        case 2:
            return f'<svg xmlns="http://www.w3.org/2000/svg"><text>{name}</text></svg>'.encode()
        case 3:
            return whole[:8] + random.Random(number).randbytes(4000)
        case 4:
            return whole[:16] + bytes(4) + whole[20:]  # it is 0 pixels wide
        case _:
            return b"%PDF-1.7 " + name.encode() * 20


class Ledger:
    """Every body that a client has sent or an origin has served, by its digest.

    What may lie in pict-rs: clean bodies, and the proxy's placeholder. Nothing else.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {
            hashlib.sha256(PLACEHOLDER.read_bytes()).hexdigest(): "placeholder"
        }

    def __len__(self) -> int:
        return len(self._kinds)

    def take(self, kind: Kind, number: int) -> bytes:
        """A body that is about to be sent."""
        body = picture(kind, number)
        self.note(body, kind)
        return body

    def note(self, body: bytes, kind: str) -> str:
        """Its digest; a body that is about to be sent in this form, whole or in part."""
        digest = hashlib.sha256(body).hexdigest()
        self._kinds.setdefault(digest, str(kind))
        return digest

    def kind_of(self, digest: str) -> str:
        """clean, blocked, unreadable, placeholder; `unknown` for what was never sent."""
        return self._kinds.get(digest, "unknown")

    def kind_of_body(self, body: bytes) -> str:
        """The same; and `fragment` for the beginning of a clean picture."""
        kind = self.kind_of(hashlib.sha256(body).hexdigest())
        if kind != "unknown":
            return kind
        mark = told(body)
        if mark is not None:
            whole = picture(*mark)
            return "fragment" if mark[0] is Kind.CLEAN and whole.startswith(body) else "blocked"
        return "fragment" if len(body) < _MARK_WITHIN else "unknown"

    def forbidden(self) -> int:
        """How many different bodies were sent that must not be stored."""
        return sum(kind in {Kind.BLOCKED, Kind.UNREADABLE} for kind in self._kinds.values())
