"""Write docs/settings.md from the Settings model: `python tools/write_settings_docs.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from safety_proxy.settings import Settings

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

INTRO = """\
# Settings

Settings come from a TOML file, `safety-proxy serve --config FILE` (or `SAFETY_PROXY_CONFIG=FILE`),
and from the environment, which stands over the file. Every key has a default that is right for a
small Lemmy server. A wrong value, a key that does not exist and a misspelled variable are errors at
start, all told at once; an empty variable counts as not set.

```toml
log_level = "info"

[server]
host = "0.0.0.0"

[upstream]
url = "http://pictrs:8080"

[limits]
max_file_bytes = 41943040

[policy]
file = "/etc/safety-proxy/policy.toml"
```

In the environment a list is written as JSON: `SAFETY_PROXY_FETCH__ALLOW_PORTS='[80, 443, 8080]'`.
This page is written by `tools/write_settings_docs.py`.
"""

_WORDS = {
    "bool": "`true` or `false`",
    "str": "text",
    "int": "whole number",
    "float": "number",
    "Path": "path",
    "SecretStr": "secret",
    "HttpUrl": "URL",
    "IPv4Network": "network",
    "IPv6Network": "network",
}
_RANGE = {"ge": "from {}", "gt": "over {}", "le": "up to {}"}


def document() -> str:
    """The whole page."""
    keys: dict[str, FieldInfo] = {}
    sections: dict[str, FieldInfo] = {}
    for name, field in Settings.model_fields.items():
        (sections if isinstance(field.default, BaseModel) else keys)[name] = field
    blocks = [INTRO, "## Top of the file\n", _table("", keys)]
    for name, field in sections.items():
        section = type(field.default)
        blocks += [f"## [{name}]\n", f"{section.__doc__}\n", _table(name, section.model_fields)]
    return "\n".join(blocks)


def _table(section: str, fields: dict[str, FieldInfo]) -> str:
    head = "| key | environment | type | default | meaning |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(_row(section, name, field) for name, field in fields.items())


def _row(section: str, name: str, field: FieldInfo) -> str:
    variable = "SAFETY_PROXY_" + "__".join(filter(None, (section, name))).upper()
    cells = [f"`{name}`", f"`{variable}`", _type(field), _default(field), field.description]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def _type(field: FieldInfo) -> str:
    limits = [
        _RANGE[key].format(f"{getattr(bound, key):,}")
        for bound in field.metadata
        for key in _RANGE
        if hasattr(bound, key)
    ]
    return " ".join([_words(field.annotation), *limits])


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table of " + ", ".join(f"`{key}`" for key in kind.model_fields)
    if get_origin(kind) is list and isinstance(get_args(kind)[0], type(BaseModel)):
        return f"list of {_words(get_args(kind)[0]).replace('table', 'tables', 1)}"
    if get_origin(kind) is list:
        return f"list of {_words(get_args(kind)[0])}s"
    if get_origin(kind) in {Union, UnionType}:
        return " or ".join(dict.fromkeys(map(_words, _without_none(kind))))
    return _WORDS[kind.__name__]


def _without_none(kind: Any) -> Iterator[Any]:
    return (part for part in get_args(kind) if part is not NoneType)


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is None:
        return "none"
    shown = default if isinstance(default, bool | int | float | str | list) else str(default)
    return f"`{json.dumps(shown, default=str)}`"


def main() -> None:
    """Writes the page."""
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
