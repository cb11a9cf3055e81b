"""From embeddings to the scores of a policy's prompts, controls applied.

A row gets the same scores to the last bit, alone and among a million others. That is more than a
matrix product promises, which adds in an order of its own. So embeddings are rounded to multiples
of 2**-26, which is finer than what a model computes in: a product of two is a multiple of 2**-52,
no partial sum of a dot product of vectors of length 1 exceeds 1 (Cauchy-Schwarz), and float64
holds every one of them exactly. Then no order can show.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safety_proxy.crops import Float32Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.policy.forms import Float64Array, Form, form_of
from safety_proxy.policy.tables import Policy

EmbedTexts = Callable[[Sequence[str]], Float32Array]
BoolArray = NDArray[np.bool_]
# As a model gives them, or as the evidence store keeps them.
Embeddings = NDArray[np.float32] | NDArray[np.float16]

# Bits of an embedding's values behind the point.
_BITS: Final = 26


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Of N rows.

    prompts: (N, P) of all concepts' prompts in the policy's order, shifted by the controls found.
    controls: (N, Q) of each control its best prompt.
    controls_found: (N, Q).
    every: (N, K) of all texts, unshifted; `Scorer.control_spans` are the columns of controls.
    """

    prompts: Float64Array
    controls: Float64Array
    controls_found: BoolArray
    every: Float64Array


class Scorer:
    """A policy's prompts as embeddings of the model whose text tower `embed_texts` is.

    logit_scale, logit_bias: of that model, see Embedder.
    spans, control_spans: for each concept, and each control, the columns of its prompts.
    """

    def __init__(
        self,
        policy: Policy,
        embed_texts: EmbedTexts,
        *,
        logit_scale: float,
        logit_bias: float | None,
    ) -> None:
        self.form: Form = form_of(policy.score, logit_scale, logit_bias)
        # A model trained with a sigmoid lets each text stand for itself.
        compares = policy.score == "contrast" and logit_bias is None
        groups = [
            *([prompt.text for prompt in concept.prompts] for concept in policy.concepts.values()),
            *(control.prompts for control in policy.controls),
            *([policy.neutral] if compares else []),
        ]
        embedded = [_embed(texts, policy.templates, embed_texts) for texts in groups]
        self.texts = _on_grid(np.concatenate(embedded)) / 4.0**_BITS
        spans = _spans([len(texts) for texts in groups])
        concepts, controls = len(policy.concepts), len(policy.controls)
        self.spans = dict(zip(policy.concepts, spans, strict=False))
        self.control_spans = spans[concepts : concepts + controls]
        self._prompts = slice(
            0, self.control_spans[0].start if controls else spans[concepts - 1].stop
        )
        self.neutral = spans[-1] if compares else slice(0, 0)
        self.control_levels = self.form.levels(
            np.array([control.threshold for control in policy.controls], np.float64)
        )
        self.shifts = self._prompt_shifts(policy)

    def agrees(self, other: "Scorer") -> bool:
        """Whether both give the same scores: all but thresholds, weights and rules is equal."""
        return self is other or (
            self.form == other.form
            and self.spans == other.spans
            and self.control_spans == other.control_spans
            and self.neutral == other.neutral
            and np.array_equal(self.texts, other.texts)
            and np.array_equal(self.control_levels, other.control_levels)
            and np.array_equal(self.shifts, other.shifts)
        )

    def score(self, embeddings: Embeddings) -> Scores:
        """The scores of each row.

        embeddings: (N, D) float32 or float16, L2-normalized; N >= 0. Memory is 12 times N * D
        bytes for a moment, so that whoever has very many hands them over in chunks.
        Raises EmbedderUnavailable on a value that is not finite: NaN is below every threshold.
        """
        with np.errstate(invalid="ignore"):
            # Column after column in memory: few prompts, many rows, and sums go over the prompts.
            cosines = (self.texts @ _on_grid(embeddings).T).T
        if not np.isfinite(cosines).all():
            raise EmbedderUnavailable("scores are not finite; no judgment can rest on them")
        every = self.form.scores(cosines, cosines[:, self.neutral])
        prompts = every[:, self._prompts].copy(order="K")
        controls = np.empty((len(every), len(self.control_spans)), order="F")
        for number, span in enumerate(self.control_spans):
            controls[:, number] = every[:, span].max(axis=1)
        found = self.form.levels(controls) >= self.control_levels
        for number in range(len(self.control_spans)):
            prompts += found[:, number, None] * self.shifts[number]
        return Scores(prompts, controls, found, every)

    def _prompt_shifts(self, policy: Policy) -> Float64Array:
        """(Q, P): what each control adds to each prompt."""
        shifts = np.zeros((len(policy.controls), self._prompts.stop))
        for number, control in enumerate(policy.controls):
            for concept, shift in control.shifts.items():
                shifts[number, self.spans[concept]] = shift
        return shifts


def _embed(
    prompts: Sequence[str], templates: Sequence[str], embed_texts: EmbedTexts
) -> Float32Array:
    """(P, D): each prompt's mean over the templates, normalized again, as CLIP's authors do.

    Each prompt by itself: pictures that wait for the model do not wait for all of them, and no
    embedding depends, in its last bit, on which other prompts there are.
    """
    means = np.stack(
        [
            embed_texts([template.replace("{}", prompt) for template in templates]).mean(axis=0)
            for prompt in prompts
        ]
    )
    normalized: Float32Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return normalized


def _on_grid(rows: Embeddings) -> Float64Array:
    """As whole numbers of 2**-26. The product with a power of two is exact."""
    scaled: Float32Array = rows * np.float32(2**_BITS)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.float64)


def _spans(lengths: Sequence[int]) -> list[slice]:
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
