"""Tests of safety_proxy/policy/scores.py: the same scores to the last bit, in whatever company."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_proxy.crops import Float32Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.policy.policy import default_policy
from safety_proxy.policy.scores import Scorer
from tests.policy.policies import normalized

DIMENSIONS = 512


def embed(texts: Sequence[str]) -> Float32Array:
    """A direction for each text, all of them in one half of the space, as CLIP's are."""
    seeds = [list(text.encode()) for text in texts]
    return normalized([np.random.default_rng(s).standard_normal(DIMENSIONS) + 0.3 for s in seeds])


def scorer(model: str, *, logit_bias: float | None = None) -> Scorer:
    return Scorer(default_policy(model), embed, logit_scale=100, logit_bias=logit_bias)


SCORERS = [scorer("ViT-L-14/openai/fp16"), scorer("other"), scorer("other", logit_bias=-10.0)]


@pytest.mark.parametrize("scores_of", SCORERS)
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 300),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_a_row_scores_alike_alone_and_among_others(
    scores_of: Scorer, seed: int, count: int, dtype: type[np.floating]
) -> None:
    """Not nearly, but to the last bit: a verdict must not depend on who is judged beside."""
    random = np.random.default_rng(seed)
    rows = normalized(random.standard_normal((count, DIMENSIONS)) + 0.2).astype(dtype)
    together = scores_of.score(rows)
    order = random.permutation(count)
    shuffled = scores_of.score(rows[order])
    assert np.array_equal(together.prompts[order], shuffled.prompts)
    assert np.array_equal(together.controls[order], shuffled.controls)
    for row in order[:3].tolist():
        alone = scores_of.score(rows[row : row + 1])
        assert np.array_equal(alone.prompts[0], together.prompts[row])
        assert np.array_equal(alone.controls[0], together.controls[row])


def test_a_prompt_is_embedded_with_its_own_templates_alone() -> None:
    """So what a model makes of it cannot depend on the other prompts of the policy."""
    policy = default_policy("other").model_copy(update={"templates": ("{}", "a photo of {}")})
    asked: list[Sequence[str]] = []

    def asking(texts: Sequence[str]) -> Float32Array:
        asked.append(texts)
        return embed(texts)

    Scorer(policy, asking, logit_scale=100, logit_bias=None)
    prompts = [prompt.text for concept in policy.concepts.values() for prompt in concept.prompts]
    assert [texts for texts in asked if texts[0] in prompts] == [
        [prompt, f"a photo of {prompt}"] for prompt in prompts
    ]


def test_scores_are_the_cosines_that_numpy_gives() -> None:
    """Within what rounding to multiples of 2**-26 changes."""
    policy = default_policy("ViT-L-14/openai/fp16")
    texts = [prompt.text for concept in policy.concepts.values() for prompt in concept.prompts]
    rows = normalized(np.random.default_rng(0).standard_normal((50, DIMENSIONS)) + 0.02)
    scores = SCORERS[0].score(rows)
    assert not scores.controls_found.any()
    expected = rows.astype(np.float64) @ embed(texts).astype(np.float64).T
    np.testing.assert_allclose(scores.prompts, expected, atol=2e-7)


def test_no_rows_have_no_scores() -> None:
    """An empty chunk is none to fail at."""
    assert SCORERS[1].score(np.empty((0, DIMENSIONS), np.float32)).prompts.shape == (0, 15)


@pytest.mark.parametrize("scores_of", SCORERS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_a_failure(scores_of: Scorer, value: float) -> None:
    """In any row, with no warning on the way."""
    rows = normalized(np.ones((3, DIMENSIONS)))
    rows[2, 7] = value
    with pytest.raises(EmbedderUnavailable, match="not finite"):
        scores_of.score(rows)
