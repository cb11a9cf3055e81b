"""A policy, ready to judge: its prompts as embeddings of one model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite

import numpy as np

from safety_proxy.crops import Float32Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.policy.policy import CRITICAL_WEIGHT, Condition, Policy, Rule
from safety_proxy.verdict import Action, ConceptScore, Reason

EmbedTexts = Callable[[Sequence[str]], Float32Array]


@dataclass(frozen=True, slots=True)
class Judgment:
    """What a policy says of one picture.

    reasons: one for each rule that held, with the first frame where it did.
    scores: each concept at its highest over all frames.
    """

    action: Action
    reasons: tuple[Reason, ...]
    scores: tuple[ConceptScore, ...]


class Judge:
    """Judges embeddings of the model whose text tower `embed_texts` is.

    logit_scale, logit_bias: of that model, see Embedder; only `contrast` uses them.
    Costs a forward pass of the text tower when made, and a dot product for each frame.
    """

    def __init__(
        self,
        policy: Policy,
        embed_texts: EmbedTexts,
        *,
        logit_scale: float,
        logit_bias: float | None,
    ) -> None:
        self.policy = policy
        self.version = policy.version
        self._logit_scale = logit_scale
        self._logit_bias = logit_bias
        # A model trained with a sigmoid lets each text stand for itself.
        compares = policy.score == "contrast" and logit_bias is None
        self._neutral = _embed(policy.neutral, policy.templates, embed_texts) if compares else None
        self._concepts = {
            name: _Prompts.of(
                _embed([prompt.text for prompt in concept.prompts], policy.templates, embed_texts),
                [concept.bounds(prompt) for prompt in concept.prompts],
            )
            for name, concept in policy.concepts.items()
        }
        self._controls = [
            (control, _embed(control.prompts, policy.templates, embed_texts))
            for control in policy.controls
        ]

    def judge(self, embeddings: Float32Array, places: Sequence[str]) -> Judgment:
        """The judgment on one picture.

        embeddings: (F, D) float32, L2-normalized, a row for each looked-at frame; F >= 1.
        places: for each row where in the file it was seen, as `Reason.where` has it.
        Raises EmbedderUnavailable on a value that is not finite: NaN is below every threshold.
        """
        by_frame = [self._scores(row) for row in embeddings]
        if not all(isfinite(score.score) for scores in by_frame for score in scores.values()):
            raise EmbedderUnavailable("scores are not finite; no judgment can rest on them")
        reasons = tuple(self._reasons(by_frame, places))
        held = {reason.rule for reason in reasons}
        actions = [rule.action for rule in self.policy.rules if rule.name in held]
        return Judgment(
            action=max(actions, key=lambda action: action.severity, default=Action.ALLOW),
            reasons=reasons,
            scores=tuple(
                max((scores[name] for scores in by_frame), key=lambda s: s.score - s.threshold)
                for name in self._concepts
            ),
        )

    def _scores(self, embedding: Float32Array) -> dict[str, ConceptScore]:
        rest = self._neutral_logit(embedding)
        shifts = dict.fromkeys(self._concepts, 0.0)
        for control, prompts in self._controls:
            if self._score(prompts @ embedding, rest).max() >= control.threshold:
                for concept, shift in control.shifts.items():
                    shifts[concept] += shift
        return {
            name: prompts.found(name, self._score(prompts.embeddings @ embedding, rest) + shift)
            for (name, prompts), shift in zip(self._concepts.items(), shifts.values(), strict=True)
        }

    def _neutral_logit(self, embedding: Float32Array) -> float:
        """What a prompt's logit is compared with: all neutral prompts together."""
        if self._neutral is None:
            return 0.0
        return float(np.logaddexp.reduce(self._logit_scale * (self._neutral @ embedding)))

    def _score(self, cosines: Float32Array, rest: float) -> Float32Array:
        """(P,) cosines as they are, or the probability of each prompt beside the neutral ones."""
        if self.policy.score == "cosine":
            return cosines
        logits = self._logit_scale * cosines + (self._logit_bias or 0.0)
        probabilities: Float32Array = np.exp(logits - np.logaddexp(logits, rest))
        return probabilities

    def _reasons(
        self, by_frame: Sequence[dict[str, ConceptScore]], places: Sequence[str]
    ) -> Iterator[Reason]:
        for rule in self.policy.rules:
            for where, scores in zip(places, by_frame, strict=True):
                if _holds(rule, scores):
                    yield Reason(rule.name, tuple(_evidence(rule, scores)), where=where)
                    break


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Of one concept: embeddings (P, D), and (P,) thresholds and critical thresholds."""

    embeddings: Float32Array
    thresholds: Float32Array
    criticals: Float32Array

    @classmethod
    def of(
        cls, embeddings: Float32Array, bounds: Sequence[tuple[float, float | None]]
    ) -> "_Prompts":
        return cls(
            embeddings,
            np.array([threshold for threshold, _ in bounds], np.float32),
            np.array(
                [np.inf if critical is None else critical for _, critical in bounds], np.float32
            ),
        )

    def found(self, concept: str, scores: Float32Array) -> ConceptScore:
        weights = np.where(scores >= self.criticals, CRITICAL_WEIGHT, scores >= self.thresholds)
        best = int(np.argmax(scores - self.thresholds))  # one that is NaN, where there is any
        return ConceptScore(
            concept,
            score=float(scores[best]),
            threshold=float(self.thresholds[best]),
            weight=int(weights.sum()),
        )


def _embed(
    prompts: Sequence[str], templates: Sequence[str], embed_texts: EmbedTexts
) -> Float32Array:
    """(P, D): each prompt's mean over the templates, normalized again, as CLIP's authors do."""
    texts = [template.replace("{}", prompt) for prompt in prompts for template in templates]
    means = embed_texts(texts).reshape(len(prompts), len(templates), -1).mean(axis=1)
    normalized: Float32Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return normalized


def _holds(rule: Rule, scores: dict[str, ConceptScore]) -> bool:
    def met(condition: Condition) -> bool:
        return scores[condition.concept].weight >= condition.weight

    return all(map(met, rule.all)) and (not rule.any or any(map(met, rule.any)))


def _evidence(rule: Rule, scores: dict[str, ConceptScore]) -> Iterator[ConceptScore]:
    names = dict.fromkeys(condition.concept for condition in chain(rule.all, rule.any))
    return (scores[name] for name in names if scores[name].weight)
