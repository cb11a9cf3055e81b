"""From a policy to the text of its file: `parse_policy(policy_toml(policy))` is equal to it."""

import json
import re
from collections.abc import Iterator
from typing import Final

from safety_proxy.policy.tables import (
    Concept,
    Condition,
    Control,
    CurvePoint,
    Policy,
    Prompt,
    Provenance,
    Rule,
)

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def policy_toml(policy: Policy, *, comment: str = "") -> str:
    """The policy as TOML. `comment` comes first, a "#" before each of its lines.

    What has its usual value is left out. Concepts and rules keep their order, which is part of a
    policy's version.
    """
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *_file(policy)]) + "\n"


def _file(policy: Policy) -> Iterator[str]:
    yield f"name = {_text(policy.name)}"
    if policy.note:
        yield f"note = {_text(policy.note)}"
    yield f"score = {_text(policy.score)}"
    if policy.model:
        yield f"model = {_texts(policy.model)}"
    if policy.severity:
        yield f"severity = {policy.severity!r}"
    yield f"unreadable = {_text(policy.unreadable)}"
    yield f"templates = {_texts(policy.templates)}"
    if policy.neutral:
        yield from _list("neutral", map(_text, policy.neutral))
    if policy.provenance is not None:
        yield from _provenance(policy.provenance)
    for name, concept in policy.concepts.items():
        yield from _concept(name, concept)
    for control in policy.controls:
        yield from _control(control)
    for rule in policy.rules:
        yield from _rule(rule)


def _concept(name: str, concept: Concept) -> Iterator[str]:
    yield from ("", f"[concepts.{_key(name)}]")
    if concept.threshold is not None:
        yield f"threshold = {concept.threshold!r}"
    if concept.critical is not None:
        yield f"critical = {concept.critical!r}"
    yield from _list("prompts", map(_prompt, concept.prompts))


def _prompt(prompt: Prompt) -> str:
    facts = {
        "threshold": prompt.threshold,
        "critical": prompt.critical,
        "weight": None if prompt.weight == 1 else prompt.weight,
    }
    own = [f"{key} = {value!r}" for key, value in facts.items() if value is not None]
    return _inline([f"text = {_text(prompt.text)}", *own]) if own else _text(prompt.text)


def _control(control: Control) -> Iterator[str]:
    yield from ("", "[[controls]]")
    yield f"prompts = {_texts(control.prompts)}"
    yield f"threshold = {control.threshold!r}"
    shifts = _inline([f"{_key(name)} = {shift!r}" for name, shift in control.shifts.items()])
    yield f"shifts = {shifts}"


def _rule(rule: Rule) -> Iterator[str]:
    yield from ("", "[[rules]]", f"name = {_text(rule.name)}", f"action = {_text(rule.action)}")
    for key, conditions in (("all", rule.all), ("any", rule.any)):
        if conditions:
            yield f"{key} = [{', '.join(map(_condition, conditions))}]"


def _condition(condition: Condition) -> str:
    name = _text(condition.concept)
    if condition.weight == 1:
        return name
    return _inline([f"concept = {name}", f"weight = {condition.weight}"])


def _provenance(provenance: Provenance) -> Iterator[str]:
    yield from ("", "[provenance]")
    yield f"model = {_text(provenance.model)}"
    yield f"data = {_text(provenance.data)}"
    yield f"date = {provenance.date.isoformat()}"
    yield f"pictures = {provenance.pictures}"
    yield f"wanted_rate = {provenance.wanted_rate!r}"
    if provenance.curve:
        yield from _list("curve", map(_curve_point, provenance.curve))


def _curve_point(point: CurvePoint) -> str:
    return _inline(
        [f"severity = {point.severity!r}", f"rate = {point.rate!r}", f"bound = {point.bound!r}"]
    )


def _list(key: str, entries: Iterator[str]) -> Iterator[str]:
    """One entry a line."""
    yield f"{key} = ["
    for entry in entries:
        yield f"    {entry},"
    yield "]"


def _texts(texts: list[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _inline(pairs: list[str]) -> str:
    return f"{{ {', '.join(pairs)} }}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name)


def _text(value: str) -> str:
    # JSON's escapes are TOML's; TOML wants one more control character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
