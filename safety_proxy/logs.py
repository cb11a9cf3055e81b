"""Log lines, ours and those of libraries: one event a line, and nothing of what users sent in it.

A module logs with `_logger = get_logger(__name__)` and `_logger.info("event", field=value)`. Such
events are records of stdlib's logging, whoever has set it up; `configure` does it for `serve`.

Lemmy passes on its users' live tokens, and addresses and file names tell who looked at what. So:
- An exception is its type and frames (file, line, function), and those of its causes and groups.
  Its text is kept only of a SafetyProxyError; of an OSError the code, such as ECONNREFUSED.
- Our fields are plain values; of another object the type alone is logged. What looks like an
  address, a JWT, a Cookie or an Authorization in them is cut out, in events and error texts too.
- Of a library's record (with `configure`) there remain logger, level, place and the words of the
  message up to the first that is not plain prose, that is has a quote, bracket, slash, "=", or
  a dot inside. Its arguments are "..." unless they are numbers. So are warnings, and exceptions
  that nothing caught.
Not promised: a word of letters alone in a library's sentence could be a user's. Nor does anything
here know that a value which our own code logs is a file name: do not log one.
"""

import errno
import json
import logging
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter, filter_by_level
from structlog.typing import EventDict, Processor, WrappedLogger

from safety_proxy.errors import SafetyProxyError

_PACKAGE: Final = "safety_proxy"
_CUT: Final = "..."

# Bounds of a line: RecursionError has a thousand frames, and groups may hold any number.
_MAX_FRAMES: Final = 16
_MAX_EXCEPTIONS: Final = 8

_SECRET: Final = re.compile(
    r"(https?)(?::|%(?:25)*3A)\S+"  # escaped as often as it was nested in others
    r"|(bearer)\s+\S+"
    r"|(jwt)\W{1,5}[\w.-]+"
    r"|(authorization|cookie)\W*[:=].*"
    r"|eyJ[\w-]+\.\S*",  # a JWT by itself: `{"` in base64
    re.IGNORECASE | re.DOTALL,
)
_PROSE: Final = re.compile(
    r"(?:[A-Za-z]{1,24}(?:['-][A-Za-z]{1,24})*|\d{1,6}(?:\.\d{1,6})?|\.\.\.)[,.;:!?]*"
)
_NO_PROSE_AFTER: Final = {"authorization", "basic", "bearer", "cookie", "jwt", "password", "token"}


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
    handler = _Handler(sys.stderr)
    handler.foreign_level = max(own_level, logging.WARNING)
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
    root.setLevel(handler.foreign_level)
    logging.getLogger(_PACKAGE).setLevel(own_level)
    logging.setLoggerClass(_LibraryLogger)
    warnings.showwarning = _on_warning
    sys.excepthook = _on_uncaught
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_end


class _Handler(logging.StreamHandler[TextIO]):
    """To stderr; of libraries only what is severe enough, whatever their own loggers let pass."""

    foreign_level = logging.WARNING

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        own = record.name.partition(".")[0] == _PACKAGE
        return (own or record.levelno >= self.foreign_level) and super().filter(record)

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

    @property  # type: ignore[override]  # an attribute of stdlib's, assigned to from everywhere
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
    return {
        "timestamp": "",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": event.pop("event", ""),
        **event,
    }


def _renderer(log_format: Literal["console", "json"]) -> Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False
    )


def _clean(value: object) -> Any:
    """A value that JSON and people can read, without secrets."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str() | os.PathLike():
            return _without_secrets(str(value))
        case BaseException():
            return _named(value)
        case Mapping():
            return {str(key): _clean(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(item) for item in value]
    return f"<{type(value).__name__}>"


def _without_secrets(text: str) -> str:
    """One line, with "..." for what looks like an address or a token."""
    text = _SECRET.sub(rf"\1\2\3\4{_CUT}", text)
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
        if word.rstrip(",.;:!?").lower() in _NO_PROSE_AFTER:
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


def _traceback(error: BaseException) -> str:
    """An exception and its causes in one line, latest first."""
    return "; because of ".join(islice(map(_described, _chain(error)), _MAX_EXCEPTIONS))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context


def _described(error: BaseException) -> str:
    """Type and frames, and of a group those of its members."""
    frames = _frames(error.__traceback__)
    text = f"{_named(error)} ({frames})" if frames else _named(error)
    if isinstance(error, BaseExceptionGroup):
        members = map(_traceback, error.exceptions[:_MAX_EXCEPTIONS])
        text += f" [{' | '.join(members)}]"
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
    name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    match error:
        case SafetyProxyError():
            return f"{kind.__qualname__}: {_without_secrets(str(error))}"
        case OSError(errno=int() as code) if code in errno.errorcode:
            return f"{name} {errno.errorcode[code]}"
    return name


def _full_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _short(path: str) -> str:
    """Folder and file: enough to find it, without where it is installed."""
    return "/".join(Path(path).parts[-2:])


_logger = get_logger(__name__)


def _on_warning(  # noqa: PLR0913, PLR0917 -- the signature of warnings.showwarning
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


_warnings_logger = get_logger("py.warnings")


def _on_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        _logger.critical("exception that nothing caught", exc_info=error)


def _on_thread_end(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.exc_value, SystemExit):
        _logger.error("exception that nothing caught in a thread", exc_info=args.exc_value)


def _on_unraisable(args: "sys.UnraisableHookArgs") -> None:
    _logger.error("exception that could not be raised", exc_info=args.exc_value)
