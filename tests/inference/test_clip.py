"""Tests of safety_proxy/inference/clip.py, over real open_clip with a model made by the test."""

import json
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from safety_proxy.crops import CropSpec, UInt8Array
from safety_proxy.errors import ConfigError, EmbedderUnavailable
from safety_proxy.inference.clip import ClipChoice, ClipEmbedder, allowed_threads, choose
from safety_proxy.settings import ModelSettings

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "size": [32, 32],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "resize_mode": "longest",
    "fill_color": 7,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights, as open_clip stores one."""
    folder = tmp_path_factory.mktemp("clip")
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**MODEL)
    weights = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def choice_of(folder: Path) -> ClipChoice:
    """This folder's model, on the CPU and exact."""
    return ClipChoice(f"local-dir:{folder}", "auto", "cpu", "fp32")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> ClipEmbedder:
    """It, loaded."""
    return ClipEmbedder(choice_of(folder), threads=1)


def crops(count: int) -> list[UInt8Array]:
    """Different crops, some of them odd."""
    noise = np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    noise[1::4] = 0
    noise[2::4] = 255
    return list(noise)


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("last", [False, True])
def test_embedding_does_not_depend_on_who_shares_the_batch(
    *,
    size: int,
    last: bool,
    embedder: ClipEmbedder,
) -> None:
    """Alone, first or last among odd neighbors: within 1e-4."""
    picture, *others = crops(size)
    batch = [*others, picture] if last else [picture, *others]
    (alone,) = embedder.embed_images([picture])
    together = embedder.embed_images(batch)[-1 if last else 0]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_image_embedding_is_that_of_open_clip(embedder: ClipEmbedder, folder: Path) -> None:
    """Mean and deviation of the model applied, and rows of length 1, in order."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    mean, std = (torch.tensor(PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = torch.from_numpy(np.stack(crops(5))).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = model.encode_image((pixels - mean) / std, normalize=True).numpy()
    rows = embedder.embed_images(crops(5))
    assert rows.shape == (5, 16)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_text_embedding_is_that_of_open_clip(embedder: ClipEmbedder, folder: Path) -> None:
    """With the model's own tokenizer."""
    texts = ["a photo of fire", "water"]
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
        expected = model.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(embedder.embed_texts(texts), expected, atol=1e-5)


def test_crop_spec_and_scale_are_the_model_s(embedder: ClipEmbedder) -> None:
    """As its configuration has them."""
    assert embedder.crop_spec == CropSpec(32, 32, "longest", "bilinear", 7)
    assert embedder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert embedder.logit_bias is None


def test_failing_pass_is_unavailable(embedder: ClipEmbedder) -> None:
    """Crops of a wrong size stand for whatever torch cannot do."""
    with pytest.raises(EmbedderUnavailable, match="image tower failed"):
        embedder.embed_images([np.zeros((20, 32, 3), np.uint8)])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t * float("nan"), "first pass failed"),
        (lambda t: t * 0, "same embedding for different pictures"),
    ],
)
def test_damaged_weights_are_refused_at_the_start(
    spoil: object, said: str, folder: Path, tmp_path: Path
) -> None:
    """Not finite, or blind."""
    assert callable(spoil)
    config = (folder / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(config)
    weights = open_clip.create_model(f"local-dir:{folder}").state_dict()
    visual = {
        name: spoil(tensor) if name == "visual.conv1.weight" else tensor.clone()
        for name, tensor in weights.items()
    }
    save_file(visual, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ConfigError, match=said):
        ClipEmbedder(choice_of(tmp_path))


@pytest.mark.parametrize("broken", ["nothing", "no weights", "bad config"])
def test_model_that_cannot_be_loaded_is_named(broken: str, folder: Path, tmp_path: Path) -> None:
    """With what to do about it."""
    if broken != "nothing":
        config = (folder / "open_clip_config.json").read_text()
        (tmp_path / "open_clip_config.json").write_text("{" if broken == "bad config" else config)
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        ClipEmbedder(choice_of(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_unknown_model_is_refused_with_where_to_look() -> None:
    """Before anything is fetched."""
    with pytest.raises(ConfigError, match="open_clip knows no such model"):
        choose(ModelSettings(name="ViT-Nonsense", device="cpu"))


def test_weights_must_be_named_where_there_are_several() -> None:
    """The message lists them."""
    with pytest.raises(ConfigError, match=r"name one of: .*openai"):
        choose(ModelSettings(name="ViT-L-14", device="cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    """It is not quietly replaced by the CPU."""
    with pytest.raises(ConfigError, match="finds no usable GPU"):
        choose(ModelSettings(device="cuda"))


def test_auto_on_the_cpu_is_the_small_model() -> None:
    """Of known weights."""
    choice = choose(ModelSettings(device="cpu", precision="fp32"))
    assert (choice.name, choice.weights) == ("ViT-B-32", "datacomp_xl_s13b_b90k")
    assert choice.fingerprint == "ViT-B-32/datacomp_xl_s13b_b90k/fp32"


@pytest.mark.parametrize(
    ("choice", "fingerprint"),
    [
        (ClipChoice("ViT-L-14", "openai", "cuda", "fp16"), "ViT-L-14/openai/fp16"),
        (ClipChoice("ViT-B-32", "", "cpu", "fp32"), "ViT-B-32/random/fp32"),
        (choose(ModelSettings(name="demo", device="cpu", precision="fp32")), "demo/fp32"),
    ],
)
def test_fingerprint_names_model_weights_and_precision(
    choice: ClipChoice, fingerprint: str
) -> None:
    """Embeddings with equal ones may be compared."""
    assert choice.fingerprint == fingerprint


def test_fingerprint_of_weights_in_a_file_changes_with_its_content(tmp_path: Path) -> None:
    """Under the same name: embeddings of the weights before must not count for these."""
    weights = tmp_path / "w.safetensors"
    seen = set()
    for content in (b"one", b"other"):
        weights.write_bytes(content)
        for choice in (
            ClipChoice("ViT-L-14", str(weights), "cpu", "bf16"),
            ClipChoice(f"local-dir:{tmp_path}", "auto", "cpu", "bf16"),
        ):
            assert choice.fingerprint == choice.fingerprint
            seen.add(choice.fingerprint)
    assert len(seen) == 4
    assert all(
        re.fullmatch(r"(ViT-L-14/w\.safetensors|local-dir:.*)@[0-9a-f]{12}/bf16", it) for it in seen
    )


def test_threads_are_those_of_this_process() -> None:
    """At least one."""
    assert allowed_threads() >= 1
