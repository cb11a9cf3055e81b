"""Animations: the purple is in some of the frames only, or in a part of what they draw."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product

from PIL import Image

from tests.media.samples.tools import HARMLESS, SIZE, Make, made_by, scene, scenes
from tests.pictures import Color, encoded

_LOSSLESS: dict[str, dict[str, object]] = {"WEBP": {"lossless": True}, "AVIF": {"speed": 10}}


def animated(images: Sequence[Image.Image], kind: str, **options: object) -> bytes:
    """An animation of these frames, 100 ms each unless told otherwise."""
    first, *rest = images
    options = {"duration": 100, "loop": 0, **_LOSSLESS.get(kind, {}), **options}
    return encoded(first, kind, save_all=True, append_images=rest, **options)


def in_frames(color: Color, kind: str, count: int, hits: Iterable[int]) -> bytes:
    """In frames with these numbers, from 0."""
    return animated(scenes(count, hits, color), kind)


def for_a_moment(color: Color, kind: str) -> bytes:
    """In one of 200 frames, for 20 ms."""
    durations = [100] * 200
    durations[123] = 20
    return animated(scenes(200, {123}, color), kind, duration=durations)


def gradually(color: Color, kind: str) -> bytes:
    """Brought in over 20 frames, each hardly unlike the one before."""
    start, end = scene(), scene(color)
    return animated([Image.blend(start, end, n / 19) for n in range(20)], kind)


def disposed(color: Color, disposal: int) -> bytes:
    """In frame 3 of 6, where each is a picture put on what this disposal leaves of the last."""
    return animated(scenes(6, {2}, color), "GIF", disposal=disposal)


def pieced(color: Color) -> bytes:
    """In no frame alone: each adds a stripe to what is there."""
    width, height = SIZE
    images = [scene()]
    for left in range(0, width, width // 8):
        image = images[-1].copy()
        image.paste(color, (left, 0, left + width // 8, height))
        images.append(image)
    return animated(images, "GIF", disposal=1, optimize=False)


def cleared_at_last(color: Color, kind: str) -> bytes:
    """In all frames, which look the same, each taken off the canvas once it was shown."""
    images = [scene(color).convert("RGBA") for _ in range(3)]
    for number, image in enumerate(images):
        image.putpixel((number, 0), (0, 0, 0, 0))
    return with_disposal(images, kind, "clear")


def shown_at_last(color: Color, kind: str, leaves: str) -> bytes:
    """In the last frame alone, which is taken off the canvas again: cleared, or as it was."""
    images = [scene(HARMLESS).convert("RGBA"), scene(color).convert("RGBA")]
    for image in images:
        image.putpixel((0, 0), (0, 0, 0, 0))
    return with_disposal(images, kind, leaves)


def with_disposal(images: Sequence[Image.Image], kind: str, leaves: str) -> bytes:
    """An animation whose frames leave this: `clear` or `restore`."""
    if kind == "WEBP":
        body = bytearray(animated(images, kind, minimize_size=False))
        at = body.find(b"ANMF")
        while at >= 0:
            body[at + 8 + 15] |= 1  # cleared; there is no other
            at = body.find(b"ANMF", at + 4)
        return bytes(body)
    number = {"GIF": {"clear": 2, "restore": 3}, "PNG": {"clear": 1, "restore": 2}}[kind][leaves]
    return animated(images, kind, disposal=number)


def jxl_of(color: Color, hits: Iterable[int]) -> bytes:
    """Of JPEG XL, made of an APNG."""
    body = animated(scenes(12, hits, color), "PNG")
    return made_by("cjxl", "a.apng", "a.jxl", "--quiet", "-e", "3", out="a.jxl", a_apng=body)


_KINDS = {"gif": "GIF", "apng": "PNG", "webp": "WEBP", "avif": "AVIF"}

PAIRS: dict[str, Make] = {
    **{
        f"frame-7-of-30.{end}": partial(in_frames, kind=kind, count=30, hits={6})
        for end, kind in _KINDS.items()
    },
    **{
        f"last-of-30.{end}": partial(in_frames, kind=kind, count=30, hits={29})
        for end, kind in _KINDS.items()
    },
    **{
        f"last-of-two.{end}": partial(in_frames, kind=kind, count=2, hits={1})
        for end, kind in _KINDS.items()
    },
    **{f"20-ms-of-200.{end}": partial(for_a_moment, kind=kind) for end, kind in _KINDS.items()},
    **{f"gradually.{end}": partial(gradually, kind=kind) for end, kind in _KINDS.items()},
    **{f"disposal-{n}.gif": partial(disposed, disposal=n) for n in (1, 2, 3)},
    "in-pieces.gif": pieced,
    **{
        f"cleared-at-last.{end}": partial(cleared_at_last, kind=_KINDS[end])
        for end in ("gif", "apng", "webp")
    },
    **{
        f"{leaves}-after-last.{end}": partial(shown_at_last, kind=_KINDS[end], leaves=leaves)
        for end, leaves in product(("gif", "apng"), ("clear", "restore"))
    },
    "clear-after-last.webp": partial(shown_at_last, kind="WEBP", leaves="clear"),
    "frame-7-of-12.jxl": partial(jxl_of, hits={6}),
    "last-of-12.jxl": partial(jxl_of, hits={11}),
}
