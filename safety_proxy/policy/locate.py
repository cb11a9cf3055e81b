"""Where things stand in a TOML text: the path of each key, table and array entry -> its line.

tomllib gives values without positions, and so does tomlkit (its issue 55). This walks the text that
tomllib has accepted, and reads keys alone: what a value says does not matter here.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Final

Path = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
# Three quotes before one: a text of two quotes is empty, and no start of a long one. A long text
# may have up to two quotes of its own before those that end it.
_STRING: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})(?!")'
    r"|'''.*?'''(?:'{0,2})(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN: Final = re.compile(r"[^,\]}\n#]*")


def locate(text: str) -> dict[Path, int]:
    """The line, from 1, of each path in a valid TOML text; entries of arrays have their number.

    A table that is named more than once stands where it is first named.
    """
    return _Walk(text).lines


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of a path, or of the nearest thing around it that is there; 1 for the file."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


class _Walk:
    """One pass over the text; what it comes past goes into `lines`."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._arrays: dict[Path, int] = {}  # of tables: how many there are so far
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(text):
            if self._has("["):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]`, its first bracket passed: the table that follows."""
        is_array = self._has("[")
        *above, name = self._keys()
        table: Path = ()
        for key in above:
            table = self._latest((*table, key))
            self._note(table)
        table = (*table, name)
        self._note(table)
        if is_array:
            self._arrays[table] = self._arrays.get(table, 0) + 1
            table = self._latest(table)
            self._note(table)
        self._has("]")
        self._has("]")
        return table

    def _latest(self, table: Path) -> Path:
        """Of an array of tables the last one; any other table itself."""
        return (*table, self._arrays[table] - 1) if table in self._arrays else table

    def _pair(self, table: Path) -> None:
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path)
        self._has("=")
        self._blank_or_space()
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._blank_or_space()
            raw = self._skip(_KEY)
            keys.append(next(iter(tomllib.loads(f"{raw} = 0"))) if raw[:1] in "\"'" else raw)
            self._blank_or_space()
            if not self._has("."):
                return keys

    def _value(self, path: Path) -> None:
        if self._has("["):
            self._entries(path)
        elif self._has("{"):
            self._pairs(path)
        elif self._text[self._at] in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_PLAIN)

    def _entries(self, path: Path) -> None:
        number = 0
        self._skip(_BLANK)
        while not self._has("]"):
            self._note((*path, number))
            self._value((*path, number))
            self._skip(_BLANK)
            self._has(",")
            self._skip(_BLANK)
            number += 1

    def _pairs(self, path: Path) -> None:
        self._skip(_BLANK)
        while not self._has("}"):
            self._pair(path)
            self._skip(_BLANK)
            self._has(",")
            self._skip(_BLANK)

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self._line)

    def _blank_or_space(self) -> None:
        while self._has(" ") or self._has("\t"):
            pass

    def _has(self, character: str) -> bool:
        """Passes the character if it is next."""
        found = self._text.startswith(character, self._at)
        self._at += len(character) if found else 0
        return found

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"line {self._line}: no text that tomllib accepts")
        self._at = match.end()
        self._line += match[0].count("\n")
        return match[0]
