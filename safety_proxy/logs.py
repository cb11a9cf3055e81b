"""Log lines, ours and those of libraries: one event a line, and nothing of what users sent in it.

A module logs with `_logger = get_logger(__name__)` and `_logger.info("event", field=value)`. Such
events are records of stdlib's logging, whoever has set it up; `configure` does it for `serve`.

What may be told is decided in `redaction`.
"""

import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter, filter_by_level
from structlog.typing import EventDict, Processor, WrappedLogger

from safety_proxy.redaction import (
    clean,
    exception_of,
    message_of,
    prose_of,
    short_path,
    traceback_of,
)

_PACKAGE: Final = "safety_proxy"

_COLORS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}
_COLOR_END: Final = "\x1b[0m"
_HEAD: Final = {"logger", "event"}  # of a console line; the rest are fields
_NEEDS_QUOTES: Final = re.compile(r"[\s\"'=]|^$")


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
    error = exception_of(event.pop("exc_info", None))
    cleaned = _Event({key: clean(value) for key, value in event.items()})
    if error is not None:
        cleaned["traceback"] = traceback_of(error)
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
    event["event"] = message_of(record.msg, event.pop("positional_args"))
    event["at"] = f"{short_path(record.pathname)}:{record.lineno} in {record.funcName}"
    event.pop("stack_info", None)
    error = exception_of(event.pop("exc_info", None))
    if error is not None:
        event["traceback"] = traceback_of(error)
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
        prose_of(str(message)), category=category.__name__, at=f"{short_path(filename)}:{lineno}"
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
