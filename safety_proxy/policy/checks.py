"""What makes a policy wrong though each of its values is of the right kind.

Looks at the tables as TOML gives them, and passes over what is of the wrong kind: that is told by
whoever checks kinds, and one wrong value must not hide the next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final

from safety_proxy.policy.locate import Path

# Weight of a prompt at or over its critical threshold, as the field's tested policy has it.
CRITICAL_WEIGHT: Final = 3

_USUAL: Final = {
    "cosine": "a cosine; for ViT-L-14 the useful ones are 0.15 to 0.30",
    "contrast": "a probability above 0 and below 1, such as 0.5",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a policy: where, what (the cause), and what to do (the remedy)."""

    path: Path
    cause: str
    remedy: str

    def __str__(self) -> str:
        where = f"{written(self.path)}: " if self.path else ""
        return f"{where}{self.cause}; {self.remedy}"


def written(path: Path) -> str:
    """A path as people write it: rules[0].all[1].weight, entries counted from 0."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    return "".join(parts).removeprefix(".")


def did_you_mean(name: object, known: Mapping[str, Any] | list[str]) -> str:
    """The known name that looks most like it, as a question, or ""."""
    near = get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? " if near else ""


def problems_of(data: Mapping[str, Any]) -> list[Problem]:
    """All that is wrong in the tables of a policy file, as far as they are of the right kinds."""
    return [
        *_in_texts(data),
        *(p for name, concept in _concepts(data) for p in _in_concept(data, name, concept)),
        *_in_controls(data),
        *_in_rules(data),
        *_in_names(data),
    ]


def _in_texts(data: Mapping[str, Any]) -> Iterator[Problem]:
    for number, template in _entries(data, "templates", str):
        if template and "{}" not in template:
            yield Problem(
                ("templates", number),
                f"template {template!r} has no {{}} for the prompt to go to",
                f'write {{}} where it goes, as in "{template} {{}}"',
            )
    if data.get("score") == "contrast" and not data.get("neutral"):
        yield Problem(
            ("neutral",),
            "score = 'contrast' compares prompts with neutral ones, and there are none",
            'add some, as in neutral = ["a photo", "an object"], or use score = "cosine"',
        )


def _in_concept(data: Mapping[str, Any], name: str, concept: dict[str, Any]) -> Iterator[Problem]:
    here: Path = ("concepts", name)
    for key in ("threshold", "critical"):
        yield from _range(data, (*here, key), concept.get(key))
    seen: set[str] = set()
    for number, prompt in _prompts(concept):
        path = (*here, "prompts", number)
        text = prompt.get("text")
        if isinstance(text, str):
            yield from _in_text(path, text, seen)
            seen.add(text.strip())
        yield from _in_bounds(data, path, prompt, concept)


def _in_text(path: Path, text: str, seen: set[str]) -> Iterator[Problem]:
    if text and not text.strip():
        yield Problem(path, "the prompt is blank", "write what is to be found, or remove it")
    elif text.strip() in seen:
        yield Problem(
            path,
            f"prompt {text.strip()!r} is there twice, and would count twice",
            "remove one, or give one the `weight` of both",
        )


def _in_bounds(
    data: Mapping[str, Any], path: Path, prompt: dict[str, Any], concept: dict[str, Any]
) -> Iterator[Problem]:
    for key in ("threshold", "critical"):
        yield from _range(data, (*path, key), prompt.get(key))
    threshold, critical = (_first(prompt, concept, key) for key in ("threshold", "critical"))
    if threshold is None:
        yield Problem(
            path,
            f"prompt {prompt.get('text')!r} has no threshold",
            f"give it one, or give the concept one for all its prompts ({_usual(data)})",
        )
    elif _is_number(threshold) and _is_number(critical) and critical < threshold:
        own = prompt.get("critical") is not None
        where = (*path, "critical") if own else path
        yield Problem(
            where,
            f"prompt {prompt.get('text')!r}: critical {critical} is below threshold {threshold}",
            f"give it a critical of {threshold} or more, or lower the threshold",
        )


def _in_controls(data: Mapping[str, Any]) -> Iterator[Problem]:
    for number, control in _entries(data, "controls", dict):
        yield from _range(data, ("controls", number, "threshold"), control.get("threshold"))
        shifts = control.get("shifts")
        for concept in shifts if isinstance(shifts, dict) else ():
            yield from _known(data, ("controls", number, "shifts", concept), concept)


def _in_rules(data: Mapping[str, Any]) -> Iterator[Problem]:
    for number, rule in _entries(data, "rules", dict):
        here: Path = ("rules", number)
        if not rule.get("all") and not rule.get("any"):
            yield Problem(
                here,
                f"rule {rule.get('name')!r} has neither `all` nor `any`, and would never hold",
                'name the concepts it needs, as in all = ["fire"], or remove the rule',
            )
        for key in ("all", "any"):
            for entry, condition in _entries(rule, key, (str, dict)):
                yield from _in_condition(data, (*here, key, entry), condition)


def _in_condition(data: Mapping[str, Any], path: Path, condition: Any) -> Iterator[Problem]:
    short = isinstance(condition, str)
    name = condition if short else condition.get("concept")
    if not isinstance(name, str):
        return
    yield from _known(data, path if short else (*path, "concept"), name)
    weight = 1 if short else condition.get("weight", 1)
    most = _most_weight(dict(_concepts(data)).get(name))
    if _is_number(weight) and most is not None and weight > most:
        yield Problem(
            (*path, "weight"),
            f"weight {weight} of {name!r} can never be reached: its prompts weigh {most} at most",
            f"ask for {most} or less, or give the concept more prompts, weights or a critical",
        )


def _in_names(data: Mapping[str, Any]) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for number, rule in _entries(data, "rules", dict):
        name = rule.get("name")
        if isinstance(name, str) and name in seen:
            yield Problem(
                ("rules", number, "name"),
                f"the name {name!r} is that of rules[{seen[name]}] too",
                "give each rule a name of its own: verdicts are told by it",
            )
        elif isinstance(name, str):
            seen[name] = number


def _known(data: Mapping[str, Any], path: Path, name: str) -> Iterator[Problem]:
    concepts = data.get("concepts")
    if isinstance(concepts, dict) and concepts and name not in concepts:
        there = ", ".join(sorted(concepts))
        yield Problem(
            path,
            f"there is no concept {name!r}",
            f"{did_you_mean(name, concepts)}name one of: {there}; or add [concepts.{name}]",
        )


def _range(data: Mapping[str, Any], path: Path, value: object) -> Iterator[Problem]:
    """Of a probability; that of a cosine is a matter of kind."""
    in_kind = _is_number(value) and -1 <= value <= 1  # type: ignore[operator] # a number, see left
    if data.get("score") == "contrast" and in_kind and not 0 < value < 1:  # type: ignore[operator]
        which = "nothing reaches" if value == 1 else "everything reaches"
        yield Problem(path, f"{value} is a probability that {which}", f"write {_usual(data)}")


def _most_weight(concept: object) -> int | None:
    """The most that a concept can weigh; None where something in it is of the wrong kind."""
    if not isinstance(concept, dict) or not isinstance(concept.get("prompts"), list):
        return None
    prompts = [prompt for _, prompt in _prompts(concept)]
    weights = [prompt.get("weight", 1) for prompt in prompts]
    if len(prompts) < len(concept["prompts"]) or not all(map(_is_number, weights)):
        return None
    most: int = sum(
        weight * (1 if _first(prompt, concept, "critical") is None else CRITICAL_WEIGHT)
        for prompt, weight in zip(prompts, weights, strict=True)
    )
    return most


def _concepts(data: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    concepts = data.get("concepts")
    for name, concept in concepts.items() if isinstance(concepts, dict) else ():
        if isinstance(concept, dict):
            yield name, concept


def _prompts(concept: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, prompt in _entries(concept, "prompts", (str, dict)):
        yield number, {"text": prompt} if isinstance(prompt, str) else prompt


def _entries(table: Mapping[str, Any], key: str, kind: Any) -> Iterator[tuple[int, Any]]:
    entries = table.get(key)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, kind):
            yield number, entry


def _first(prompt: dict[str, Any], concept: dict[str, Any], key: str) -> Any:
    """The prompt's own, or the concept's."""
    return concept.get(key) if prompt.get(key) is None else prompt[key]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _usual(data: Mapping[str, Any]) -> str:
    return _USUAL.get(str(data.get("score")), "a number from -1 to 1")
