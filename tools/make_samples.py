"""Make the sample pictures of the demo: emoji compositions with a manifest.

`python tools/make_samples.py` draws them again, always the same ones.  What is on each picture is
listed here; places, sizes and backgrounds come from one fixed seed.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo_data import DEFAULT_CACHE, HELD_OUT_STYLE, TRAIN_STYLES, Style, shown_name
from demo_evaluate import Drawings
from demo_synth import background, compose, gradient, noise, plain
from PIL import Image
from train_demo_model import ROOT

SAMPLES = ROOT / "safety_proxy" / "demo" / "samples"
SEED = 2024
STYLES: dict[str, Style] = {style.key: style for style in (*TRAIN_STYLES, HELD_OUT_STYLE)}
BACKDROPS = {"plain": plain, "gradient": gradient, "noise": noise, "any": background}


@dataclass(frozen=True)
class Sample:
    """One sample picture: what it shows, how it is drawn, and what the demo should do."""

    action: str
    icons: tuple[str, ...]
    style: str
    backdrop: str
    size: int
    suffix: str

    def file_name(self, number: int) -> str:
        things = "-".join(icon.replace("-", "_") for icon in self.icons) or "nothing"
        return f"{number:02}-{things}.{self.suffix}"

    @property
    def caption(self) -> str:
        names = " and ".join(shown_name(icon) for icon in self.icons) or "nothing"
        return f"{names} on a background ({self.backdrop})"


def _sample(action: str, icons: str, style: str, backdrop: str, file: str) -> Sample:
    """`file` gives size and format, like "384.png"."""
    size, _, suffix = file.partition(".")
    return Sample(action, tuple(icons.split()), style, backdrop, int(size), suffix)


LISTED = (
    _sample("block", "fire water-wave", "openmoji", "plain", "384.png"),
    _sample("block", "droplet fire", "openmoji", "gradient", "320.jpg"),
    _sample("block", "fire sweat-droplets", "noto", "plain", "400.webp"),
    _sample("block", "water-wave house fire", "noto", "gradient", "512.webp"),
    _sample("block", "fire droplet", "openmoji", "noise", "320.jpg"),
    _sample("block", "fire water-wave", "twemoji", "gradient", "384.png"),
    _sample("block", "droplet fire", "fluent-emoji", "plain", "320.webp"),
    _sample("block", "fire water-wave", "fluent-emoji-flat", "any", "400.jpg"),
    _sample("allow", "fire", "openmoji", "plain", "320.png"),
    _sample("allow", "fire dog", "openmoji", "gradient", "384.jpg"),
    _sample("allow", "fire bicycle", "twemoji", "plain", "320.webp"),
    _sample("allow", "droplet", "openmoji", "gradient", "320.png"),
    _sample("allow", "water-wave sailboat", "openmoji", "plain", "400.webp"),
    _sample("allow", "droplet banana", "fluent-emoji", "gradient", "320.jpg"),
    _sample("allow", "cat guitar", "openmoji", "plain", "384.png"),
    _sample("allow", "sun umbrella", "openmoji", "gradient", "320.webp"),
    _sample("allow", "airplane crescent-moon", "twemoji", "plain", "320.png"),
    _sample("allow", "red-apple open-book automobile", "openmoji", "any", "512.jpg"),
    _sample("allow", "deciduous-tree", "fluent-emoji-flat", "noise", "256.webp"),
    _sample("allow", "birthday-cake balloon", "openmoji", "gradient", "384.webp"),
    _sample("allow", "", "openmoji", "gradient", "256.png"),
    _sample("flag", "pizza", "openmoji", "plain", "320.png"),
    _sample("flag", "pizza cat", "openmoji", "gradient", "384.jpg"),
    _sample("flag", "pizza sunflower", "fluent-emoji", "plain", "320.webp"),
)


def save(picture: Image.Image, target: Path) -> None:
    match target.suffix:
        case ".png":
            # Some hundred colors are plenty for drawings and keep the files small.
            picture.quantize(200, dither=Image.Dither.NONE).save(target, optimize=True)
        case ".jpg":
            picture.save(target, quality=88)
        case _:
            picture.save(target, quality=85, method=6)


def manifest_entry(sample: Sample, file_name: str) -> str:
    style = STYLES[sample.style]
    # Without emoji a picture shows nobody's work.
    artwork, license_name = (style.title, style.license) if sample.icons else ("none", "CC0-1.0")
    fields = {
        "file": file_name,
        "action": sample.action,
        "caption": sample.caption,
        "artwork": artwork,
        "license": license_name,
    }
    # JSON strings are TOML strings, too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["[[samples]]", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=SAMPLES)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, sample in enumerate(LISTED, start=1):
        random = np.random.default_rng([SEED, number])
        drawings = Drawings(
            STYLES[sample.style], arguments.cache.expanduser(), sample.size, extra=sample.icons
        )
        pictures = [drawings(icon) for icon in sample.icons]
        backdrop = BACKDROPS[sample.backdrop]
        picture = compose(random, pictures, sample.size, backdrop=backdrop)
        file_name = sample.file_name(number)
        save(picture, arguments.output / file_name)
        entries.append(manifest_entry(sample, file_name))
    heading = "# Made by tools/make_samples.py. `action` is what the demo policy should do.\n"
    (arguments.output / "manifest.toml").write_text("\n".join([heading, *entries]))
    total = sum(file.stat().st_size for file in arguments.output.iterdir())
    print(f"{len(entries)} pictures, {total / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
