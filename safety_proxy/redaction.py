"""What may be told of a value, a message or an exception: nothing of what users sent.

Lemmy passes on its users' live tokens, and addresses and file names tell who looked at what. So:
- An exception is its type and frames (file, line, function), and those of its causes and members.
  Its text is kept only of a SafetyProxyError; of an OSError the code, such as ECONNREFUSED.
- Our fields are plain values; of any other object only the type is logged. In all our texts
  "..." stands for what looks like an http address, a bearer or JWT, a Cookie, an Authorization.
- Of a library's record (after `configure`) there remain logger, level, place and the beginning of
  the message: plain words and short numbers up to the first that is neither, such as one with a
  quote, bracket, slash, "=", or a dot inside. An argument is "..." unless it is a number. The same
  holds for warnings, and for exceptions that nothing caught. What libraries tell below "warning",
  as aiohttp.access does of each request, is dropped.
Not promised: a bare word in a library's sentence may be a user's, and nothing here knows that a
value which our own code logs is a file name, or a path without its host. Do not log such.
"""

import errno
import math
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path, PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final

from safety_proxy.errors import SafetyProxyError

_CUT: Final = "..."

# Bounds of a line: RecursionError has a thousand frames, and groups may hold any number.
_MAX_FRAMES: Final = 16
_MAX_EXCEPTIONS: Final = 16

_SECRET: Final = re.compile(
    r"(https?)(?::|%(?:25)*3A)\S+"  # escaped as often as it was nested in others
    r"|(bearer|jwt)\W{1,5}\S+"
    r"|(authorization|cookie)\W*[:=].*"
    r"|eyJ[\w-]+\.\S*",  # a JWT by itself: `{"` in base64
    re.IGNORECASE | re.DOTALL,
)
# What each of them begins with, in lower case: ten times as fast where there is none.
_MARK: Final = re.compile("http|bearer|jwt|authorization|cookie|eyj")

_PROSE: Final = re.compile(
    r"(?:[A-Za-z]{1,24}(?:['-][A-Za-z]{1,24})*|\d{1,6}(?:\.\d{1,6})?|\.\.\.)[,.;:!?]*"
)
_NO_PROSE_AFTER: Final = re.compile(
    r"\b(authorization|basic|bearer|cookie|filename|jwt|key|password|secret|token)\b", re.IGNORECASE
)


def clean(value: object) -> Any:
    """A value that JSON and people can read, without secrets."""
    if isinstance(value, str | PurePath | IPv4Address | IPv6Address):
        return _without_secrets(str(value))
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_without_secrets(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in value]
    return _named(value) if isinstance(value, BaseException) else f"<{type(value).__name__}>"


def _without_secrets(text: str) -> str:
    """One line, with "..." for what looks like an address or a token."""
    if _MARK.search(text.lower()):
        text = _SECRET.sub(rf"\1\2\3{_CUT}", text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


class _Unsaid:
    """In the place of an argument whose text may be anything."""

    def __repr__(self) -> str:
        return _CUT


def message_of(message: object, arguments: object) -> str:
    """A library's message as far as it is prose, with its numbers."""
    if not isinstance(message, str):
        return f"<{type(message).__name__}>"  # logger.error(exception)
    with suppress(TypeError, ValueError, KeyError):  # does not fit: the message as it stands
        if isinstance(arguments, Mapping):
            message %= {key: _number(value) for key, value in arguments.items()}
        elif isinstance(arguments, tuple) and arguments:
            message %= tuple(map(_number, arguments))
    return prose_of(message)


def _number(argument: object) -> object:
    return argument if isinstance(argument, int | float) else _Unsaid()


def prose_of(text: str) -> str:
    """The words and numbers that a text of unknown origin begins with, up to any other thing."""
    kept = []
    lines = text.strip().splitlines()
    for word in lines[0].split() if lines else ():
        if not _PROSE.fullmatch(word):
            kept.append(_CUT)
            break
        kept.append(word)
        if _NO_PROSE_AFTER.search(word):
            kept.append(_CUT)
            break
    return " ".join(kept)


def exception_of(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exception()
    return None


def traceback_of(error: BaseException, seen: set[int] | None = None) -> str:
    """An exception and what caused it in one line, latest first; none of those `seen` before."""
    seen = set() if seen is None else seen  # members of a group may have the group as context
    described = []
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(seen) < _MAX_EXCEPTIONS:
        seen.add(id(following))
        described.append(_described(following, seen))
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context
    return "; because of ".join(described)


def _described(error: BaseException, seen: set[int]) -> str:
    """Type and frames, and of a group those of its members."""
    frames = _frames(error.__traceback__)
    text = f"{_named(error)} ({frames})" if frames else _named(error)
    if isinstance(error, BaseExceptionGroup):
        members = [traceback_of(member, seen) for member in error.exceptions]
        text += f" [{' | '.join(filter(None, members))}]"
    return text


def _frames(traceback: TracebackType | None) -> str:
    """The innermost frames, outermost of them first."""
    places = [
        f"{short_path(frame.f_code.co_filename)}:{line} in {frame.f_code.co_qualname}"
        for frame, line in walk_tb(traceback)
    ]
    cut = [_CUT] if len(places) > _MAX_FRAMES else []
    return " > ".join(cut + places[-_MAX_FRAMES:])


def _named(error: BaseException) -> str:
    """The type, and as much of the text as cannot be anyone's but ours."""
    kind = type(error)
    if isinstance(error, SafetyProxyError):
        return f"{kind.__qualname__}: {_without_secrets(str(error))}"
    name = (
        kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    )
    code = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{name} {code}" if code else name


def short_path(path: str) -> str:
    """Folder and file: enough to find it, without where it is installed."""
    return "/".join(Path(path).parts[-2:])
