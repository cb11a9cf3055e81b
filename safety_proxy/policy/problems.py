"""From a TOML text to a policy, or to one error that tells all problems: line, cause, remedy."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safety_proxy.errors import ConfigError
from safety_proxy.policy.checks import Problem, did_you_mean, problems_of
from safety_proxy.policy.locate import Path, line_of, locate
from safety_proxy.policy.tables import (
    CHECK_FAILED,
    Concept,
    Condition,
    Control,
    CurvePoint,
    Policy,
    Prompt,
    Provenance,
    Rule,
)

# What stands at a path, its names and numbers as "*".
_TABLES: Final[Mapping[Path, type[BaseModel]]] = {
    (): Policy,
    ("concepts", "*"): Concept,
    ("concepts", "*", "prompts", "*"): Prompt,
    ("controls", "*"): Control,
    ("rules", "*"): Rule,
    ("rules", "*", "all", "*"): Condition,
    ("rules", "*", "any", "*"): Condition,
    ("provenance",): Provenance,
    ("provenance", "curve", "*"): CurvePoint,
}

# By the kind of a pydantic error: what is wrong, and what to do. Formatted with the error's
# context, the value as `value`, the key as `key` and an example as `example`.
_TOLD: Final = {
    "missing": ("`{key}` is missing", "add it, as in {example}"),
    "extra_forbidden": ("there is no key `{key}` here", "{near}these are known: {known}"),
    "string_type": ("{value} is no text", "write a text in quotes, as in {example}"),
    "string_too_short": ("the text is empty", "write one, as in {example}, or remove it"),
    "float_type": ("{value} is no number", "write a number without quotes, as in {example}"),
    "int_type": ("{value} is no whole number", "write one without quotes, as in {example}"),
    "int_from_float": ("{value} is no whole number", "write one, as in {example}"),
    "finite_number": ("{value} is no number that a score can reach", "write one, as in {example}"),
    "less_than_equal": ("{value} is more than {le:g}", "write {le:g} or less, as in {example}"),
    "greater_than_equal": ("{value} is less than {ge:g}", "write {ge:g} or more, as in {example}"),
    "too_short": ("there is nothing in `{key}`", "add at least one entry, as in {example}"),
    "list_type": ("{value} is no list", "put it in brackets, as in {example}"),
    "dict_type": ("{value} is no table", "write one, as in {example}"),
    "model_type": ("{value} is no table", "write one, as in {example}"),
    "enum": ("`{key}` cannot be {value}", "{near}write one of: {expected}"),
    "literal_error": ("`{key}` cannot be {value}", "{near}write one of: {expected}"),
    "date_type": ("{value} is no date", "write one without quotes, as in {example}"),
}
_OTHERWISE: Final = ("{value}: {message}", "write it as in {example}")

# By key; of an entry in a list, by the list's.
_EXAMPLES: Final = {
    "name": 'name = "my policy"',
    "note": 'note = "for our own pictures"',
    "score": 'score = "contrast"',
    "model": 'model = "ViT-L-14/openai"',
    "severity": "severity = 0.5",
    "unreadable": 'unreadable = "block"',
    "templates": 'templates = ["a photo of {}"]',
    "neutral": 'neutral = ["a photo", "an object"]',
    "concepts": '[concepts.fire] with prompts = ["fire"] and threshold = 0.5',
    "prompts": 'prompts = ["fire", "a flame"]',
    "text": 'text = "a flame"',
    "threshold": "threshold = 0.5",
    "critical": "critical = 0.8",
    "weight": "weight = 2",
    "controls": '[[controls]] with prompts = ["a sunset"], threshold = 0.5 and shifts',
    "shifts": "shifts = { fire = -0.1 }",
    "rules": '[[rules]] with name = "fire", action = "block" and all = ["fire"]',
    "action": 'action = "block"',
    "all": 'all = ["fire", { concept = "water", weight = 2 }]',
    "any": 'any = ["fire", { concept = "water", weight = 2 }]',
    "concept": 'concept = "fire"',
    "provenance": "[provenance] as `calibrate` writes it, or nothing",
    "data": 'data = "sha256 of the pictures"',
    "date": "date = 2026-01-31",
    "pictures": "pictures = 1000",
    "wanted_rate": "wanted_rate = 0.001",
    "curve": "curve = [{ severity = 0.0, rate = 0.001, bound = 0.005 }]",
    "rate": "rate = 0.001",
    "bound": "bound = 0.005",
}

_COSINE_EXAMPLES: Final = {
    "threshold": "threshold = 0.2",
    "critical": "critical = 0.24",
    "shifts": "shifts = { fire = -0.03 }",
}

# What people may have meant where TOML's grammar ends, by the start of tomllib's message.
_GRAMMAR: Final = {
    "Cannot overwrite": "this key is there already; keep one of the two",
    "Cannot declare": "this table is there already; join the two, or write [[...]] for a list",
    "Duplicate inline": "this key is there already; keep one of the two",
    "Unclosed": "close it with ] or }",
    "Expected newline": "put each `key = value` on a line of its own",
    "Expected '='": "write `key = value`",
    "Invalid value": "texts stand in quotes; numbers are written like 0.5, lists like [1, 2]",
    "Unterminated": "end the text with the quote it began with",
    "Illegal character": 'remove it, or use """ for texts of several lines',
    "Expected ']'": "close the table's name with ]",
}
_GRAMMAR_OTHERWISE: Final = "a line is `key = value`, [table], [[list of tables]] or # comment"
_POSITION: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def read_tables(text: str, *, where: str) -> Policy:
    """The policy in a TOML text. Raises ConfigError, which names `where`."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(_grammar_problem(text, where, str(error))) from error
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        examples = _EXAMPLES | (_COSINE_EXAMPLES if data.get("score") == "cosine" else {})
        of_kind = [_problem(e, examples) for e in error.errors() if e["type"] != CHECK_FAILED]
        problems = [*of_kind, *problems_of(data)]
        lines = locate(text)
        told = sorted((line_of(lines, problem.path), str(problem)) for problem in problems)
        raise ConfigError(
            "\n".join(
                [
                    f"Policy {where} cannot be used:",
                    *(f"  {where}, line {line}: {problem}" for line, problem in told),
                ]
            )
        ) from error


def _grammar_problem(text: str, where: str, message: str) -> str:
    # Before Python 3.14 the position is in the message alone.
    position = _POSITION.search(message)
    ends = max(text.rstrip().count("\n") + 1, 1)
    line = int(position[1]) if position and position[1] else ends
    cause = _POSITION.sub("", message)
    remedy = next((r for start, r in _GRAMMAR.items() if cause.startswith(start)), "")
    content = text.split("\n")[line - 1].strip()
    return (
        f"Policy {where} cannot be used:\n"
        f"  {where}, line {line}: not valid TOML: {cause}, at or before {content[:80]!r}; "
        f"{remedy or _GRAMMAR_OTHERWISE}"
    )


def _problem(error: ErrorDetails, examples: Mapping[str, str]) -> Problem:
    path: Path = error["loc"]
    key = _key(path)
    context = error.get("ctx", {})
    cause, remedy = _TOLD.get(error["type"], _OTHERWISE)
    facts = {
        **context,
        "key": key,
        "value": _shown(error["input"]),
        "message": error["msg"],
        "example": examples.get(key, "docs/policy.md"),
        "expected": str(context.get("expected", "")).replace(" or ", ", ").replace("'", '"'),
    }
    if error["type"] == "extra_forbidden":
        known = list(_known_keys(path[:-1]))
        facts |= {"near": _near(key, path, known), "known": ", ".join(known)}
    elif "expected" in context:
        names = re.findall(r"'([^']+)'", str(context["expected"]))
        facts["near"] = did_you_mean(error["input"], names)
    return Problem(path, cause.format(**facts), remedy.format(**facts))


def _near(key: str, path: Path, known: list[str]) -> str:
    if len(path) > 1 and key in Policy.model_fields:
        return f"if you mean the file's `{key}`, put it before the first [table]; "
    return did_you_mean(key, known)


def _key(path: Path) -> str:
    """The name at the end of a path; of a list's entries, and of a control's shifts, theirs."""
    if path[-2:-1] in {("shifts",), ("concepts",)}:
        return str(path[-2])
    return next((part for part in reversed(path) if isinstance(part, str)), "")


def _known_keys(path: Path) -> Iterator[str]:
    for pattern, table in _TABLES.items():
        if len(pattern) == len(path) and all(
            wanted in ("*", part) for wanted, part in zip(pattern, path, strict=True)
        ):
            yield from table.model_fields


def _shown(value: Any) -> str:
    """A value as TOML has it, and not too long."""
    if isinstance(value, bool):
        return str(value).lower()
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    return shorten(shown, 40, placeholder="...")
