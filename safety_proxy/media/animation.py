"""An animation -> the frames that are judged: composed as a browser does, one at a time.

A format's own module finds the cels: the images in the file, where each goes on the canvas, what it
does to what is there, and how long it is shown. Here they are decoded one by one and put together.
Of the frames that come out, `Selection` keeps the crops of those that are judged; no more than one
canvas is in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from itertools import chain
from math import sqrt
from typing import Final

from PIL import Image

from safety_proxy.crops import CropSpec
from safety_proxy.errors import UndecodableImage
from safety_proxy.media.bounds import (
    Bounds,
    Code,
    Frame,
    check_frame,
    check_total,
    joined,
    undecodable,
)
from safety_proxy.media.canvas import Canvas, Place
from safety_proxy.media.likeness import Thumb, full_thumb_of, has_hidden_colors
from safety_proxy.media.selection import Selection
from safety_proxy.media.stills import Picture, frames_of

# Browsers show frames of 10 ms and less for 100 ms, since animations from the slow days rely on it:
# Blink's BitmapImage, Gecko's FrameTimeout, WebKit's ImageFrameAnimator.
_TOO_SHORT_SECONDS: Final = 0.0105
_USUAL_SECONDS: Final = 0.1

# What the tiniest frame costs all the same: `limits.max_total_pixels` allows 15,000 of them unless
# it is changed.
_LEAST_PIXELS: Final = 100_000

# Crops of one animation, whatever `Bounds.frames` allows: 80 MB of them.
_MOST_CROPS: Final = 480

# Until it is known which frames are judged, those that may be are kept at so many times the crop's
# side. Crops of ones that go again would cost most of the time.
_SPARE: Final = 2
_MOST_KEPT_PIXELS: Final = 500_000


class Dispose(Enum):
    """What becomes of a cel's place before the next one comes."""

    KEEP = auto()
    CLEAR = auto()
    RESTORE = auto()  # as it was before the cel


@dataclass(frozen=True, slots=True)
class Cel:
    """An image of an animation, not yet decoded.

    at: left, top on the canvas. size: width, height.
    blends: put over what is there; else it replaces that, transparency and all.
    decode: gives an image of that size, or raises what the decoder raises.
    """

    at: tuple[int, int]
    size: tuple[int, int]
    seconds: float
    blends: bool
    dispose: Dispose
    decode: Callable[[], Image.Image]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A frame that may be judged, and where it is."""

    picture: Picture
    where: str


def shown_seconds(seconds: float) -> float:
    """How long browsers show a frame that asks for this long."""
    return _USUAL_SECONDS if seconds <= _TOO_SHORT_SECONDS else seconds


def check_animation(size: tuple[int, int], count: int, bounds: Bounds) -> None:
    """Raises UndecodableImage if so many frames of this size are too large, one or all of them."""
    check_frame(*size, bounds)
    check_total(max(_LEAST_PIXELS, size[0] * size[1]) * count, bounds)


@dataclass(frozen=True, slots=True)
class Weights:
    """How many pixels of the bound on all frames what is in a file counts as: one is 3 ns.

    pixel: of a frame. clear_pixel: of one that may be transparent. byte: of encoded data.
    """

    pixel: int
    clear_pixel: int
    byte: int


@dataclass(slots=True)
class Load:
    """What the frames that have been found so far will cost."""

    weights: Weights
    bounds: Bounds
    pixels: int = 0

    def add(self, size: tuple[int, int], *, may_be_clear: bool) -> None:
        """One more frame on a canvas of this size. Raises UndecodableImage if it is too much."""
        check_frame(*size, self.bounds)
        weight = self.weights.clear_pixel if may_be_clear else self.weights.pixel
        self.pixels += max(_LEAST_PIXELS, size[0] * size[1] * weight)
        check_total(self.pixels, self.bounds)

    def add_bytes(self, count: int) -> None:
        """So much more data of a frame. Raises UndecodableImage if it is too much."""
        self.pixels += count * self.weights.byte
        check_total(self.pixels, self.bounds)


def frames_of_cels(
    size: tuple[int, int],
    cels: Sequence[Cel],
    spec: CropSpec,
    bounds: Bounds,
    *,
    show: Callable[[Image.Image], Picture] = Picture,
    where: str = "",
    few: bool = False,
) -> list[Frame]:
    """The frames of an animation that are judged; those of a still, if it has but one.

    size: of the canvas. show: what the file says of colors and orientation, said of a frame.
    Raises UndecodableImage if the first cel cannot be decoded, or the whole is too large. Where a
    later one cannot, the animation ends there, as in a browser.
    """
    check_animation(size, len(cels), bounds)
    for cel in cels:
        check_frame(*cel.size, bounds)
    drawn = ((show(image), seconds) for image, seconds in _draw(size, cels))
    return judged(drawn, spec, bounds, where=where, few=few)


def judged(
    pictures: Iterator[tuple[Picture, float]],
    spec: CropSpec,
    bounds: Bounds,
    *,
    where: str,
    few: bool,
) -> list[Frame]:
    """Those frames that are judged of all that come by, each with the seconds that it is shown.

    A picture stays as it is until the next one comes, and the last one for good.
    """
    selection: Selection[list[_Taken]] | None = None
    shown = 0.0
    picture: Picture | None = None
    for count, (picture, seconds) in enumerate(pictures, 1):
        name = joined(where, f"frame {count} at {shown:.2f} s")
        # By its end: what is shown for long is due even if it begins a moment early.
        shown += shown_seconds(seconds)
        thumb = full_thumb_of(picture.image)
        if selection is None:
            crops = sum(1 for _ in frames_of(picture, spec, few=True))
            most = max(2, min(bounds.frames, _MOST_CROPS // crops))
            selection = Selection(most, bounds.gap_seconds, bounds.salt)
        selection.offer(shown, thumb, partial(_take, picture, thumb, spec, name))
    if selection is None or picture is None:
        raise undecodable(Code.DAMAGED, "an animation without a frame that can be decoded")
    chosen = selection.chosen()
    if len(chosen) == 1:  # a still after all, and looked at as closely
        return list(frames_of(picture, spec, where=where, few=few))
    frames: list[Frame] = []
    for taken in chain.from_iterable(chosen):
        frames += frames_of(taken.picture, spec, where=taken.where, few=True)
        if len(frames) > 2 * _MOST_CROPS:
            raise undecodable(Code.TOO_LARGE, f"an animation that takes over {len(frames)} crops")
    return frames


def _take(picture: Picture, thumb: Thumb, spec: CropSpec, where: str) -> list[_Taken]:
    """A copy of the frame, no larger than crops need it.

    A smaller one keeps no colors under full transparency; those that would be missed come as one
    more picture.
    """
    image = picture.image
    size = _spared(image.size, spec)
    if size == image.size:
        return [_Taken(replace(picture, image=image.copy()), where)]
    pictures = [_Taken(replace(picture, image=_resized(image, size)), where)]
    if has_hidden_colors(thumb):
        opaque = _resized(image.convert("RGB"), size)
        name = joined(where, "without transparency")
        pictures.append(_Taken(replace(picture, image=opaque), name))
    return pictures


def _spared(size: tuple[int, int], spec: CropSpec) -> tuple[int, int]:
    """Width and height at which a frame is kept: twice the crop's side, if it is as large."""
    width, height = size
    scale = min(1, _SPARE * max(spec.width, spec.height) / min(size))
    scale = min(scale, sqrt(_MOST_KEPT_PIXELS / (width * height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.HAMMING, reducing_gap=1.5)


def _draw(size: tuple[int, int], cels: Sequence[Cel]) -> Iterator[tuple[Image.Image, float]]:
    """What is on the canvas after each cel, RGB or RGBA, and for how many seconds.

    The last frame stays on it: a cel is taken off only once the one after it is decoded.
    """
    canvas = Canvas(size)
    take_off: Callable[[], None] | None = None
    for number, cel in enumerate(cels):
        place = canvas.place(cel.at, cel.size)
        image = None
        if place is not None:
            image = _decoded(cel, is_first=number == 0)
            if image is None:
                return
        if take_off is not None:
            take_off()
        take_off = _taking_off(canvas, place, cel.dispose)
        if image is not None and place is not None:
            canvas.put(image, place, blends=cel.blends)
        yield canvas.image, cel.seconds


def _taking_off(canvas: Canvas, place: Place | None, dispose: Dispose) -> Callable[[], None] | None:
    """What is to be done after a cel has been shown that is about to be put there."""
    if place is None or dispose is Dispose.KEEP:
        return None
    if dispose is Dispose.CLEAR:
        return partial(canvas.clear, place)
    return partial(canvas.restore, canvas.keep(place))


def _decoded(cel: Cel, *, is_first: bool) -> Image.Image | None:
    """None where an animation breaks off."""
    try:
        return cel.decode()
    except Exception as error:
        if not is_first:
            return None
        if isinstance(error, UndecodableImage):
            raise
        message = f"decoder failed: {type(error).__name__}: {error}"
        raise undecodable(Code.DAMAGED, message) from error
