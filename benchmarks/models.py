"""Which model a run uses, and its bare forward pass: what throughput is compared with."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import torch

from safety_proxy.assembly import load_clip
from safety_proxy.crops import UInt8Array
from safety_proxy.inference.clip import DEMO, RANDOM_WEIGHTS, ClipEmbedder, choose
from safety_proxy.inference.embedder import Embedder
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.frames import read_frames
from safety_proxy.settings import Settings, load_settings

# The default on CPU. Weights are random: a forward pass costs the same, and nothing is downloaded.
DEFAULT_ARCHITECTURE = "ViT-B-32"


def available_models() -> list[str]:
    """The default architecture, and the small model where its weights are in the package."""
    folder = resources.files("safety_proxy.inference").joinpath("demo_model")
    has_weights = any(file.name.endswith(".safetensors") for file in folder.iterdir())
    return [DEFAULT_ARCHITECTURE, *([DEMO] if has_weights else [])]


def model_settings(model: str) -> Settings:
    """The settings of a proxy with this model; the environment may change all others."""
    return load_settings(model={"name": "auto" if model == DEFAULT_ARCHITECTURE else model})


def load_embedder(settings: Settings) -> Embedder:
    """The model of `model_settings`: `auto` stands for the default architecture, weights random."""
    if settings.model.name != "auto":
        return load_clip(settings)
    chosen = dataclasses.replace(
        choose(settings.model), name=DEFAULT_ARCHITECTURE, weights=RANDOM_WEIGHTS
    )
    torch.manual_seed(0)
    return ClipEmbedder(chosen, threads=settings.model.threads)


class BareModel:
    """The same model without a proxy, with the same settings. Rates are pictures a second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._embedder = load_embedder(settings)
        assert isinstance(self._embedder, ClipEmbedder)
        # The bare forward is what is asked for.
        self._clip = self._embedder._model  # noqa: SLF001
        self._dtype = self._embedder._dtype  # noqa: SLF001 -- not that of each parameter

    @torch.inference_mode()
    def forward_rate(self, batch: int, seconds: float) -> float:
        """Of the image tower alone, on a batch that is a normalized tensor already."""
        spec = self._embedder.crop_spec
        device = next(self._clip.visual.parameters()).device
        tensor = torch.randn(batch, 3, spec.height, spec.width).to(device, self._dtype)

        def forward() -> int:
            self._clip.encode_image(tensor).cpu()
            return batch

        return _rate(forward, seconds)

    def scan_rate(self, picture: bytes, seconds: float) -> float:
        """With the decoding of each picture on as many threads as decoders, but without HTTP."""
        batch = self._settings.model.batch_limit

        def decode() -> UInt8Array:
            spec = self._embedder.crop_spec
            return read_frames(picture, spec, Bounds())[0].crop

        with ThreadPoolExecutor(self._settings.scan.decoders) as decoders:
            ahead = deque(decoders.submit(decode) for _ in range(2 * batch))

            def scan() -> int:
                crops = [ahead.popleft().result() for _ in range(batch)]
                ahead.extend(decoders.submit(decode) for _ in range(batch))
                self._embedder.embed_images(crops)
                return batch

            try:
                return _rate(scan, seconds)
            finally:
                decoders.shutdown(cancel_futures=True)


def _rate(work: Callable[[], int], seconds: float) -> float:
    work()  # warms up
    start, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not done:
        done += work()
    return done / passed
