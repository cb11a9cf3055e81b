"""The canvas of an animation: images are put on it, and taken off again, as a browser does.

It is kept as cheaply as it can be: RGB as long as all of it is opaque, which most animations are
throughout. Colors under full transparency, which no browser shows, stay as the file has them:
pict-rs shows them where it makes a JPEG or a video of it.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import Image

from safety_proxy.media.color import simple

Place: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

_EMPTY: Final = (0, 0, 0, 0)

# Bits of alpha that are all or nothing leave the canvas either as it was or as the image is.
_IS_ZERO: Final = [255] + [0] * 255


@dataclass(frozen=True, slots=True)
class Kept:
    """What was at a place, before something was put there."""

    image: Image.Image
    place: Place


class Canvas:
    """A canvas of this width and height, transparent at first.

    image: RGB or RGBA. It changes as long as more is put on it.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = Image.new("RGBA", size)

    def place(self, at: tuple[int, int], size: tuple[int, int]) -> Place | None:
        """Where an image of this size is seen whose corner is there; None if nowhere."""
        left, top = at
        right, bottom = min(left + size[0], self.image.width), min(top + size[1], self.image.height)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def put(self, image: Image.Image, place: Place, *, blends: bool) -> None:
        """Puts an image of any mode there, what reaches over the place cut off.

        blends: over what is there; else it replaces that, transparency and all.
        """
        image = simple(image)
        size = (place[2] - place[0], place[3] - place[1])
        if image.size != size:
            image = image.crop((0, 0, *size))
        if image.mode not in {"RGB", "RGBA"}:
            image = image.convert("RGBA" if image.mode == "LA" else "RGB")
        if image.mode == "RGBA" and blends:
            self._blend(image, place)
        else:
            self._replace(image, place)

    def clear(self, place: Place) -> None:
        """Makes it transparent there."""
        if self._is_all(place):
            self.image = Image.new("RGBA", self.image.size)
            return
        self._give_alpha()
        self.image.paste(_EMPTY, place)

    def keep(self, place: Place) -> Kept:
        """A copy of what is there."""
        return Kept(self.image.crop(place), place)

    def restore(self, kept: Kept) -> None:
        """Puts it back."""
        self._replace(kept.image, kept.place)

    def _replace(self, image: Image.Image, place: Place) -> None:
        if self._is_all(place):
            self.image = image
            return
        if image.mode == "RGBA":
            self._give_alpha()
        self.image.paste(image, place)

    def _blend(self, image: Image.Image, place: Place) -> None:
        if self.image.mode == "RGB":
            self.image.paste(image, place, image)
            return
        below = self.image.crop(place)
        empty = below.getchannel("A").point(_IS_ZERO)
        if empty.getextrema() == (255, 255):
            self._replace(image, place)
            return
        if _is_all_or_nothing(image):
            below.paste(image, mask=image)
        else:
            below.alpha_composite(image)
        below.paste(image, mask=empty)
        self._replace(below, place)

    def _is_all(self, place: Place) -> bool:
        return place == (0, 0, *self.image.size)

    def _give_alpha(self) -> None:
        if self.image.mode == "RGB":
            self.image = self.image.convert("RGBA")


def _is_all_or_nothing(image: Image.Image) -> bool:
    """Whether each pixel is either opaque or not there, as in a GIF."""
    counts = image.getchannel("A").histogram()
    return counts[0] + counts[255] == image.width * image.height
