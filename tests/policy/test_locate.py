"""Tests of safety_proxy/policy/locate.py: each value of a TOML text is found on its line."""

import json
import tomllib
from collections.abc import Iterator
from itertools import count as count_from
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from safety_proxy.policy.locate import Path, line_of, locate

TEXT = '''\
name = "x"   # line 1

[concepts.fire]
threshold = 0.5
prompts = [  # [ no list, { no table
    "a # b",
    { text = "it ] }", threshold = 0.1, deep = { er = 1 } },
    """two
lines, with "quotes\\"""""",
    \'\'\'it's'\'\'\', "last",
]
"quoted \\u0041.key" . 'b' = 1979-05-27 07:32:00

[[rules]]
name = "first"
[[rules]]
name = "second"
all = [["x"], []]
[rules.more]
x = 1
[[rules.list]]
y = 2
[[rules.list]]
y = 3
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 1),
        (("concepts",), 3),
        (("concepts", "fire"), 3),
        (("concepts", "fire", "threshold"), 4),
        (("concepts", "fire", "prompts"), 5),
        (("concepts", "fire", "prompts", 0), 6),
        (("concepts", "fire", "prompts", 1), 7),
        (("concepts", "fire", "prompts", 1, "threshold"), 7),
        (("concepts", "fire", "prompts", 1, "deep", "er"), 7),
        (("concepts", "fire", "prompts", 2), 8),
        (("concepts", "fire", "prompts", 3), 10),
        (("concepts", "fire", "prompts", 4), 10),
        (("concepts", "fire", "quoted A.key", "b"), 12),
        (("rules",), 14),
        (("rules", 0, "name"), 15),
        (("rules", 1), 16),
        (("rules", 1, "all", 0, 0), 18),
        (("rules", 1, "more", "x"), 20),
        (("rules", 1, "list", 0, "y"), 22),
        (("rules", 1, "list", 1), 23),
        (("rules", 1, "list", 1, "y"), 24),
        # what is not there: the nearest around it
        (("concepts", "water", "threshold"), 3),
        (("rules", 0, "action"), 14),
        (("rules", 7, "action"), 14),
        (("score",), 1),
        ((), 1),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_path_has_its_line(path: Path, line: int, newline: str) -> None:
    """Whatever brackets, quotes and number signs stand in texts and comments."""
    text = TEXT.replace("\n", newline)
    assert tomllib.loads(text)
    assert line_of(locate(text), path) == line


def paths_of(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every path in what tomllib gave, with what is there."""
    if path:
        yield path, value
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value)
    for key, entry in entries:
        yield from paths_of(entry, (*path, key))


def check(text: str) -> None:
    """Whatever tomllib reads has a line, and nothing else has."""
    lines = locate(text)
    assert lines.keys() == {path for path, _ in paths_of(tomllib.loads(text))}
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


keys = st.sampled_from(["a", "b-1", "_", "1", '"q.q"', "'l # l'", '""', '"\\"\\u0042"'])
strings = st.text(max_size=6).map(lambda s: json.dumps(s).replace("\x7f", "\\u007f"))
plain = st.sampled_from(
    [
        *("true", "1_000", "0x1F", "-0.5e+3", "inf", "1979-05-27 07:32:00.5-07:00", "07:32:00"),
        *("''", '""', "'[\"#'", "''''a'\n''''", '"""\n"\\"""""', '""""""', '"""\\\n   x"""'),
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """TOML texts in every notation; not all are valid, as keys may be there twice."""
    gap = st.sampled_from(["", " ", "\t"])
    comment = st.sampled_from(["", " # [x] = {", " #'''"])
    space = st.sampled_from(["", " ", "\n", " # ],\n\n"])

    def value(depth: int) -> str:
        kinds = ["plain", "text", "list", "table"] if depth < 3 else ["plain", "text"]
        kind: str = draw(st.sampled_from(kinds))
        if kind == "list":
            entries = [value(depth + 1) for _ in range(draw(st.integers(0, 3)))]
            inner = ",".join(f"{draw(space)}{entry}{draw(space)}" for entry in entries)
            comma: str = draw(st.sampled_from(["", ","]))
            end = comma if entries else ""
            return f"[{inner}{end}{draw(space)}]"
        if kind == "table":
            count = draw(st.integers(0, 2))
            pairs = [f"{draw(gap)}{pair(depth + 1)}{draw(gap)}" for _ in range(count)]
            return f"{{{','.join(pairs)}}}"
        return draw(plain if kind == "plain" else strings)

    def key() -> str:
        dot = f"{draw(gap)}.{draw(gap)}"
        parts: list[str] = draw(st.lists(keys, min_size=1, max_size=2))
        return dot.join(parts)

    def pair(depth: int) -> str:
        return f"{key()}{draw(gap)}={draw(gap)}{value(depth)}"

    def line() -> str:
        kind = draw(st.sampled_from(["pair", "pair", "table", "array", "blank"]))
        if kind == "table":
            return f"{draw(gap)}[{draw(gap)}{key()}{draw(gap)}]{draw(comment)}"
        if kind == "array":
            return f"[[{draw(gap)}{key()}{draw(gap)}]]{draw(comment)}"
        return f"{draw(gap)}{pair(0)}{draw(comment)}" if kind == "pair" else draw(comment)

    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return newline.join(line() for _ in range(draw(st.integers(0, 6))))


def is_valid(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


@settings(deadline=None, max_examples=400)
@given(text=documents())
def test_every_value_in_any_notation_is_found(text: str) -> None:
    """Paths are exactly those of what tomllib gives."""
    assume(is_valid(text))
    check(text)


@settings(deadline=None, max_examples=300)
@given(text=st.text(alphabet="ab.=[]{}\"'#,\\ \n1", max_size=24))
@example("[[a]]\n[[a.b]]\n[a.b.c]\nd=1\n[[a]]\nb.c=2")
@example('a="""""""\nb=1')
def test_no_valid_text_is_too_odd(text: str) -> None:
    """Of any characters that mean something."""
    if is_valid(text):
        check(text)


@st.composite
def marked(draw: st.DrawFn) -> tuple[str, dict[int, int]]:
    """A text in which every value is a number of its own, and the line of each."""
    numbers = count_from(1000)
    lines: list[str] = []
    expected: dict[int, int] = {}

    def number() -> str:
        marker = next(numbers)
        expected[marker] = len(lines) + 1
        return str(marker)

    for table in range(draw(st.integers(1, 4))):
        lines.append(draw(st.sampled_from([f"[t{table}]", "[[many]]", f"[x.y{table}]"])))
        for entry in range(draw(st.integers(0, 3))):
            lines.append(f"k{entry} = [")
            for _ in range(draw(st.integers(0, 2))):
                lines.append(f"  {number()}, {{ a = {number()} }},")
                lines.extend(["# ]"] * draw(st.integers(0, 1)))
            lines.append("]")
            lines.append(f"s{entry} = {number()}")
    return "\n".join(lines), expected


@settings(deadline=None)
@given(text_and_lines=marked())
def test_the_line_is_where_the_value_stands(text_and_lines: tuple[str, dict[int, int]]) -> None:
    """Counted while the text was made."""
    text, expected = text_and_lines
    lines = locate(text)
    found = {v: lines[path] for path, v in paths_of(tomllib.loads(text)) if isinstance(v, int)}
    assert found == expected


def test_what_tomllib_refuses_is_refused() -> None:
    """Rather than gone round for ever."""
    with pytest.raises(ValueError, match="line 2"):
        locate("a = 1\n= 2")
