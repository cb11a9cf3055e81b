"""Log lines, ours and those of libraries: one event a line, and nothing of what users sent in it.

A module logs with `_logger = get_logger(__name__)` and `_logger.info("event", field=value)`. Such
events are records of stdlib's logging, whoever has set it up; `configure` does it for `serve`.

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
import json
import logging
import math
import re
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path, PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter, filter_by_level
from structlog.typing import EventDict, Processor, WrappedLogger

from safety_proxy.errors import SafetyProxyError

_PACKAGE: Final = "safety_proxy"
_CUT: Final = "..."

_COLORS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}
_COLOR_END: Final = "\x1b[0m"
_HEAD: Final = {"logger", "event"}  # of a console line; the rest are fields
_NEEDS_QUOTES: Final = re.compile(r"[\s\"'=]|^$")

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


def get_logger(name: str) -> BoundLogger:
    """The logger of a module, `name` being its `__name__`; its events are free of secrets.

    It needs neither `configure` nor structlog's own configuration, which belongs to the program.
    """
    # Built at once: structlog's usual proxy would look its methods up anew for each event.
    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger(name), processors=_PROCESSORS, wrapper_class=BoundLogger
    ).bind()
    return logger


def configure(level: str, log_format: Literal["console", "json"]) -> None:
    """Sends all that is logged in this process to stderr; may be called again.

    level: of this package; libraries are heard from "warning" on, or from `level` if it is higher.
    log_format: "json", an object a line with `timestamp` (ISO 8601, UTC), `level`, `logger`,
    `event` and the event's fields; or "console", the same for people.
    """
    own_level = logging.getLevelNamesMapping()[level.upper()]
    foreign_level = max(own_level, logging.WARNING)
    handler = _Handler(sys.stderr)
    # Here, since a library may give its own loggers any level.
    handler.addFilter(lambda it: it.name.startswith(_PACKAGE) or it.levelno >= foreign_level)
    handler.setFormatter(
        ProcessorFormatter(
            processors=[_in_order, _renderer(log_format)],
            foreign_pre_chain=[_foreign],
            # Arguments are put in by `_foreign`, which does not ask objects for their text.
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    for earlier in [it for it in root.handlers if isinstance(it, _Handler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(foreign_level)
    logging.getLogger(_PACKAGE).setLevel(own_level)
    logging.setLoggerClass(_LibraryLogger)
    warnings.showwarning = _on_warning
    sys.excepthook = _on_uncaught
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_end


class _Handler(logging.StreamHandler[TextIO]):
    """To stderr."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- stdlib's name
        """Says that a line was lost; stdlib would print its message and arguments as they are."""
        lost = {
            "level": "error",
            "logger": record.name,
            "event": "a log line was lost",
            "error": type(sys.exception()).__name__,
        }
        with suppress(OSError, ValueError):  # stderr itself is gone
            self.stream.write(json.dumps(lost) + "\n")


class _LibraryLogger(logging.Logger):
    """A logger whose records all reach the root.

    torch and huggingface_hub, which are imported after `configure`, put handlers of their own on
    their loggers and keep the records to themselves: lines of another form, not cleaned.
    """

    @property
    def propagate(self) -> bool:
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:
        del value

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 -- stdlib's name
        del hdlr


class _Event(dict[str, Any]):
    """The fields of an event; as text for handlers that know nothing of structlog."""

    def __str__(self) -> str:
        fields = (f" {key}={value}" for key, value in self.items() if key != "event")
        return str(self.get("event")) + "".join(fields)


def _own(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """The event of a logger of ours, cleaned, its exception as text in `traceback`."""
    del logger, name
    error = _exception_of(event.pop("exc_info", None))
    cleaned = _Event({key: _clean(value) for key, value in event.items()})
    if error is not None:
        cleaned["traceback"] = _traceback(error)
    return cleaned


def _to_record(logger: WrappedLogger, name: str, event: EventDict) -> tuple[Any, dict[str, Any]]:
    """The event as arguments of stdlib's logger, which must not add the exception by itself."""
    args, options = ProcessorFormatter.wrap_for_formatter(logger, name, event)
    return args, {**options, "exc_info": False}


_PROCESSORS: Final[list[Processor]] = [filter_by_level, _own, _to_record]


def _foreign(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """What may be told of a library's record."""
    del logger, name
    record: logging.LogRecord = event["_record"]
    event["event"] = _message(record.msg, event.pop("positional_args"))
    event["at"] = f"{_short(record.pathname)}:{record.lineno} in {record.funcName}"
    event.pop("stack_info", None)
    error = _exception_of(event.pop("exc_info", None))
    if error is not None:
        event["traceback"] = _traceback(error)
    return event


def _in_order(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """The keys that every line has, then the event's own."""
    del logger, name
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {
        "timestamp": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": event.pop("event", ""),
        **event,
    }


def _renderer(log_format: Literal["console", "json"]) -> Processor:
    if log_format == "json":
        # Made once; json.dumps would make an encoder for each line. The values are plain by now.
        encode = json.JSONEncoder(check_circular=False, allow_nan=False).encode
        return lambda _, __, event: encode(event)
    return partial(_for_people, _COLORS if sys.stderr.isatty() else {})


def _for_people(
    colors: Mapping[str, str], logger: WrappedLogger, name: str, event: EventDict
) -> str:
    """Half the cost of structlog's own ConsoleRenderer, which has columns and several lines."""
    del logger, name
    level = event.pop("level")
    color = colors.get(level, "")
    head = f"{event.pop('timestamp')} {color}{level:<8}{color and _COLOR_END}"
    fields = [f" {key}={_quoted(value)}" for key, value in event.items() if key not in _HEAD]
    return f"{head} {event['logger']}: {event['event']}{''.join(fields)}"


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if _NEEDS_QUOTES.search(text) else text


def _clean(value: object) -> Any:
    """A value that JSON and people can read, without secrets."""
    if isinstance(value, str | PurePath | IPv4Address | IPv6Address):
        return _without_secrets(str(value))
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_without_secrets(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
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


def _message(message: object, arguments: object) -> str:
    """A library's message as far as it is prose, with its numbers."""
    if not isinstance(message, str):
        return f"<{type(message).__name__}>"  # logger.error(exception)
    with suppress(TypeError, ValueError, KeyError):  # does not fit: the message as it stands
        if isinstance(arguments, Mapping):
            message %= {key: _number(value) for key, value in arguments.items()}
        elif isinstance(arguments, tuple) and arguments:
            message %= tuple(map(_number, arguments))
    return _prose(message)


def _number(argument: object) -> object:
    return argument if isinstance(argument, int | float) else _Unsaid()


def _prose(text: str) -> str:
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


def _exception_of(exc_info: object) -> BaseException | None:
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case True:
            return sys.exception()
    return None


def _traceback(error: BaseException, seen: set[int] | None = None) -> str:
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
        members = [_traceback(member, seen) for member in error.exceptions]
        text += f" [{' | '.join(filter(None, members))}]"
    return text


def _frames(traceback: TracebackType | None) -> str:
    """The innermost frames, outermost of them first."""
    places = [
        f"{_short(frame.f_code.co_filename)}:{line} in {frame.f_code.co_qualname}"
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


def _short(path: str) -> str:
    """Folder and file: enough to find it, without where it is installed."""
    return "/".join(Path(path).parts[-2:])


_logger = get_logger(__name__)
_warnings_logger = get_logger("py.warnings")  # the name that stdlib has for it


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line
    _warnings_logger.warning(
        _prose(str(message)), category=category.__name__, at=f"{_short(filename)}:{lineno}"
    )


def _on_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    del kind, traceback
    _logger.critical("exception that nothing caught", exc_info=error)


def _on_thread_end(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.exc_value, SystemExit):
        _logger.error("exception that nothing caught in a thread", exc_info=args.exc_value)


def _on_unraisable(args: "sys.UnraisableHookArgs") -> None:
    _logger.error("exception that could not be raised", exc_info=args.exc_value)
