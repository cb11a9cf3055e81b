"""Measure the demo model, loaded the way the product loads it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from demo_concepts import GROUPS
from demo_data import (
    HELD_OUT_STYLE,
    TRAIN_STYLES,
    Style,
    choose_icons,
    draw,
    npm_package,
    own_names,
    read_json,
    shown_name,
)
from demo_synth import PICTURE_SIZE, compose
from PIL import Image

TEMPLATES = ("{}", "a picture of {}")
HELD_OUT_PER_CONCEPT, TRAINED_PER_CONCEPT = 50, 10


@dataclass
class DemoModel:
    """A loaded model with its preprocessing and tokenizer."""

    model: Any
    preprocess: Any
    tokenizer: Any

    @torch.inference_mode()
    def image_vectors(self, pictures: Iterable[Image.Image]) -> torch.Tensor:
        vectors, waiting = [], []
        for picture in pictures:
            waiting.append(self.preprocess(picture))
            if len(waiting) == 64:
                vectors.append(self.model.encode_image(torch.stack(waiting), normalize=True))
                waiting = []
        if waiting:
            vectors.append(self.model.encode_image(torch.stack(waiting), normalize=True))
        return torch.cat(vectors)

    @torch.inference_mode()
    def text_vectors(self, texts: list[str]) -> torch.Tensor:
        """Return one vector a text: the mean over the templates."""
        total: Any = 0
        for template in TEMPLATES:
            tokens = self.tokenizer([template.format(text) for text in texts])
            total = total + self.model.encode_text(tokens, normalize=True)
        return torch.nn.functional.normalize(total, dim=-1)

    @torch.inference_mode()
    def scores(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """Return how well each picture fits each text, from 0 to 1."""
        logits = self.model.logit_scale.exp() * images @ self.text_vectors(texts).T
        return torch.sigmoid(logits + self.model.logit_bias)


def load_demo_model(folder: Path) -> DemoModel:
    """Load the model through open_clip, as the proxy does."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name, bpe_path=str(folder / "bpe.txt.gz"))
    return DemoModel(model.eval(), preprocess, tokenizer)


class Drawings:
    """Draws the icons of one style, large enough for test pictures."""

    def __init__(
        self, style: Style, cache: Path, size: int = PICTURE_SIZE, *, extra: Iterable[str] = ()
    ) -> None:
        """`extra`: icons beside those that the model learns."""
        self.size = size
        self.data = read_json(npm_package(style.package, cache) / "icons.json")
        names = own_names(style, list(self.data["icons"]), [*choose_icons(cache), *extra], cache)
        self.names = {icon: name for name, icon in names.items()}

    @lru_cache(maxsize=2000)  # noqa: B019 - lives as long as the program
    def __call__(self, icon: str) -> Image.Image:
        return draw(self.data, self.names[icon], self.size)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share."""
    z, share = 1.96, hits / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    half /= 1 + z * z / count
    return center - half, center + half


def icon_interval(right: np.ndarray, icons: list[str]) -> tuple[float, float]:
    """Return the 95 % interval if the icons, not the layouts, are the random sample."""
    random = np.random.default_rng(0)
    by_concept: dict[str, dict[str, list[bool]]] = {}
    for hit, icon in zip(right, icons, strict=True):
        concept = next(name for name, group in GROUPS.items() if icon in group.icons)
        by_concept.setdefault(concept, {}).setdefault(icon, []).append(bool(hit))
    means = []
    for _ in range(2000):
        draws = []
        for table in by_concept.values():
            rates = [np.mean(hits) for hits in table.values()]
            draws.append(np.mean(random.choice(rates, len(rates))))
        means.append(np.mean(draws))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def single_pictures(
    drawings: Drawings, per_concept: int, seed: int
) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield (concept, icon, picture): the same number for each of the 20 concepts."""
    random = np.random.default_rng(seed)
    for concept, group in GROUPS.items():
        icons = [icon for icon in group.icons if icon in drawings.names]
        for number in range(per_concept):
            icon = icons[number % len(icons)]
            yield concept, icon, compose(random, [drawings(icon)], PICTURE_SIZE)


def top_one_of_twenty(demo: DemoModel, drawings: Drawings, per_concept: int) -> None:
    """Print how often the right one of the 20 concepts scores highest."""
    concepts, icons, pictures = zip(*single_pictures(drawings, per_concept, seed=20), strict=True)
    vectors = demo.image_vectors(pictures) @ demo.text_vectors(list(GROUPS)).T
    chosen = [list(GROUPS)[int(index)] for index in vectors.argmax(dim=1)]
    right = np.array([a == b for a, b in zip(chosen, concepts, strict=True)])
    low, high = wilson(int(right.sum()), len(right))
    print(f"  top-1 of 20: {right.mean():.1%} (n = {len(right)}, 95 % {low:.1%} to {high:.1%})")
    low, high = icon_interval(right, list(icons))
    print(f"    if the {len(set(icons))} icons are the sample: 95 % {low:.1%} to {high:.1%}")
    for concept in GROUPS:
        rows = [row for row, name in enumerate(concepts) if name == concept]
        wrong = sorted({chosen[row] for row in rows if not right[row]})
        print(f"    {concept}: {right[rows].mean():.0%}  {' '.join(wrong)}")


def top_five_of_all(demo: DemoModel, drawings: Drawings) -> None:
    """Print how often an icon's name is among the five best of all names."""
    random = np.random.default_rng(5)
    icons = sorted(drawings.names)
    names = sorted({shown_name(icon) for icon in icons})
    pictures = [compose(random, [drawings(icon)], PICTURE_SIZE) for icon in icons]
    order = (demo.image_vectors(pictures) @ demo.text_vectors(names).T).argsort(descending=True)
    ranks = []
    for row, icon in zip(order[:, :5], icons, strict=True):
        best = [names[int(index)] for index in row]
        ranks.append(best.index(shown_name(icon)) if shown_name(icon) in best else len(names))
    first, fifth = (sum(rank < limit for rank in ranks) for limit in (1, 5))
    print(
        f"  of {len(names)} names: top-1 {first / len(icons):.1%}, "
        f"top-5 {fifth / len(icons):.1%} (n = {len(icons)})"
    )


def evaluate(demo: DemoModel, cache: Path, left_out: str | None = None) -> None:
    """Print the figures for a left-out training style, or for the held-out style."""
    if left_out:
        styles = [style for style in TRAIN_STYLES if style.key == left_out]
    else:
        styles = [HELD_OUT_STYLE, *TRAIN_STYLES]
    for style in styles:
        drawings = Drawings(style, cache)
        trained = style in TRAIN_STYLES
        print(f"{style.title}:")
        top_one_of_twenty(demo, drawings, TRAINED_PER_CONCEPT if trained else HELD_OUT_PER_CONCEPT)
        top_five_of_all(demo, drawings)
