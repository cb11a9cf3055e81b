"""Random policies, and embeddings near their bounds, for property tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from safety_proxy.crops import Float32Array
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy

DIMENSIONS = 6
NAMES = ("fire", "water", "a b", "stone")


def embed(texts: Sequence[str]) -> Float32Array:
    """A direction for each text, always the same."""
    rows = [
        np.random.default_rng(list(text.encode())).standard_normal(DIMENSIONS) for text in texts
    ]
    return normalized(np.array(rows))


def normalized(rows: Any) -> Float32Array:
    result: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return result


def judge_of(policy: Policy, *, logit_bias: float | None = None) -> Judge:
    return Judge(policy, embed, logit_scale=10.0, logit_bias=logit_bias)


def rows(seed: int, count: int) -> Float32Array:
    """Random embeddings."""
    random = np.random.default_rng(seed)
    return normalized(random.standard_normal((count, DIMENSIONS)))


def starts_of(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Pictures of one to a few rows each."""
    random = np.random.default_rng(seed)
    return np.flatnonzero(np.r_[True, random.random(count - 1) < 0.6]).astype(np.int64)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """With controls, weights, criticals, `all` and `any`, in either form."""
    score = draw(st.sampled_from(["cosine", "contrast"]))
    low, high = (1, 99) if score == "contrast" else (-80, 80)
    bounds = st.integers(low, high).map(lambda hundredths: hundredths / 100)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    concepts = {name: draw(_concept(name, bounds)) for name in names}
    controls = st.fixed_dictionaries(
        {
            "prompts": st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=2),
            "threshold": bounds,
            "shifts": st.dictionaries(
                st.sampled_from(names), st.sampled_from([-0.3, -0.02, 0.05]), min_size=1
            ),
        }
    )
    return Policy.model_validate(
        {
            "name": draw(st.text(min_size=1, max_size=9)),
            "note": draw(st.text(max_size=9)),
            "score": score,
            "severity": draw(st.sampled_from([0.0, 0.0, 0.7, -1.3])),
            "unreadable": draw(st.sampled_from(["block", "flag", "allow"])),
            "templates": draw(st.sampled_from([["{}"], ["{}", "a {}"]])),
            "neutral": ["n", "m"],
            "concepts": concepts,
            "controls": draw(st.lists(controls, max_size=2)),
            "rules": [
                {"name": f"rule {n}", **draw(_rule(concepts))}
                for n in range(draw(st.integers(1, 3)))
            ],
        }
    )


@st.composite
def _concept(draw: st.DrawFn, name: str, bounds: st.SearchStrategy[float]) -> dict[str, Any]:
    prompts = []
    for number in range(draw(st.integers(1, 4))):
        low, high = sorted((draw(bounds), draw(bounds)))
        prompts.append(
            {
                "text": f"{name} {number}",
                "threshold": low,
                "critical": draw(st.sampled_from([None, high])),
                "weight": draw(st.sampled_from([1, 1, 2, 5])),
            }
        )
    return {"threshold": draw(st.none() | bounds), "prompts": prompts}


@st.composite
def _rule(draw: st.DrawFn, concepts: dict[str, Any]) -> dict[str, Any]:
    def condition(name: str) -> dict[str, Any]:
        prompts = concepts[name]["prompts"]
        most = sum(p["weight"] * (3 if p["critical"] is not None else 1) for p in prompts)
        return {"concept": name, "weight": draw(st.integers(1, most))}

    names = st.lists(st.sampled_from(list(concepts)), max_size=2)
    every, some = draw(names), draw(names)
    if not every and not some:
        every = [next(iter(concepts))]
    return {
        "action": draw(st.sampled_from(["allow", "flag", "block", "block"])),
        "all": [condition(name) for name in every],
        "any": [condition(name) for name in some],
    }
