"""Train the small CLIP model that the demo and the tests use.

`python tools/train_demo_model.py` does everything: it downloads the emoji sets, renders them,
trains, writes the model to `safety_proxy/inference/demo_model` and prints how well it does on
an emoji style that it never saw.  The model is loaded through open_clip like any other one.
"""

import argparse
import copy
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Idle threads that spin would take the processor from the workers that draw the pictures.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import open_clip
import torch
from demo_captions import EMPTY, Captioner, Meaning, label_captions, learn_merges, write_merges
from demo_concepts import GROUPS
from demo_data import (
    DEFAULT_CACHE,
    TRAIN_STYLES,
    choose_icons,
    icon_keywords,
    load_artwork,
    shown_name,
)
from demo_evaluate import evaluate, load_demo_model
from demo_scenes import SceneMaker
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
MODEL_FOLDER = ROOT / "safety_proxy" / "inference" / "demo_model"

WEIGHTS = "open_clip_model.safetensors"  # the name that open_clip looks for first
IMAGE_SIZE = 64
CONTEXT_LENGTH = 16
MERGE_COUNT = 1500
BATCH_PICTURES = 96
BATCH_CAPTIONS = 110
SCALAR_RATE = 10.0  # times as fast: the logits' scale and bias have a long way to go
WARM_UP_STEPS = 60
AVERAGE_DECAY = 0.995
HELPER_WEIGHT = 1.0

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def model_config(vocabulary_size: int) -> dict[str, Any]:
    """Return the open_clip configuration of the model."""
    return {
        "embed_dim": 128,
        "init_logit_scale": math.log(10),
        "init_logit_bias": -4.0,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "layers": [1, 2, 2, 1],
            "width": 16,
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary_size,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


@dataclass(frozen=True)
class Phase:
    """A part of the training; each begins from the weights that the one before has stored.

    peak_rate: the highest learning rate. everyday_share: of the icons, from the 20 concepts.
    easy_share: of the steps, those in which the pictures get harder. seed: of the pictures.
    """

    steps: int
    peak_rate: float
    everyday_share: float
    easy_share: float
    seed: int


PHASES = (
    Phase(steps=3600, peak_rate=1.5e-3, everyday_share=0.7, easy_share=0.45, seed=1),
    Phase(steps=1300, peak_rate=8e-4, everyday_share=0.85, easy_share=0.0, seed=2),
)


class Batches(Dataset[Batch]):
    """Training batches; the number of a batch alone decides what is in it."""

    def __init__(
        self, maker: SceneMaker, captioner: Captioner, tokenizer: Any, phase: Phase
    ) -> None:
        self.maker, self.captioner, self.tokenizer = maker, captioner, tokenizer
        self.phase = phase
        # Icons that share a name share a column, or the helper loss would ask the impossible.
        names = sorted({shown_name(icon) for icon in captioner.icons})
        self.name_count = len(names)
        self.columns = np.zeros((len(captioner.icons), len(names) + len(GROUPS)), np.float32)
        for row, icon in enumerate(captioner.icons):
            self.columns[row, names.index(shown_name(icon))] = 1
            self.columns[row, len(names) :] = [icon in group.icons for group in GROUPS.values()]

    def __len__(self) -> int:
        return self.phase.steps

    def __getitem__(self, index: int) -> Batch:
        random = np.random.default_rng([self.phase.seed, index])
        stage = min(1.0, 0.1 + 0.9 * index / max(1, self.phase.easy_share * self.phase.steps))
        share = self.phase.everyday_share
        scenes = [self.maker.icons_of_scene(random, stage, share) for _ in range(BATCH_PICTURES)]
        shown = np.zeros((BATCH_PICTURES, len(self.captioner.icons)), bool)
        captions: list[list[Meaning]] = []
        for row, icons in enumerate(scenes):
            shown[row, [self.captioner.number[icon] for icon in icons or [EMPTY]]] = True
            captions += self.captioner.captions(random, icons)
        chosen = random.permutation(len(captions))[:BATCH_CAPTIONS]
        captions = [captions[number] for number in chosen]
        tokens = self.tokenizer([self.captioner.sentence(random, item) for item in captions])
        fits, unsure = label_captions(captions, shown)
        named = np.minimum(shown.astype(np.float32) @ self.columns, 1)
        pictures = self.maker.draw(random, scenes, stage)
        parts = (torch.from_numpy(part) for part in (fits, unsure, named))
        return (pictures, tokens, *parts)  # type: ignore[return-value]


def normalize(pictures: torch.Tensor) -> torch.Tensor:
    """Do to byte pictures what open_clip's own preprocessing does."""
    config = PreprocessCfg()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (config.mean, config.std))
    scaled = (pictures.float() / 255 - mean) / std
    return scaled.contiguous(memory_format=torch.channels_last)


def pair_loss(logits: torch.Tensor, fits: torch.Tensor, unsure: torch.Tensor) -> torch.Tensor:
    """Return SigLIP's loss, with any number of fitting captions for each picture."""
    losses = functional.softplus(torch.where(fits, -logits, logits))
    return losses.masked_fill(unsure, 0).sum() / len(logits)


def helper_loss(logits: torch.Tensor, named: torch.Tensor, name_count: int) -> torch.Tensor:
    """Return how badly the names (one choice) and the everyday concepts (yes or no) are guessed."""
    names, groups = named[:, :name_count], named[:, name_count:]
    chosen = functional.cross_entropy(logits[:, :name_count], names / names.sum(1, keepdim=True))
    kinds = functional.binary_cross_entropy_with_logits(
        logits[:, name_count:] - 3, groups, reduction="sum"
    )
    return chosen + kinds / len(logits)


def learning_rate(step: int, phase: Phase) -> float:
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    fall = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
    return phase.peak_rate * warm * (0.01 + 0.99 * fall)


def parameter_groups(*modules: nn.Module) -> list[dict[str, Any]]:
    """Use weight decay for matrices only, and another pace for scalars."""
    weights = [weight for module in modules for weight in module.parameters()]
    matrices = [weight for weight in weights if weight.ndim >= 2]
    vectors = [weight for weight in weights if weight.ndim == 1]
    scalars = [weight for weight in weights if weight.ndim == 0]
    return [
        {"params": matrices, "weight_decay": 0.05, "pace": 1.0},
        {"params": vectors, "weight_decay": 0.0, "pace": 1.0},
        {"params": scalars, "weight_decay": 0.0, "pace": SCALAR_RATE},
    ]


def open_residual_paths(model: nn.Module) -> None:
    """Undo open_clip's zero start of the residual branches: this training is too short for it."""
    for name, weight in model.visual.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(weight)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Keep a running mean of the weights; it does better than the last weights."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def train(model: nn.Module, batches: Batches, workers: int, folder: Path) -> nn.Module:
    """Train the model and return the average of its weights."""
    model = model.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(model).eval()
    helper = nn.Linear(model.visual.output_dim, batches.columns.shape[1])
    optimizer = torch.optim.AdamW(parameter_groups(model, helper), betas=(0.9, 0.98), fused=True)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=4)
    started, shown_losses = time.monotonic(), []
    for step, (pictures, tokens, fits, unsure, named) in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = group["pace"] * learning_rate(step, batches.phase)
        images = model.encode_image(normalize(pictures))
        texts = model.encode_text(tokens, normalize=True)
        cosines = functional.normalize(images, dim=-1) @ texts.T
        logits = model.logit_scale.exp() * cosines + model.logit_bias
        # The helper names all icons at once; it speeds training up and is then thrown away.
        helped = helper_loss(helper(images), named, batches.name_count)
        loss = pair_loss(logits, fits, unsure)
        total = loss + HELPER_WEIGHT * helped
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        update_average(average, model, step)
        shown_losses.append((loss.item(), helped.item()))
        if (step + 1) % 100 == 0:
            mean = np.mean(shown_losses[-100:], axis=0).round(3)
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{len(batches)} loss {mean} {seconds:.0f} s", flush=True)
        if (step + 1) % 100 == 0:
            write_weights(average, folder)
    print(f"trained {len(batches)} steps in {time.monotonic() - started:.0f} s", flush=True)
    return average


def write_weights(model: nn.Module, folder: Path) -> None:
    """Store the weights in half precision."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration that open_clip reads for a name like "local-dir:FOLDER"."""
    settings = PreprocessCfg()
    preprocess = {
        "mean": settings.mean,
        "std": settings.std,
        "interpolation": settings.interpolation,
        # All of the picture counts: nothing is cropped off.
        "resize_mode": "squash",
    }
    whole = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(whole, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--first-phase", type=int, default=1, help="2: go on from phase 1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--leave-out", help="a training style to test on instead")
    parser.add_argument("--evaluate-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    cache, folder = arguments.cache.expanduser(), arguments.output
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if not arguments.evaluate_only:
        folder.mkdir(parents=True, exist_ok=True)
        icons = choose_icons(cache)
        captioner = Captioner(icons, icon_keywords(cache, icons))
        write_merges(folder / "bpe.txt.gz", learn_merges(captioner.all_texts(), MERGE_COUNT))
        tokenizer = open_clip.SimpleTokenizer(
            bpe_path=str(folder / "bpe.txt.gz"), context_length=CONTEXT_LENGTH
        )
        config = model_config(tokenizer.vocab_size)
        write_config(folder, config)
        styles = tuple(style.key for style in TRAIN_STYLES if style.key != arguments.leave_out)
        maker = SceneMaker(load_artwork(TRAIN_STYLES, icons, cache), IMAGE_SIZE, styles)
        model = open_clip.model.CLIP(**config)
        open_residual_paths(model)
        count = sum(weight.numel() for weight in model.parameters())
        print(f"{len(icons)} icons, {count / 1e6:.2f} million parameters", flush=True)
        for number, phase in enumerate(PHASES, start=1):
            if number > 1:
                open_clip.load_checkpoint(model, str(folder / WEIGHTS))
            if number >= arguments.first_phase:
                batches = Batches(maker, captioner, tokenizer, phase)
                write_weights(train(model, batches, arguments.workers, folder), folder)
    evaluate(load_demo_model(folder), cache, arguments.leave_out)


if __name__ == "__main__":
    main()
