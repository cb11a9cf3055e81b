"""The two forms of a score, and the scale on which a severity means the same for both.

A **level** is a score as a logit of the model, which it was trained to tell a fitting text by.
Severity 1 is one logit, in either form: a prompt is found as if its odds were e times as high.

    form       score                                    level
    cosine     the cosine                               logit_scale * cosine
    contrast   probability beside the neutral prompts   log(p / (1 - p))

So for CLIP, whose scale is 100, severity 1 lowers cosine thresholds by 0.01, and the contrast
threshold 0.5 to 0.27.
"""

from dataclasses import dataclass
from math import exp
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

# The largest float64 below 1: its level, 36.7, is that of every probability that rounds to 1.
_BELOW_ONE: Final = float(np.nextafter(1.0, 0.0))


class Form(Protocol):
    """How cosines become scores, and scores levels. All arrays are float64."""

    def scores(self, cosines: Float64Array, neutral: Float64Array) -> Float64Array:
        """(N, P) scores from (N, P) cosines of prompts and (N, M) of neutral prompts, M >= 0."""

    def levels(self, scores: Float64Array) -> Float64Array:
        """Each on the scale of severities; rises with the score, -inf for what is never found."""

    def moved(self, threshold: float, severity: float) -> float:
        """The threshold that has the effect of this one at this severity."""


@dataclass(frozen=True, slots=True)
class Cosine:
    """Scores that are cosines. They are rounded to float32, as embeddings and thresholds are."""

    logit_scale: float

    def scores(self, cosines: Float64Array, neutral: Float64Array) -> Float64Array:
        del neutral
        return cosines

    def levels(self, scores: Float64Array) -> Float64Array:
        rounded: Float64Array = scores.astype(np.float32).astype(np.float64) * self.logit_scale
        return rounded

    def moved(self, threshold: float, severity: float) -> float:
        return threshold - severity / self.logit_scale


@dataclass(frozen=True, slots=True)
class Contrast:
    """Scores that are probabilities, beside all neutral prompts together.

    logit_bias: of a model that was trained with a sigmoid, which lets each text stand for itself.
    """

    logit_scale: float
    logit_bias: float | None

    def scores(self, cosines: Float64Array, neutral: Float64Array) -> Float64Array:
        logits = self.logit_scale * cosines + (self.logit_bias or 0.0)
        if self.logit_bias is None:
            logits -= _log_sum(self.logit_scale * neutral)[:, None]
        with np.errstate(over="ignore"):  # exp(800) is infinite, and its probability 0
            probabilities: Float64Array = 1 / (1 + np.exp(-logits))
        return probabilities

    def levels(self, scores: Float64Array) -> Float64Array:
        inside = np.clip(scores, 0.0, _BELOW_ONE)  # shifts may lead out
        with np.errstate(divide="ignore"):
            levels: Float64Array = np.log(inside) - np.log1p(-inside)
        return levels

    def moved(self, threshold: float, severity: float) -> float:
        if severity == 0:
            return threshold
        return threshold / (threshold + (1 - threshold) * exp(severity))


def form_of(score: str, logit_scale: float, logit_bias: float | None) -> Form:
    """The form that a policy's `score` names, for a model with this scale and bias."""
    return Cosine(logit_scale) if score == "cosine" else Contrast(logit_scale, logit_bias)


def _log_sum(logits: Float64Array) -> Float64Array:
    """(N,) log of the sum of exponentials over each row.

    Added column by column: in the same order whatever N is, so that a row alone gets the same.
    """
    highest = logits.max(axis=1)
    terms = np.exp(logits - highest[:, None])
    total = np.zeros_like(highest)
    for column in range(terms.shape[1]):
        total += terms[:, column]
    sums: Float64Array = np.log(total) + highest
    return sums
