"""CLIP in this process: the only module that imports torch and open_clip.

Preprocessing is split: `media.frames` makes the crops, the mean and deviation of the model are
applied here, on the device, to the whole batch.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch

from safety_proxy.crops import CropSpec, Float32Array, UInt8Array
from safety_proxy.errors import ConfigError, EmbedderUnavailable
from safety_proxy.settings import ModelSettings

DEMO = "demo"
RANDOM_WEIGHTS: Final = ""  # for tests and benchmarks: settings cannot name it


@dataclass(frozen=True, slots=True)
class ClipChoice:
    """A model that open_clip can build, with nothing left to be chosen.

    weights: a tag, a path, or RANDOM_WEIGHTS; without meaning for a `local-dir:` name, which
    carries its own.
    """

    name: str
    weights: str
    device: str
    precision: str
    cache_dir: str | None = None

    @property
    def fingerprint(self) -> str:
        """Names what decides on an embedding; of weights in a file, the file's content too.

        Blocks for a second or two where that is large.
        """
        if self.name == _demo_name():
            parts = [DEMO]
        elif self.name.startswith("local-dir:"):
            files = sorted(Path(self.name.removeprefix("local-dir:")).glob("*.*"))
            parts = [f"{self.name}@{_digest(files)}"]
        elif Path(self.weights).is_file():
            parts = [self.name, f"{Path(self.weights).name}@{_digest([Path(self.weights)])}"]
        else:
            parts = [self.name, self.weights or "random"]
        return "/".join([*parts, self.precision])


def _digest(files: Sequence[Path]) -> str:
    """Twelve hex digits of the content of all files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def choose(settings: ModelSettings) -> ClipChoice:
    """The model for these settings on this machine."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "model.device is cuda, but torch finds no usable GPU. Check the driver and, in a "
            "container, that the GPU is passed in; or set model.device to cpu."
        )
    name, weights = settings.name, settings.weights
    if name == "auto":
        name, default = (
            ("ViT-L-14", "openai") if device == "cuda" else ("ViT-B-32", "datacomp_xl_s13b_b90k")
        )
        weights = default if weights == "auto" else weights
    elif name == DEMO:
        name, weights = _demo_name(), "auto"
    elif weights == "auto" and not name.startswith("local-dir:"):
        weights = _only_tag(name)
    precision: str = settings.precision
    if precision == "auto":
        precision = _native_precision(device)
    cache_dir = str(settings.cache_dir) if settings.cache_dir else None
    return ClipChoice(name, weights, device, precision, cache_dir)


def _demo_name() -> str:
    return f"local-dir:{resources.files('safety_proxy.inference').joinpath('demo_model')}"


def _only_tag(name: str) -> str:
    tags: list[str] = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise ConfigError(
            f"model.name {name!r}: open_clip knows no such model. `python -c 'import open_clip; "
            "print(open_clip.list_pretrained())'` lists all; or name a folder as local-dir:PATH."
        )
    if len(tags) > 1:
        raise ConfigError(
            f"model.weights: {name} comes with several, name one of: {', '.join(tags)}."
        )
    return tags[0]


def _native_precision(device: str) -> str:
    if device == "cuda":
        return "fp16"
    # bf16 pays on processors with instructions for it; elsewhere it is emulated and slow.
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
    return "bf16" if "amx_bf16" in text or "avx512_bf16" in text else "fp32"


def allowed_threads() -> int:
    """The CPUs that this process may use: a container's quota counts, not the host's cores."""
    cpus = len(os.sched_getaffinity(0))
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text(encoding="ascii").split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


class ClipEmbedder:
    """An Embedder over open_clip; loads in the constructor, which takes seconds to minutes.

    Raises ConfigError if the model or its weights cannot be had.
    """

    def __init__(self, choice: ClipChoice, *, threads: int = 0) -> None:
        torch.set_num_threads(threads or allowed_threads())
        self.fingerprint = choice.fingerprint
        self._device = torch.device(choice.device)
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(
            choice.precision, torch.float32
        )
        self._model = _create(choice)
        self._tokenizer = _tokenizer(choice.name)
        preprocess = self._model.visual.preprocess_cfg
        height, width = _pair(preprocess["size"])
        self.crop_spec = CropSpec(
            height,
            width,
            resize_mode=preprocess["resize_mode"],
            interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
            fill_color=preprocess["fill_color"],
        )
        self._mean = self._channels(preprocess["mean"])
        self._std = self._channels(preprocess["std"])
        self.logit_scale = float(self._model.logit_scale.float().exp())
        bias = self._model.logit_bias
        self.logit_bias = None if bias is None else float(bias)
        self._check_alive()

    @torch.inference_mode()
    def embed_images(self, crops: Sequence[UInt8Array]) -> Float32Array:
        try:
            batch = torch.from_numpy(np.stack(crops)).to(self._device).permute(0, 3, 1, 2)
            pixels = (batch.float() / 255 - self._mean) / self._std
            return self._embedding(self._model.encode_image(pixels.to(self._dtype)))
        except (
            RuntimeError
        ) as error:  # torch has one type for a lost device, no memory, a bad shape
            raise EmbedderUnavailable(f"image tower failed: {error}") from error

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        try:
            tokens = self._tokenizer(list(texts)).to(self._device)
            return self._embedding(self._model.encode_text(tokens))
        except RuntimeError as error:
            raise EmbedderUnavailable(f"text tower failed: {error}") from error

    def _embedding(self, features: torch.Tensor) -> Float32Array:
        rows = torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()
        # A NaN is below every threshold: let through, it would clear any picture.
        if not np.isfinite(rows).all():
            raise EmbedderUnavailable("the model gave values that are not finite")
        result: Float32Array = rows
        return result

    def _channels(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=self._device).view(1, 3, 1, 1)

    def _check_alive(self) -> None:
        """The first forward pass, which warms up; a model that sees no difference is broken."""
        shape = (self.crop_spec.height, self.crop_spec.width, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        try:
            black, mixed = self.embed_images([np.zeros(shape, np.uint8), noise])
        except EmbedderUnavailable as error:
            raise ConfigError(
                f"Model {self.fingerprint}: its first pass failed: {error}."
            ) from error
        if np.allclose(black, mixed, atol=1e-3):
            raise ConfigError(
                f"Model {self.fingerprint}: gives the same embedding for different pictures. "
                "The weights are damaged or do not belong to this architecture."
            )


def _create(choice: ClipChoice) -> Any:
    own_weights = choice.name.startswith("local-dir:")
    try:
        model = open_clip.create_model(
            choice.name,
            pretrained=None if own_weights else choice.weights or None,
            precision=choice.precision,
            device=choice.device,
            cache_dir=choice.cache_dir,
            force_quick_gelu=_was_trained_with_quick_gelu(choice),
            pretrained_image=False,
            pretrained_text=False,
            require_pretrained=own_weights or choice.weights != RANDOM_WEIGHTS,
        )
    except Exception as error:
        # Downloads, archives and configurations fail in open_clip with many types.
        raise ConfigError(
            f"Model {choice.name} with weights {choice.weights!r} cannot be loaded: {error}. "
            "If this machine has no internet, fetch the weights elsewhere and set model.weights "
            "to the file (docs/models.md)."
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


def _was_trained_with_quick_gelu(choice: ClipChoice) -> bool:
    """Of known weights: with the other activation they load, and give wrong scores (a warning)."""
    known = open_clip.get_pretrained_cfg(choice.name, choice.weights) or {}
    return bool(known.get("quick_gelu", False))


def _tokenizer(name: str) -> Any:
    """Raises ConfigError if it cannot be had."""
    try:
        return _open_tokenizer(name)
    except ImportError as error:
        raise ConfigError(
            f"Model {name}: its tokenizer needs {error.name}. Install the extra: "
            "`pip install 'safety-proxy[siglip]'`, or take a CLIP model."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"Model {name}: its tokenizer cannot be loaded: {error}. It is downloaded once; "
            "without internet, name a folder that holds it (docs/models.md)."
        ) from error


def _open_tokenizer(name: str) -> Any:
    folder = Path(name.removeprefix("local-dir:"))
    vocabulary = folder / "bpe.txt.gz"
    if name.startswith("local-dir:") and vocabulary.is_file():
        # open_clip resolves a folder's files for its own tokenizers, but not for this one.
        return open_clip.get_tokenizer(name, bpe_path=str(vocabulary))
    return open_clip.get_tokenizer(name)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width
