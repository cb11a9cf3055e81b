"""Why a picture got its action, and which change would give it another. Prints nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import floor
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from safety_proxy.crops import Float32Array
from safety_proxy.policy.scores import Scorer, Scores
from safety_proxy.policy.tables import Concept, Control, Policy, Prompt, Rule
from safety_proxy.policy.weighing import Scales
from safety_proxy.verdict import Action

Bound = Literal["threshold", "critical"]

# Changes of thresholds are told in steps that somebody would write.
_DECIMALS: Final = 5
_CLEARLY: Final = 0.02  # of a step: twice what float32 rounds to


@dataclass(frozen=True, slots=True)
class PromptFinding:
    """One prompt in one place. Bounds are as the policy's severity has moved them.

    weight: what it counts for; 0 if it was not found.
    """

    text: str
    score: float
    threshold: float
    critical: float | None
    weight: int

    @property
    def is_found(self) -> bool:
        return self.weight > 0

    @property
    def is_critical(self) -> bool:
        return self.critical is not None and self.is_found and self.score >= self.critical


@dataclass(frozen=True, slots=True)
class ConceptFinding:
    """One concept in one place. shift: what the controls found there added to its scores."""

    concept: str
    weight: int
    shift: float
    prompts: tuple[PromptFinding, ...]


@dataclass(frozen=True, slots=True)
class ControlFinding:
    """One control in one place, by its best prompt. shifts: made there, only if it was found."""

    prompt: str
    score: float
    threshold: float
    is_found: bool
    shifts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class PlaceFinding:
    """All that was found in one frame or crop."""

    where: str
    concepts: tuple[ConceptFinding, ...]
    controls: tuple[ControlFinding, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A condition that a rule lacks in the place where it is nearest to holding."""

    concept: str
    weight: int
    wanted: int


@dataclass(frozen=True, slots=True)
class ThresholdChange:
    """One number in the policy file that, written otherwise, flips a rule.

    written: as it stands, of the prompt or else of its concept; give the prompt `needed` as its
    own. action: what the picture then gets; other rules may still hold it.
    """

    concept: str
    prompt: str
    bound: Bound
    written: float
    needed: float
    action: Action


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """One rule, in the place where it holds most easily.

    severity: the least at which it holds there; infinite if at none. It holds if that is not above
    the policy's own. missing: of `all` what is lacking; of `any` each entry, if none is there.
    change: the smallest single one that flips the rule; None if no single one does.
    """

    rule: str
    action: Action
    is_held: bool
    where: str
    severity: float
    missing: tuple[Missing, ...]
    change: ThresholdChange | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a verdict rests on.

    severity: the policy's own. severities: for flag and block the least severity at which the
    picture gets that action or a more severe one (Judge.severity_of); infinite if at none.
    """

    action: Action
    severity: float
    severities: tuple[tuple[Action, float], ...]
    places: tuple[PlaceFinding, ...]
    rules: tuple[RuleFinding, ...]


def explain(
    policy: Policy, scorer: Scorer, scales: Scales, seen: tuple[Float32Array, Sequence[str]]
) -> Explanation:
    """The explanation of what is `seen`: embeddings and their places, as Judge.judge has them."""
    embeddings, places = seen
    scores = scorer.score(embeddings)
    told = _Telling(policy, scorer, scales, scores)
    by_rule = told.severities.min(axis=0)
    return Explanation(
        action=_severest(policy.rules, told.held),
        severity=policy.severity,
        severities=tuple(
            (action, _least(policy.rules, by_rule, action))
            for action in (Action.FLAG, Action.BLOCK)
        ),
        places=tuple(told.place(row, where) for row, where in enumerate(places)),
        rules=tuple(told.rule(number, places) for number in range(len(policy.rules))),
    )


class _Telling:
    """Puts together what is said of one picture."""

    def __init__(self, policy: Policy, scorer: Scorer, scales: Scales, scores: Scores) -> None:
        self._policy = policy
        self._scorer = scorer
        self._scales = scales
        self._scores = scores
        needs = scales.needs(scores.prompts)
        self.severities = scales.severities(needs)
        self.held = scales.held(needs, policy.severity)
        self._weights = scales.weights(needs, policy.severity)
        self._prompts = [
            (name, concept, prompt)
            for name, concept in policy.concepts.items()
            for prompt in concept.prompts
        ]

    def place(self, row: int, where: str) -> PlaceFinding:
        controls = tuple(
            self._control(row, number, control)
            for number, control in enumerate(self._policy.controls)
        )
        return PlaceFinding(
            where,
            tuple(self._concept(row, name, controls) for name in self._policy.concepts),
            controls,
        )

    def _control(self, row: int, number: int, control: Control) -> ControlFinding:
        found = bool(self._scores.controls_found[row, number])
        span = self._scorer.control_spans[number]
        return ControlFinding(
            control.prompts[int(self._scores.every[row, span].argmax())],
            float(self._scores.controls[row, number]),
            control.threshold,
            found,
            tuple(control.shifts.items()) if found else (),
        )

    def _concept(self, row: int, name: str, controls: Sequence[ControlFinding]) -> ConceptFinding:
        span = self._scorer.spans[name]
        shifts = [shift for c in controls for concept, shift in c.shifts if concept == name]
        return ConceptFinding(
            name,
            int(self._weights[row, span].sum()),
            sum(shifts),
            tuple(self._prompt(row, column) for column in range(span.start, span.stop)),
        )

    def _prompt(self, row: int, column: int) -> PromptFinding:
        _, concept, prompt = self._prompts[column]
        moved, severity = self._scorer.form.moved, self._policy.severity
        threshold, critical = concept.bounds(prompt)
        return PromptFinding(
            prompt.text,
            float(self._scores.prompts[row, column]),
            moved(threshold, severity),
            None if critical is None else moved(critical, severity),
            int(self._weights[row, column]),
        )

    def rule(self, number: int, places: Sequence[str]) -> RuleFinding:
        rule = self._policy.rules[number]
        row = int(self.severities[:, number].argmin())
        return RuleFinding(
            rule.name,
            rule.action,
            bool(self.held[:, number].any()),
            places[row],
            float(self.severities[row, number]),
            tuple(self._missing(rule, row)),
            self._smallest_change(number),
        )

    def _missing(self, rule: Rule, row: int) -> Iterator[Missing]:
        lacking = {
            group: [
                Missing(condition.concept, weight, condition.weight)
                for condition in conditions
                if (weight := self._weight(row, condition.concept)) < condition.weight
            ]
            for group, conditions in (("all", rule.all), ("any", rule.any))
        }
        yield from lacking["all"]
        if len(lacking["any"]) == len(rule.any):
            yield from lacking["any"]

    def _weight(self, row: int, concept: str) -> int:
        return int(self._weights[row, self._scorer.spans[concept]].sum())

    def _smallest_change(self, number: int) -> ThresholdChange | None:
        """Tries every bound of the rule's prompts at every score seen, the nearest first."""
        flipped = not self.held[:, number].any()
        tried = sorted(self._candidates(self._policy.rules[number], lower=flipped))
        for _, column, bound, needed in tried:
            held = self._held_with(column, bound, needed)
            if held is not None and held[:, number].any() == flipped:
                name, concept, prompt = self._prompts[column]
                return ThresholdChange(
                    name,
                    prompt.text,
                    bound,
                    _written(concept, prompt, bound),
                    needed,
                    _severest(self._policy.rules, held),
                )
        return None

    def _candidates(self, rule: Rule, *, lower: bool) -> Iterator[tuple[float, int, Bound, float]]:
        """(size in levels, prompt's column, which bound, its new value)."""
        names = {condition.concept for condition in chain(rule.all, rule.any)}
        unmoved = -self._policy.severity
        bounds: tuple[Bound, Bound] = ("threshold", "critical")
        for column, bound in product(range(len(self._prompts)), bounds):
            name, concept, prompt = self._prompts[column]
            threshold, critical = concept.bounds(prompt)
            old = threshold if bound == "threshold" else critical
            if name not in names or old is None:
                continue
            for score in self._scores.prompts[:, column].tolist():
                new = _rounded(self._scorer.form.moved(score, unmoved), down=lower)
                if self._is_score(new) and new != old and (new < old) == lower:
                    levels = self._scorer.form.levels(np.array([old, new]))
                    yield abs(float(levels[1] - levels[0])), column, bound, new

    def _is_score(self, value: float) -> bool:
        """Whether a policy can have it as a bound."""
        return (0 < value < 1) if self._policy.score == "contrast" else (-1 <= value <= 1)

    def _held_with(self, column: int, bound: Bound, value: float) -> NDArray[np.bool_] | None:
        """(F, R) with one bound changed; None where a policy could not say so."""
        thresholds, criticals = self._scales.thresholds.copy(), self._scales.criticals.copy()
        (thresholds if bound == "threshold" else criticals)[column] = value
        if criticals[column] < thresholds[column]:
            return None
        needs = self._scales.needs(self._scores.prompts, (thresholds, criticals))
        return self._scales.held(needs, self._policy.severity)


def _severest(rules: Sequence[Rule], held: NDArray[np.bool_]) -> Action:
    actions = [rule.action for number, rule in enumerate(rules) if held[:, number].any()]
    return max(actions, key=lambda action: action.severity, default=Action.ALLOW)


def _least(rules: Sequence[Rule], severities: Float32Array, action: Action) -> float:
    """The least severity of all rules that lead to this action or a more severe one."""
    leading = [
        float(severity)
        for rule, severity in zip(rules, severities, strict=True)
        if rule.action.severity >= action.severity
    ]
    return min(leading, default=float("inf"))


def _written(concept: Concept, prompt: Prompt, bound: Bound) -> float:
    threshold, critical = concept.bounds(prompt)
    written = threshold if bound == "threshold" else critical
    assert written is not None
    return written


def _rounded(value: float, *, down: bool) -> float:
    """With few decimals, and so that a score of this value is found (down) or is not.

    Cosines are compared in float32: a bound must be clearly above one that it is to leave out.
    """
    scaled = value * 10**_DECIMALS
    whole = floor(scaled) if down else floor(scaled + _CLEARLY) + 1
    return whole / 10**_DECIMALS
