"""The default policies with the models that they are for, as open_clip builds them.

The weights of the large ones cannot be had in a test, so they are random, and two layers deep:
widths, tokenizers, logit scales and biases are real, and what the policies find means nothing. The
small model of the package has weights, and what it finds is checked.
"""

import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from safety_proxy.crops import Float32Array
from safety_proxy.inference.clip import RANDOM_WEIGHTS, ClipChoice, ClipEmbedder, choose
from safety_proxy.media.bounds import Bounds
from safety_proxy.media.frames import read_frames
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import check_model, default_policy, load_policy
from safety_proxy.settings import ModelSettings
from safety_proxy.verdict import Action

DEMO = Path(str(resources.files("safety_proxy.demo")))
SIGLIP = "ViT-B-16-SigLIP"


@dataclass(frozen=True)
class Loaded:
    """A model with random weights, and the fingerprint that it has with those people use."""

    fingerprint: str
    embedder: ClipEmbedder
    judge: Judge


def _two_layers(name: str, folder: Path) -> str:
    """The name of this architecture with two layers: random weights mean nothing at any depth.

    SigLIP's tokenizer comes from the internet, so it has the one that open_clip carries, with the
    larger vocabulary of that; its image tower is whole.
    """
    config = open_clip.get_model_config(name)
    config["text_cfg"]["layers"] = 2
    if "layers" in config["vision_cfg"]:
        config["vision_cfg"]["layers"] = 2
    if name == SIGLIP:
        del config["text_cfg"]["hf_tokenizer_name"], config["text_cfg"]["tokenizer_kwargs"]
        config["text_cfg"]["vocab_size"] = 49408
    # open_clip takes any name with "siglip" in it for one that needs that tokenizer.
    shallow = f"{name.replace('SigLIP', 'sigmoid')}-two-layers"
    (folder / f"{shallow}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return shallow


@pytest.fixture(
    scope="module",
    params=[
        ("ViT-B-32", "datacomp_xl_s13b_b90k"),
        ("ViT-L-14", "openai"),
        ("ViT-L-14-quickgelu", "openai"),
        (SIGLIP, "webli"),
    ],
    ids=lambda param: param[0],
)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Each model, built once."""
    name, weights = request.param
    shallow = _two_layers(name, tmp_path_factory.mktemp("configurations"))
    torch.manual_seed(0)  # or the weights are those that the tests before this one left
    embedder = ClipEmbedder(ClipChoice(shallow, RANDOM_WEIGHTS, "cpu", "fp32"))
    fingerprint = f"{name}/{weights}/fp32"
    judge = Judge(
        default_policy(fingerprint),
        embedder.embed_texts,
        logit_scale=embedder.logit_scale,
        logit_bias=embedder.logit_bias,
    )
    return Loaded(fingerprint, embedder, judge)


def test_the_default_policy_loads_and_judges(loaded: Loaded) -> None:
    """Finite scores of every concept, in the form for this model, one by one and many at once."""
    policy = loaded.judge.policy
    tested = loaded.fingerprint.startswith("ViT-L-14")
    assert policy.score == ("cosine" if tested else "contrast")
    assert (loaded.embedder.logit_bias is None) == (SIGLIP not in loaded.fingerprint)
    assert check_model(policy, loaded.fingerprint) == ""
    spec = loaded.embedder.crop_spec
    noise = np.random.default_rng(0).integers(0, 256, (2, spec.height, spec.width, 3), np.uint8)
    embeddings = loaded.embedder.embed_images(list(noise))
    judgment = loaded.judge.judge(embeddings, ["a", "b"])
    assert [score.concept for score in judgment.scores] == list(policy.concepts)
    assert all(-1.5 < score.score < 1.5 for score in judgment.scores)
    starts = np.zeros(1, np.int64)
    assert loaded.judge.actions(embeddings, starts).tolist() == [judgment.action.severity]
    assert loaded.judge.explain(embeddings, ["a", "b"]).action is judgment.action
    flag, block = (
        loaded.judge.severity_of(embeddings, starts, action)[0]
        for action in (Action.FLAG, Action.BLOCK)
    )
    assert np.isfinite([flag, block]).all()
    assert flag <= block


def test_what_is_like_the_texts_is_found(loaded: Loaded) -> None:
    """The mean of both concepts' directions, as the text tower has them, is blocked."""
    concepts = loaded.judge.policy.concepts.values()
    texts = [prompt.text for concept in concepts for prompt in concept.prompts]
    rows = loaded.embedder.embed_texts(texts)
    mean = rows.mean(axis=0, keepdims=True)
    severe = loaded.judge.severity_of(
        mean / np.linalg.norm(mean), np.zeros(1, np.int64), Action.BLOCK
    )
    away = loaded.judge.severity_of(
        -mean / np.linalg.norm(mean), np.zeros(1, np.int64), Action.BLOCK
    )
    assert severe[0] < away[0]


@pytest.fixture(scope="module")
def small() -> ClipEmbedder:
    """The model of the package, with its weights."""
    return ClipEmbedder(choose(ModelSettings(name="demo", device="cpu")), threads=1)


def judge_of(small: ClipEmbedder, file: Path | None) -> Judge:
    policy = load_policy(file) if file else default_policy(small.fingerprint)
    return Judge(
        policy, small.embed_texts, logit_scale=small.logit_scale, logit_bias=small.logit_bias
    )


def sample(small: ClipEmbedder, name: str) -> Float32Array:
    """A sample picture of the package, as the model sees it."""
    body = (DEMO / "samples" / name).read_bytes()
    frames = read_frames(body, small.crop_spec, Bounds())
    return small.embed_images([frame.crop for frame in frames])


SAMPLES = tomllib.loads((DEMO / "samples" / "manifest.toml").read_text())["samples"]


@pytest.mark.parametrize("entry", SAMPLES, ids=lambda entry: entry["file"])
def test_the_small_model_finds_fire_and_water(small: ClipEmbedder, entry: dict[str, str]) -> None:
    """Under the demo's policy, as the samples say; and the explanation agrees."""
    judge = judge_of(small, DEMO / "policy.toml")
    embeddings = sample(small, entry["file"])
    explanation = judge.explain(embeddings, [""] * len(embeddings))
    assert explanation.action == entry["action"]
    held = {rule.rule for rule in explanation.rules if rule.is_held}
    assert ("fire-and-water" in held) == (entry["action"] == "block")
    assert (explanation.severities[1][1] <= 0) == (entry["action"] == "block")


@pytest.mark.parametrize("entry", SAMPLES, ids=lambda entry: entry["file"])
def test_the_default_policy_accuses_no_sample(small: ClipEmbedder, entry: dict[str, str]) -> None:
    """Drawings of fire, water and pizza, judged by the policy that a server would use."""
    judge = judge_of(small, None)
    embeddings = sample(small, entry["file"])
    assert judge.judge(embeddings, [""] * len(embeddings)).action is Action.ALLOW
