"""From scores to rules: which hold at a severity, and from which severity on each holds.

The one quantity that both rest on is a **need**: the severity from which on a prompt is found, in
float32. It is at most 0 exactly where the score reaches the threshold as it is written.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from safety_proxy.crops import Float32Array
from safety_proxy.policy.checks import CRITICAL_WEIGHT
from safety_proxy.policy.forms import Float64Array, Form
from safety_proxy.policy.tables import Condition, Policy, Rule

BoolArray = NDArray[np.bool_]
Int8Array = NDArray[np.int8]

_NEVER: Final = np.float32(np.inf)


class Needs:
    """Of N rows and P prompts: found, critical: (N, P) float32 severities."""

    __slots__ = ("critical", "found")

    def __init__(self, found: Float32Array, critical: Float32Array) -> None:
        self.found = found
        self.critical = critical


class Scales:
    """Weighs prompts and tells which rules hold. Pure; the thresholds are the policy's.

    thresholds, criticals: (P,) as written, before any severity; infinite where there is none.
    """

    def __init__(self, policy: Policy, form: Form, spans: dict[str, slice]) -> None:
        self._form = form
        self._spans = spans
        self.rules: Sequence[Rule] = policy.rules
        prompts = [(c, prompt) for c in policy.concepts.values() for prompt in c.prompts]
        bounds = [concept.bounds(prompt) for concept, prompt in prompts]
        self.thresholds = np.array([threshold for threshold, _ in bounds], np.float64)
        self.criticals = np.array([np.inf if c is None else c for _, c in bounds], np.float64)
        self.prompt_weights = np.array([prompt.weight for _, prompt in prompts], np.int64)

    def needs(
        self, scores: Float64Array, bounds: tuple[Float64Array, Float64Array] | None = None
    ) -> Needs:
        """For (N, P) scores; with `bounds`, under those thresholds and criticals instead."""
        thresholds, criticals = bounds or (self.thresholds, self.criticals)
        levels = self._form.levels(scores)
        has_critical = np.isfinite(criticals)
        found = (self._form.levels(thresholds) - levels).astype(np.float32)
        if not has_critical.any():
            return Needs(found, np.broadcast_to(_NEVER, found.shape))
        raised = np.where(has_critical, criticals, thresholds)
        critical = (self._form.levels(raised) - levels).astype(np.float32)
        critical[:, ~has_critical] = _NEVER
        return Needs(found, critical)

    def weights(self, needs: Needs, severity: float) -> NDArray[np.int64]:
        """(N, P): what each prompt weighs at this severity; 0 where it is not found."""
        at = np.float32(severity)
        weights: NDArray[np.int64] = self.prompt_weights * (
            (needs.found <= at) + (CRITICAL_WEIGHT - 1) * (needs.critical <= at)
        )
        return weights

    def concept_weights(self, needs: Needs, severity: float) -> dict[str, NDArray[np.int64]]:
        """For each concept (N,)."""
        weights = self.weights(needs, severity)
        return {name: weights[:, span].sum(axis=1) for name, span in self._spans.items()}

    def held(self, needs: Needs, severity: float) -> BoolArray:
        """(N, R): whether each rule holds in each row at this severity."""
        weights = self.concept_weights(needs, severity)
        missing = [
            _joined(rule, lambda wanted: weights[wanted.concept] < wanted.weight)
            for rule in self.rules
        ]
        return ~np.stack(missing, axis=1)

    def severities(self, needs: Needs) -> Float32Array:
        """(N, R): the least severity at which each rule holds in each row; never: infinite."""
        return np.stack(
            [_joined(rule, lambda wanted: self._reached(needs, wanted)) for rule in self.rules],
            axis=1,
        )

    def _reached(self, needs: Needs, wanted: Condition) -> Float32Array:
        """(N,): the least severity at which the concept has the wanted weight."""
        span = self._spans[wanted.concept]
        gains = self.prompt_weights[span]
        if wanted.weight <= gains.min():
            lowest: Float32Array = needs.found[:, span].min(axis=1)
            return lowest
        steps = np.concatenate([needs.found[:, span], needs.critical[:, span]], axis=1)
        gains = np.concatenate([gains, gains * (CRITICAL_WEIGHT - 1)])
        order = np.argsort(steps, axis=1, kind="stable")
        enough = np.cumsum(gains[order], axis=1) >= wanted.weight
        last = np.take_along_axis(order, enough.argmax(axis=1)[:, None], axis=1)
        reached: Float32Array = np.take_along_axis(steps, last, axis=1)[:, 0]
        return reached


def _joined(rule: Rule, of: Callable[[Condition], NDArray[Any]]) -> NDArray[Any]:
    """The highest over `all` and over the lowest of `any`: of severities, or of what is missing."""
    parts = [of(condition) for condition in rule.all]
    if rule.any:
        parts.append(np.minimum.reduce([of(condition) for condition in rule.any]))
    joined: NDArray[Any] = np.maximum.reduce(parts)
    return joined
