"""The tables of a policy file, as docs/policy.md describes them.

    name = "fire and water"
    score = "contrast"                 # or "cosine"
    model = "ViT-B-32"                 # what the thresholds were found for; may be left out
    severity = 0.0                     # moves all thresholds of concepts: 1.0 is e times the odds
    unreadable = "block"               # a file that no picture can be read from
    templates = ["{}", "a photo of {}"]
    neutral = ["a photo"]              # contrast only: what the prompts are compared with

    [concepts.fire]
    threshold = 0.5                    # for prompts that bring none of their own
    prompts = ["fire", { text = "a burning house", threshold = 0.6, critical = 0.9, weight = 2 }]

    [[controls]]                       # a known error of the model, corrected
    prompts = ["a sunset"]
    threshold = 0.5
    shifts = { fire = -0.1 }           # added to fire's scores in frames that show a sunset

    [[rules]]
    name = "fire-and-water"
    action = "block"
    all = ["water", { concept = "fire", weight = 2 }]

A prompt is found in a frame when its score reaches `threshold`, and then has its weight (1 unless
given); from `critical` on it has three times that. A concept's weight is the sum over its prompts.
A rule holds when every entry of `all` has its weight (1 unless given), and at least one of `any`.
"""

import datetime as dt
import hashlib
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictFloat,
    model_validator,
)
from pydantic_core import PydanticCustomError

from safety_proxy.policy.checks import CRITICAL_WEIGHT, problems_of
from safety_proxy.verdict import Action

# What severities may be: beyond it every threshold lies outside of all scores.
SEVERITY_LIMIT: Final = 20.0

# The error type of what `checks` finds, among pydantic's own.
CHECK_FAILED: Final = "policy_check"

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[FiniteFloat, StrictFloat]
# A cosine, a probability, or what is added to one.
Score = Annotated[Number, Field(ge=-1, le=1)]
# A name as TOML gives it, though everything else is taken as strictly as TOML writes it.
ActionName = Annotated[Action, Field(strict=False)]


class Table(BaseModel):
    """A table of the file. Nothing is coerced: `true` is no number, and "0.5" is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Prompt(Table):
    """One text. Thresholds are cosines or probabilities, as the policy's `score` says."""

    text: Text
    threshold: Score | None = None
    critical: Score | None = None
    weight: int = Field(1, ge=1, le=1000)


def _as_prompt(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


class Concept(Table):
    """A thing to be found, worded in several ways."""

    prompts: list[Annotated[Prompt, BeforeValidator(_as_prompt)]] = Field(min_length=1)
    threshold: Score | None = None
    critical: Score | None = None

    @property
    def most_weight(self) -> int:
        """The weight when every prompt is found as strongly as can be."""
        return sum(
            prompt.weight * (1 if self.bounds(prompt)[1] is None else CRITICAL_WEIGHT)
            for prompt in self.prompts
        )

    def bounds(self, prompt: Prompt) -> tuple[float, float | None]:
        """Threshold and critical threshold of one of its prompts, before any severity."""
        threshold = prompt.threshold if prompt.threshold is not None else self.threshold
        if threshold is None:
            raise ValueError(f"prompt {prompt.text!r} has no threshold, nor has its concept")
        return threshold, prompt.critical if prompt.critical is not None else self.critical


class Control(Table):
    """Found in a frame, it shifts the scores of other concepts there: CLIP errs in known ways."""

    prompts: list[Text] = Field(min_length=1)
    threshold: Score
    shifts: dict[str, Score] = Field(min_length=1)


class Condition(Table):
    """A concept, found with at least this weight in one frame."""

    concept: str
    weight: int = Field(1, ge=1)


def _as_condition(value: object) -> object:
    return {"concept": value} if isinstance(value, str) else value


Conditions = list[Annotated[Condition, BeforeValidator(_as_condition)]]


class Rule(Table):
    """When it holds in any one frame, its action applies; the most severe action wins."""

    name: Text
    action: ActionName
    all: Conditions = []
    any: Conditions = []


class CurvePoint(Table):
    """What was measured at one severity: the share of pictures, and its upper bound at 95 %."""

    severity: Number
    rate: Annotated[Number, Field(ge=0, le=1)]
    bound: Annotated[Number, Field(ge=0, le=1)]


class Provenance(Table):
    """How the thresholds were found. `calibrate` writes it; no verdict depends on it.

    model: fingerprint of the model that scored. data: digest over the pictures' digests.
    wanted_rate: share of these harmless pictures that may be acted on.
    """

    model: Text
    data: Text
    date: dt.date
    pictures: int = Field(ge=1)
    wanted_rate: Annotated[Number, Field(ge=0, le=1)]
    curve: list[CurvePoint] = []


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Policy(Table):
    """A policy file, checked. Equal policies judge alike; `version` says when two do."""

    name: Text
    note: str = ""
    score: Literal["cosine", "contrast"]
    model: Annotated[list[Text], BeforeValidator(_as_list)] = []
    severity: Annotated[Number, Field(ge=-SEVERITY_LIMIT, le=SEVERITY_LIMIT)] = 0.0
    unreadable: ActionName = Action.BLOCK
    templates: list[Text] = Field(["{}"], min_length=1)
    neutral: list[Text] = []
    concepts: dict[str, Concept] = Field(min_length=1)
    controls: list[Control] = []
    rules: list[Rule] = Field(min_length=1)
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        found = problems_of(self.model_dump(mode="json"))
        for problem in found:
            raise PydanticCustomError(CHECK_FAILED, "{problem}", {"problem": str(problem)})
        return self

    @property
    def version(self) -> str:
        """Twelve hex digits that change with every change of meaning, not of layout or name."""
        meaning = self.model_dump_json(exclude={"name", "note", "model", "provenance"})
        return hashlib.sha256(meaning.encode()).hexdigest()[:12]

    def with_severity(self, severity: float) -> "Policy":
        """The same policy, more severe (> 0) or milder (< 0) than it is written.

        Raises pydantic's ValidationError beyond SEVERITY_LIMIT.
        """
        return Policy.model_validate({**self.model_dump(), "severity": float(severity)})

    def only_flagging(self) -> "Policy":
        """The same policy, but that every rule that blocks flags; `unreadable` stays.

        Its name says so: logs, `/stats` and reports show it.
        """
        rules = [
            rule.model_copy(update={"action": Action.FLAG}) if rule.action is Action.BLOCK else rule
            for rule in self.rules
        ]
        return self.model_copy(update={"rules": rules, "name": f"{self.name} (dry run)"})
