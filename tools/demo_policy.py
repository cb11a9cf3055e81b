"""Choose the thresholds of the demo policy, and measure how well it does.

The thresholds are chosen on compositions in the styles that the model was trained on; the layouts
are new, and no training picture shows fire and water together.  The figures are then taken on
the held-out style with the thresholds that stand in the policy file.
"""

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_concepts import FIRE_ICONS, GROUPS, WATER_ICONS
from demo_data import DEFAULT_CACHE, HELD_OUT_STYLE, TRAIN_STYLES
from demo_evaluate import DemoModel, Drawings, load_demo_model, wilson
from demo_synth import PICTURE_SIZE, compose, pick
from PIL import Image
from train_demo_model import MODEL_FOLDER, ROOT

POLICY_FILE = ROOT / "safety_proxy" / "demo" / "policy.toml"
TUNING_SEED, TEST_SEED = 100, 200
THRESHOLDS = np.array([0.005, 0.01, 0.015, 0.02, 0.03, 0.04, *np.arange(1, 20) * 0.05]).round(3)

# Icons that show fire or water as a part of something else: neither right nor wrong.
OPEN_ICONS = frozenset(GROUPS["fire"].unsure + GROUPS["water"].unsure)


@dataclass
class Composition:
    """A test picture with the icons on it."""

    picture: Image.Image
    icons: list[str]

    def shows(self, concept: str) -> bool:
        return not set(GROUPS[concept].icons).isdisjoint(self.icons)

    @property
    def expected(self) -> str:
        if self.shows("fire") and self.shows("water"):
            return "block"
        return "flag" if self.shows("pizza") else "allow"


def random_icons(random: np.random.Generator, names: set[str]) -> list[str]:
    """Return one to three icons, or none; two of five times with fire and water."""
    others = sorted(names - OPEN_ICONS - FIRE_ICONS - WATER_ICONS)
    draw = random.random()
    icons: list[str] = []
    if draw < 0.6:
        icons.append(pick(random, sorted(FIRE_ICONS & names)))
    if draw < 0.4 or 0.6 <= draw < 0.8:
        icons.append(pick(random, sorted(WATER_ICONS & names)))
    for _ in range(int(random.integers(0, 4 - len(icons)))):
        icon = "pizza" if random.random() < 0.15 else pick(random, others)
        if icon not in icons:
            icons.append(icon)
    return [icons[int(index)] for index in random.permutation(len(icons))]


def compositions(drawings: list[Drawings], count: int, seed: int) -> Iterator[Composition]:
    """Yield random pictures; all emoji of a picture have the same style."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        style = pick(random, drawings)
        icons = random_icons(random, set(style.names))
        pictures = [style(icon) for icon in icons]
        yield Composition(compose(random, pictures, PICTURE_SIZE), icons)


def concept_scores(
    demo: DemoModel, policy: dict[str, Any], pictures: list[Image.Image]
) -> dict[str, np.ndarray]:
    """Return the score of every picture for every concept: its best prompt's."""
    vectors = demo.image_vectors(pictures)
    return {
        name: demo.scores(vectors, concept["prompts"]).max(dim=1).values.numpy()
        for name, concept in policy["concepts"].items()
    }


def choose_thresholds(scores: dict[str, np.ndarray], tests: list[Composition]) -> dict[str, float]:
    """Return the thresholds with the most right blocks (flags) less the wrong ones."""
    blocked = np.array([test.expected == "block" for test in tests])
    pizza = np.array([test.shows("pizza") for test in tests])

    def gain(found: np.ndarray, truth: np.ndarray, *thresholds: float) -> float:
        right = float(found[truth].mean() - found[~truth].mean())
        # Among equals the thresholds nearest to the middle.
        return right - 1e-4 * sum(abs(value - 0.5) for value in thresholds)

    pairs = [(fire, water) for fire in THRESHOLDS for water in THRESHOLDS]
    fire, water = max(
        pairs,
        key=lambda pair: gain(
            (scores["fire"] >= pair[0]) & (scores["water"] >= pair[1]), blocked, *pair
        ),
    )
    third = max(THRESHOLDS, key=lambda value: gain(scores["pizza"] >= value, pizza, value))
    return {"fire": float(fire), "water": float(water), "pizza": float(third)}


def actions(scores: dict[str, np.ndarray], thresholds: dict[str, float]) -> np.ndarray:
    """Return what the policy does with each picture."""
    found = {name: scores[name] >= thresholds[name] for name in thresholds}
    flagged = np.where(found["pizza"], "flag", "allow")
    return np.where(found["fire"] & found["water"], "block", flagged)


def print_share(label: str, hits: np.ndarray) -> None:
    low, high = wilson(int(hits.sum()), len(hits))
    print(f"  {label}: {hits.mean():.1%} (n = {len(hits)}, 95 % {low:.1%} to {high:.1%})")


def print_figures(
    scores: dict[str, np.ndarray], tests: list[Composition], thresholds: dict[str, float]
) -> None:
    """Print how often the policy is right, by what is on the pictures."""
    done = actions(scores, thresholds)
    expected = np.array([test.expected for test in tests])
    fire, water, pizza = (
        np.array([test.shows(name) for test in tests]) for name in ("fire", "water", "pizza")
    )
    empty = np.array([not test.icons for test in tests])
    print_share("fire and water, blocked", done[expected == "block"] == "block")
    print_share("all others, wrongly blocked", done[expected != "block"] == "block")
    print_share("  fire without water, wrongly blocked", done[fire & ~water] == "block")
    print_share("  water without fire, wrongly blocked", done[water & ~fire] == "block")
    print_share("  neither, wrongly blocked", done[~water & ~fire] == "block")
    print_share("pizza, flagged", done[expected == "flag"] == "flag")
    print_share("no pizza, wrongly flagged", done[~pizza & (expected != "block")] == "flag")
    print_share("empty backgrounds, let through", done[empty] == "allow")
    print_share("all, as expected", done == expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--held-out", action="store_true", help="measure the held-out style too")
    arguments = parser.parse_args()
    cache = arguments.cache.expanduser()
    policy = tomllib.loads(POLICY_FILE.read_text(encoding="utf-8"))
    demo = load_demo_model(arguments.model)
    drawings = [Drawings(style, cache) for style in TRAIN_STYLES]
    tests = list(compositions(drawings, arguments.count, TUNING_SEED))
    scores = concept_scores(demo, policy, [test.picture for test in tests])
    chosen = choose_thresholds(scores, tests)
    print(f"thresholds chosen on the training styles: {chosen}")
    print_figures(scores, tests, chosen)
    if arguments.held_out:
        written = {name: entry["threshold"] for name, entry in policy["concepts"].items()}
        print(f"{HELD_OUT_STYLE.title}, thresholds of the policy file {written}:")
        tests = list(compositions([Drawings(HELD_OUT_STYLE, cache)], 1000, TEST_SEED))
        scores = concept_scores(demo, policy, [test.picture for test in tests])
        print_figures(scores, tests, written)


if __name__ == "__main__":
    main()
