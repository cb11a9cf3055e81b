"""Make test and sample pictures: one to three emoji at random places on varied backgrounds."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Random = np.random.Generator
Choice = TypeVar("Choice")
PICTURE_SIZE = 256  # of test pictures
MAX_SHARED_AREA = 0.25  # how much of the smaller of two emoji may be covered


def pick(random: Random, options: Sequence[Choice]) -> Choice:
    return options[int(random.integers(len(options)))]


def chance(random: Random, probability: float) -> bool:
    return bool(random.random() < probability)


def random_color(random: Random) -> tuple[int, int, int]:
    """Return a background color; near-white ones are the most common in real pictures."""
    if chance(random, 0.3):
        shade = int(random.integers(225, 256))
        return shade, shade, shade
    red, green, blue = (int(value) for value in random.integers(0, 256, 3))
    return red, green, blue


def plain(random: Random, size: int) -> Image.Image:
    return Image.new("RGB", (size, size), random_color(random))


def gradient(random: Random, size: int) -> Image.Image:
    first, last = (np.array(random_color(random), np.float32) for _ in range(2))
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    share = np.clip(rows * np.sin(angle) + columns * np.cos(angle) + 0.5, 0, 1)[..., None]
    return Image.fromarray((first * (1 - share) + last * share).astype(np.uint8))


def noise(random: Random, size: int) -> Image.Image:
    """Return colored noise of a random grain."""
    grain = pick(random, (4, 8, 16, 32, size))
    center = np.array(random_color(random), np.float32)
    spread = random.uniform(8, 60)
    values = random.normal(0, spread, (grain, grain, 3 if chance(random, 0.5) else 1)) + center
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return image.resize((size, size), Image.Resampling.BICUBIC)


def shapes(random: Random, size: int) -> Image.Image:
    """Return a few stripes, disks, boxes or lines that look like text."""
    image = Image.new("RGB", (size, size), random_color(random))
    pen = ImageDraw.Draw(image)
    kind = int(random.integers(4))
    ink = random_color(random)
    step = int(random.integers(max(3, size // 16), size // 3))
    if kind == 0:
        for top in range(0, size, 2 * step):
            pen.rectangle((0, top, size, top + step), fill=ink)
    elif kind == 1:
        for top in range(size // 16, size, max(4, step // 2)):
            left = size // 16
            while left < size * random.uniform(0.5, 0.95):
                width = int(random.integers(2, max(4, size // 5)))
                pen.rectangle((left, top, left + width, top + max(1, step // 6)), fill=ink)
                left += width + max(2, size // 40)
    else:
        for _ in range(int(random.integers(1, 6))):
            left, top = (int(value) for value in random.integers(-step, size, 2))
            wide, high = (int(value) for value in random.integers(size // 8, size, 2))
            shape = pen.ellipse if kind == 2 else pen.rectangle
            shape((left, top, left + wide, top + high), fill=random_color(random))
    return image.rotate(90) if chance(random, 0.3) else image


def background(random: Random, size: int) -> Image.Image:
    """Return a plain, gradient, noisy or patterned square."""
    draw = random.random()
    if draw < 0.45:
        return plain(random, size)
    if draw < 0.7:
        return gradient(random, size)
    return noise(random, size) if draw < 0.87 else shapes(random, size)


def vary(random: Random, image: Image.Image) -> Image.Image:
    """Mirror a drawing or turn it a little."""
    if chance(random, 0.5):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if chance(random, 0.5):
        image = image.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)
    return image


def scale(image: Image.Image, side: int) -> Image.Image:
    # Premultiplied alpha keeps the color of hidden pixels from bleeding into the edges.
    small = image.convert("RGBa").resize((side, side), Image.Resampling.BILINEAR)
    return small.convert("RGBA")


def shared_area(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """Return the overlap of two squares (left, top, side) as a share of the smaller one."""
    (left1, top1, side1), (left2, top2, side2) = first, second
    wide = min(left1 + side1, left2 + side2) - max(left1, left2)
    high = min(top1 + side1, top2 + side2) - max(top1, top2)
    return max(0, wide) * max(0, high) / min(side1, side2) ** 2


def layout(random: Random, count: int, size: int, stage: float = 1.0) -> list[tuple[int, int, int]]:
    """Return random squares (left, top, side) that overlap only a little, large in early stages."""
    smallest, largest = {1: (0.36, 0.98), 2: (0.34, 0.62), 3: (0.30, 0.50)}[count]
    smallest += (largest - smallest) * 0.7 * (1 - stage)
    for attempt in range(60):
        shrink = 1 - 0.3 * attempt / 60
        boxes = []
        for _ in range(count):
            side = round(size * random.uniform(smallest, max(smallest, largest * shrink)))
            left, top = (int(value) for value in random.integers(0, size - side + 1, 2))
            boxes.append((left, top, side))
        pairs = [(a, b) for index, a in enumerate(boxes) for b in boxes[index + 1 :]]
        if all(shared_area(a, b) <= MAX_SHARED_AREA for a, b in pairs):
            break
    return boxes


def compose(
    random: Random,
    drawings: list[Image.Image],
    size: int,
    backdrop: Callable[[Random, int], Image.Image] = background,
) -> Image.Image:
    """Paste drawings at random places on a background."""
    image = backdrop(random, size)
    if drawings:
        boxes = layout(random, len(drawings), size)
        for drawing, (left, top, side) in zip(drawings, boxes, strict=True):
            pasted = scale(vary(random, drawing), side)
            image.paste(pasted, (left, top), pasted)
    return image
