"""A policy, ready to judge: its prompts as embeddings of one model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safety_proxy.crops import Float32Array
from safety_proxy.policy.explain import Explanation, explain
from safety_proxy.policy.forms import Float64Array
from safety_proxy.policy.scores import Embeddings, EmbedTexts, Scorer
from safety_proxy.policy.tables import Policy, Rule
from safety_proxy.policy.weighing import Int8Array, Needs, Scales
from safety_proxy.verdict import Action, ConceptScore, Reason

# Rows judged at once: bounds memory (about 40 MB at 768 numbers a row). Fewer lose more to the
# threads of the matrix product on a busy machine, many more no longer fit the caches.
CHUNK_ROWS: Final = 4096


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

    logit_scale, logit_bias: of that model, see Embedder.
    Costs a forward pass of the text tower when made, and a dot product for each frame.
    `judge`, `actions`, `severity_of` and `explain` agree exactly: they share scores and rules, and
    a row's scores do not depend on its neighbors.
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
        self.scorer = Scorer(policy, embed_texts, logit_scale=logit_scale, logit_bias=logit_bias)
        self.scales = Scales(policy, self.scorer.form, self.scorer.spans)
        self._actions = np.array([rule.action.severity for rule in policy.rules], np.int8)
        self._moved = np.array(
            [self.scorer.form.moved(t, policy.severity) for t in self.scales.thresholds.tolist()]
        )

    def judge(self, embeddings: Float32Array, places: Sequence[str]) -> Judgment:
        """The judgment on one picture.

        embeddings: (F, D) float32, L2-normalized, a row for each looked-at frame; F >= 1.
        places: for each row where in the file it was seen, as `Reason.where` has it.
        Raises EmbedderUnavailable on a value that is not finite: NaN is below every threshold.
        """
        scores = self.scorer.score(embeddings).prompts
        needs = self.scales.needs(scores)
        held = self.scales.held(needs, self.policy.severity)
        concepts = self._concept_scores(scores, needs)
        return Judgment(
            action=list(Action)[int(self._severest(held).max())],
            reasons=tuple(self._reasons(held, concepts, places)),
            scores=tuple(
                max((frame[name] for frame in concepts), key=lambda s: s.score - s.threshold)
                for name in self.policy.concepts
            ),
        )

    def actions(self, embeddings: Embeddings, starts: NDArray[np.int64]) -> Int8Array:
        """The action on each of very many pictures, as `Action.severity`: exactly `judge`'s.

        embeddings: (N, D) float32 or float16, L2-normalized; a memory map is read chunk by chunk.
        starts: (P,) rising from 0: picture p has the rows starts[p] to starts[p + 1], or to the
            end; at least one each.
        Returns (P,) int8. Raises as `judge`, and ValueError on starts that are no such thing.
        """
        return joint_actions([self], embeddings, starts)[0]

    def severity_of(
        self, embeddings: Embeddings, starts: NDArray[np.int64], action: Action
    ) -> Float32Array:
        """The least severity at which each picture gets this action or a more severe one.

        One number tells how near a picture is: a policy of severity s acts so on exactly the
        pictures with severity_of <= s, whatever the policy's own severity is. inf: no rule could
        ever lead there; -inf: always, as for `allow`. Parameters and errors are those of `actions`.
        Returns (P,) float32.
        """
        _check_starts(starts, len(embeddings))
        leading = [n for n, severity in enumerate(self._actions) if severity >= action.severity]
        if action is Action.ALLOW:
            return np.full(len(starts), -np.inf, np.float32)
        rows = np.full(len(embeddings), np.inf, np.float32)
        for chunk, needs in self._chunks(embeddings) if leading else ():
            rows[chunk] = self.scales.severities(needs)[:, leading].min(axis=1)
        return np.minimum.reduceat(rows, starts) if len(starts) else rows

    def margins(self, embeddings: Embeddings) -> Float32Array:
        """(N, C) float32: of each concept the score of its best prompt over that one's threshold.

        In cosines or probabilities, after controls, at severity 0; concepts in the policy's order.
        Found from 0 on. Embeddings and errors are those of `actions`.
        """
        margins = np.empty((len(embeddings), len(self.scorer.spans)), np.float32)
        for chunk in _chunks_of(len(embeddings)):
            over = self.scorer.score(embeddings[chunk]).prompts - self.scales.thresholds
            for number, span in enumerate(self.scorer.spans.values()):
                margins[chunk, number] = over[:, span].max(axis=1)
        return margins

    def explain(self, embeddings: Float32Array, places: Sequence[str]) -> Explanation:
        """All that the judgment rests on, and what would change it. Parameters are `judge`'s."""
        return explain(self.policy, self.scorer, self.scales, (embeddings, places))

    def _chunks(self, embeddings: Embeddings) -> Iterator[tuple[slice, Needs]]:
        for chunk in _chunks_of(len(embeddings)):
            yield chunk, self.scales.needs(self.scorer.score(embeddings[chunk]).prompts)

    def severest(self, prompts: Float64Array) -> Int8Array:
        """(N,): for (N, P) scores of its prompts the action on each row."""
        held = self.scales.held(self.scales.needs(prompts), self.policy.severity)
        return self._severest(held)

    def _severest(self, held: NDArray[np.bool_]) -> Int8Array:
        """(N,): of all rules that hold in a row the severest action."""
        severest: Int8Array = (held * self._actions).max(axis=1)
        return severest

    def _concept_scores(
        self, scores: NDArray[np.float64], needs: Needs
    ) -> list[dict[str, ConceptScore]]:
        """For each row each concept by the prompt that stands highest over its threshold."""
        over = scores - self._moved
        weights = self.scales.concept_weights(needs, self.policy.severity)
        return [
            {
                name: ConceptScore(
                    name,
                    score=float(scores[row, best := span.start + int(over[row, span].argmax())]),
                    threshold=float(self._moved[best]),
                    weight=int(weights[name][row]),
                )
                for name, span in self.scorer.spans.items()
            }
            for row in range(len(scores))
        ]

    def _reasons(
        self,
        held: NDArray[np.bool_],
        concepts: Sequence[dict[str, ConceptScore]],
        places: Sequence[str],
    ) -> Iterator[Reason]:
        for number, rule in enumerate(self.policy.rules):
            for holds, where, scores in zip(held[:, number], places, concepts, strict=True):
                if holds:
                    yield Reason(rule.name, tuple(_evidence(rule, scores)), where=where)
                    break


def joint_actions(
    judges: Sequence[Judge], embeddings: Embeddings, starts: NDArray[np.int64]
) -> list[Int8Array]:
    """`Judge.actions` of each, for one model; policies that differ in thresholds alone share work.

    Scores take most of the time, and are the same wherever prompts and controls are.
    """
    _check_starts(starts, len(embeddings))
    rows = [np.empty(len(embeddings), np.int8) for _ in judges]
    for chunk in _chunks_of(len(embeddings)):
        scored: list[tuple[Scorer, Float64Array]] = []
        for judge, actions in zip(judges, rows, strict=True):
            prompts = next((it for scorer, it in scored if scorer.agrees(judge.scorer)), None)
            if prompts is None:
                prompts = judge.scorer.score(embeddings[chunk]).prompts
                scored.append((judge.scorer, prompts))
            actions[chunk] = judge.severest(prompts)
    return [np.maximum.reduceat(actions, starts) if len(starts) else actions for actions in rows]


def _evidence(rule: Rule, scores: dict[str, ConceptScore]) -> Iterator[ConceptScore]:
    names = dict.fromkeys(condition.concept for condition in chain(rule.all, rule.any))
    return (scores[name] for name in names if scores[name].weight)


def _chunks_of(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS))


def _check_starts(starts: NDArray[np.int64], rows: int) -> None:
    """Reduceat would take another picture's row for one that has none."""
    if len(starts) == 0 and rows == 0:
        return
    if len(starts) == 0 or starts[0] != 0 or starts[-1] >= rows or (np.diff(starts) <= 0).any():
        raise ValueError(f"starts do not part {rows} rows into pictures of at least one row each")
