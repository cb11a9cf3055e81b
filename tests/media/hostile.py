"""Files that ask for too much, claim what they do not hold, or are cut and changed at random."""

import random
from collections.abc import Callable, Iterator
from functools import cache

from tests.media.samples import bad_stills, bad_videos
from tests.media.samples.animations import animated
from tests.media.samples.boxes import film
from tests.media.samples.tools import scene, scenes
from tests.pictures import encoded

FILES: dict[str, Callable[[], bytes]] = {**bad_stills.FILES, **bad_videos.FILES}

CUTS = 20
MUTATIONS = 20


@cache
def good_files() -> dict[str, bytes]:
    """A small file of each kind, to be damaged; made without other programs."""
    return {
        "a.png": encoded(scene()),
        "a.apng": animated(scenes(4), "PNG"),
        "a.jpg": encoded(scene(), "JPEG"),
        "progressive.jpg": encoded(scene(), "JPEG", progressive=True),
        "two.jpg": encoded(scene(), "MPO", save_all=True, append_images=[scene(step=9)]),
        "a.gif": animated(scenes(4), "GIF"),
        "a.webp": encoded(scene(), "WEBP"),
        "animated.webp": animated(scenes(4), "WEBP"),
        "a.avif": encoded(scene(), "AVIF", speed=10),
        "animated.avif": animated(scenes(4), "AVIF"),
        "a.jxl": encoded(scene(), "JXL"),
        "a.mp4": film(scenes(10)),
        "vp8.webm": bad_videos.webm(),
        "vp9.webm": film(scenes(10), "libvpx-vp9", "webm", speed="8"),
        "av1.mp4": film(scenes(10), "libsvtav1", preset="10"),
    }


def cut(body: bytes) -> Iterator[bytes]:
    """The file, ending early at `CUTS` places."""
    for part in range(CUTS):
        yield body[: len(body) * part // CUTS]


def mutated(body: bytes, seed: str) -> Iterator[bytes]:
    """The file with bits changed, stretches copied, removed or overwritten, the same each time."""
    chance = random.Random(seed)
    for _ in range(MUTATIONS):
        changed = bytearray(body)
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            # Half of the changes are near the start, where headers are.
            end = len(changed) if chance.random() < 0.5 else min(400, len(changed))
            _change(changed, chance.randrange(end), chance)
            if len(changed) < 16:
                break
        yield bytes(changed)


def _change(body: bytearray, place: int, chance: random.Random) -> None:
    match chance.randrange(5):
        case 0:
            body[place] ^= 1 << chance.randrange(8)
        case 1:
            body[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 2:
            body[place : place + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        case 3:
            del body[place : place + chance.randrange(1, 40)]
        case _:
            body[place:place] = body[place : place + chance.randrange(1, 400)]


def noise(body: bytes, seed: str) -> Iterator[bytes]:
    """Random bytes behind the first of a file."""
    chance = random.Random(seed)
    for length in (4, 8, 12, 16, 32):
        yield body[:length] + chance.randbytes(4000)
