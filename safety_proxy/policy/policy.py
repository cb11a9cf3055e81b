"""The policy file: concepts as prompts with thresholds, and rules that join them.

    name = "fire and water"
    score = "contrast"                 # or "cosine"
    unreadable = "block"               # a file that no picture can be read from
    templates = ["{}", "a photo of {}"]
    neutral = ["a photo"]              # contrast only: what the prompts are compared with

    [concepts.fire]
    threshold = 0.5                    # for prompts that bring none of their own
    prompts = ["fire", { text = "a burning house", threshold = 0.6, critical = 0.9 }]

    [[controls]]                       # a known error of the model, corrected
    prompts = ["a sunset"]
    threshold = 0.5
    shifts = { fire = -0.1 }           # added to fire's scores in frames that show a sunset

    [[rules]]
    name = "fire-and-water"
    action = "block"
    all = ["water", { concept = "fire", weight = 2 }]

A prompt is found in a frame when its score reaches `threshold`, and then weighs 1; from `critical`
on it weighs `critical_weight`. A concept's weight is the sum over its prompts. A rule holds when
every entry of `all` has its weight (1 unless given), and at least one of `any`.
"""

import hashlib
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from safety_proxy.errors import ConfigError
from safety_proxy.verdict import Action

# Weight of a prompt at or over its critical threshold, as the field's tested policy has it.
CRITICAL_WEIGHT = 3


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompt(_Table):
    """One text. Thresholds are cosines or probabilities, as the policy's `score` says."""

    text: str = Field(min_length=1)
    threshold: float | None = Field(None, ge=-1, le=1)
    critical: float | None = Field(None, ge=-1, le=1)


def _as_prompt(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


class Concept(_Table):
    """A thing to be found, worded in several ways."""

    prompts: list[Annotated[Prompt, BeforeValidator(_as_prompt)]] = Field(min_length=1)
    threshold: float | None = Field(None, ge=-1, le=1)
    critical: float | None = Field(None, ge=-1, le=1)

    @model_validator(mode="after")
    def _every_prompt_has_a_threshold(self) -> Self:
        for prompt in self.prompts:
            threshold, critical = self.bounds(prompt)
            if critical is not None and critical < threshold:
                raise ValueError(
                    f"prompt {prompt.text!r}: critical {critical} is below threshold {threshold}"
                )
        return self

    @property
    def most_weight(self) -> int:
        """The weight when every prompt is found as strongly as can be."""
        criticals = [self.bounds(prompt)[1] for prompt in self.prompts]
        return sum(1 if critical is None else CRITICAL_WEIGHT for critical in criticals)

    def bounds(self, prompt: Prompt) -> tuple[float, float | None]:
        """Threshold and critical threshold of one of its prompts."""
        threshold = prompt.threshold if prompt.threshold is not None else self.threshold
        if threshold is None:
            raise ValueError(
                f"prompt {prompt.text!r} has no threshold; give it one, or give the concept one"
            )
        return threshold, prompt.critical if prompt.critical is not None else self.critical


class Control(_Table):
    """Found in a frame, it shifts the scores of other concepts there: CLIP errs in known ways."""

    prompts: list[str] = Field(min_length=1)
    threshold: float = Field(ge=-1, le=1)
    shifts: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(min_length=1)


class Condition(_Table):
    """A concept, found with at least this weight in one frame."""

    concept: str
    weight: int = Field(1, ge=1)


def _as_condition(value: object) -> object:
    return {"concept": value} if isinstance(value, str) else value


Conditions = list[Annotated[Condition, BeforeValidator(_as_condition)]]


class Rule(_Table):
    """When it holds in any one frame, its action applies; the most severe action wins."""

    name: str = Field(min_length=1)
    action: Action
    all: Conditions = []
    any: Conditions = []

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not self.all and not self.any:
            raise ValueError(f"rule {self.name!r} has neither `all` nor `any`")
        return self


class Policy(_Table):
    """A policy file, checked."""

    name: str = Field(min_length=1)
    note: str = ""
    score: Literal["cosine", "contrast"]
    unreadable: Action = Action.BLOCK
    templates: list[str] = Field(["{}"], min_length=1)
    neutral: list[str] = []
    concepts: dict[str, Concept] = Field(min_length=1)
    controls: list[Control] = []
    rules: list[Rule] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for where, name in self._mentioned_concepts():
            if name not in self.concepts:
                known = ", ".join(sorted(self.concepts))
                raise ValueError(f"{where} names the concept {name!r}; there are: {known}")
        for rule in self.rules:
            for condition in [*rule.all, *rule.any]:
                most = self.concepts[condition.concept].most_weight
                if condition.weight > most:
                    raise ValueError(
                        f"rule {rule.name!r} wants {condition.concept!r} with weight "
                        f"{condition.weight}, which its prompts reach never: {most} at most"
                    )
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} for the prompt to go to")
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError(f"two rules have one name, among: {', '.join(names)}")
        if self.score == "contrast" and not self.neutral:
            raise ValueError("score = 'contrast' needs `neutral` prompts to compare with")
        return self

    def _mentioned_concepts(self) -> Iterator[tuple[str, str]]:
        for rule in self.rules:
            for condition in [*rule.all, *rule.any]:
                yield f"rule {rule.name!r}", condition.concept
        for control in self.controls:
            for concept in control.shifts:
                yield f"control {control.prompts[0]!r}", concept

    @property
    def version(self) -> str:
        """Twelve hex digits that change with every change of meaning, not of layout or name."""
        meaning = self.model_dump_json(exclude={"name", "note"})
        return hashlib.sha256(meaning.encode()).hexdigest()[:12]


def parse_policy(text: str, *, where: str) -> Policy:
    """The policy in a TOML text. `where` names its origin in errors. Raises ConfigError."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Policy {where}: not valid TOML: {error}.") from error
    except ValidationError as error:
        problems = [
            f"  {'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ConfigError("\n".join([f"Policy {where} cannot be used:", *problems])) from error


def load_policy(file: Path) -> Policy:
    """The policy in a file. Raises ConfigError."""
    try:
        return parse_policy(file.read_text(encoding="utf-8"), where=str(file))
    except OSError as error:
        raise ConfigError(f"Policy file {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Policy file {file}: not UTF-8: {error}.") from error


def default_policy(model: str) -> Policy:
    """The policy of the package for the model with this fingerprint (see Embedder)."""
    tested = ("ViT-L-14/openai/", "ViT-L-14-quickgelu/openai/")
    form = "cosine" if model.startswith(tested) else "contrast"
    name = f"default_{form}.toml"
    text = resources.files("safety_proxy.policy").joinpath(name).read_text(encoding="utf-8")
    return parse_policy(text, where=name)
