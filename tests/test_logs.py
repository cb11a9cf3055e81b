"""Tests of safety_proxy/logs.py: one line an event, and no secret on any way into it."""

import asyncio
import errno
import gc
import json
import logging
import math
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal, NoReturn

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from yarl import URL

from safety_proxy import logs
from safety_proxy.errors import DownloadFailed, EmbedderUnavailable, UpstreamUnreachable
from safety_proxy.logs import configure, get_logger
from safety_proxy.tasks import spawn

Format = Literal["console", "json"]
Lines = Callable[[], list[str]]

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"
ADDRESS = "https://origin.example/private/holiday.png?sig=s3cr3t"
TEXT = f'{ADDRESS} Authorization: Bearer {JWT}; Cookie: jwt={JWT}; filename="holiday.png"'
PLANTED = ("origin", "example", "private", "holiday", "s3cr3t", JWT[:10], JWT[-10:])
HEADERS = {"Authorization": f"Bearer {JWT}", "Cookie": f"jwt={JWT}", "X-Name": "holiday.png"}

own = get_logger("safety_proxy.test")


class Telling:
    """An object whose text holds what must not be told."""

    def __repr__(self) -> str:
        return f"<Telling {TEXT}>"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """`configure` changes the process; the next test finds it as it was."""
    root, package = logging.getLogger(), logging.getLogger("safety_proxy")
    levels = root.level, package.level
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
    for handler in [it for it in root.handlers if type(it).__module__ == logs.__name__]:
        root.removeHandler(handler)
    root.setLevel(levels[0])
    package.setLevel(levels[1])
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.setLoggerClass(logging.Logger)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """The lines on stderr since it was last asked."""

    def read() -> list[str]:
        return capsys.readouterr().err.splitlines()

    return read


def fail(error: BaseException) -> NoReturn:
    """Raises it."""
    raise error


def configure_alone(log_format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pytest's own handlers, which raise where a message does not fit its arguments."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    configure("debug", log_format)


def test_json_line_has_the_common_keys_first_and_the_fields_as_they_are(lines: Lines) -> None:
    """Numbers stay numbers; the time is in UTC."""
    configure("info", "json")
    own.info("scan", sha256="00ff", cached=False, milliseconds=1.5, reasons=["a", "b"], frame=None)
    (line,) = lines()
    entry = json.loads(line)
    assert list(entry)[:4] == ["timestamp", "level", "logger", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("timestamp"))
    assert entry == {
        "level": "info",
        "logger": "safety_proxy.test",
        "event": "scan",
        "sha256": "00ff",
        "cached": False,
        "milliseconds": 1.5,
        "reasons": ["a", "b"],
        "frame": None,
    }


def test_console_line_is_plain_where_nobody_sees_colors(lines: Lines) -> None:
    """Values with spaces in quotes, so that it can be read by programs too."""
    configure("info", "console")
    own.warning("scan failed", reason="queue_full", detail="no room", nothing="")
    (line,) = lines()
    time, _, rest = line.partition(" ")
    assert time.endswith("Z")
    assert rest == (
        "warning  safety_proxy.test: scan failed reason=queue_full detail='no room' nothing=''"
    )


def test_console_on_a_terminal_has_the_level_in_color(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of what is severe."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure("info", "console")
    own.error("scan failed")
    own.info("scan")
    failed, scan = lines()
    assert "\x1b[31merror" in failed
    assert "\x1b" not in scan


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["own debug", "own info", "own warning", "own error", "warning", "error"]),
        ("info", ["own info", "own warning", "own error", "warning", "error"]),
        ("warning", ["own warning", "own error", "warning", "error"]),
        ("error", ["own error", "error"]),
    ],
)
def test_level_is_ours_and_libraries_are_heard_from_warnings_on(
    lines: Lines, level: str, heard: list[str]
) -> None:
    """Also from a library that gave its own logger another level."""
    configure(level, "json")
    library = logging.getLogger("aiohttp.access")
    library.setLevel("DEBUG")
    for method in ("debug", "info", "warning", "error"):
        getattr(own, method)(f"own {method}")
    for method in ("debug", "info", "warning", "error"):
        getattr(library, method)(method)
    library.setLevel("NOTSET")
    assert [json.loads(line)["event"] for line in lines()] == heard


def test_configured_twice_says_everything_once(lines: Lines) -> None:
    """The second one holds."""
    configure("info", "console")
    configure("error", "json")
    own.warning("quiet")
    own.error("once")
    (line,) = lines()
    assert json.loads(line)["event"] == "once"


def test_library_cannot_keep_its_records_to_itself(lines: Lines) -> None:
    """As torch and huggingface_hub try, which are imported after `configure`."""
    configure("info", "json")
    library = logging.getLogger("a_library.imported_late")
    library.addHandler(logging.StreamHandler())
    library.propagate = False
    library.warning("weights took %.1f seconds from %s", 2.5, ADDRESS)
    (line,) = lines()
    assert json.loads(line)["event"] == "weights took 2.5 seconds from ..."


def test_events_reach_stdlib_where_nothing_was_configured(caplog: pytest.LogCaptureFixture) -> None:
    """As in a program that uses the package as a library: one readable message, cleaned too."""
    with caplog.at_level("INFO", "safety_proxy"):
        own.info("scan", action="block", cached=False, client=Telling(), note=TEXT)
        try:
            fail(ValueError(TEXT))
        except ValueError:
            own.exception("unforeseen error")
        own.debug("not asked for")
    scan, error = caplog.messages
    assert scan == "scan action=block cached=False client=<Telling> note=https... Authorization..."
    assert error.startswith("unforeseen error traceback=ValueError (tests/test_logs.py:")
    assert not [word for word in PLANTED if word in caplog.text]


def test_bound_fields_are_cleaned_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """They are of the event."""
    own.bind(note=TEXT).error("scan failed")
    assert caplog.messages == ["scan failed note=https... Authorization..."]


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (ADDRESS, "https..."),
        (f"/image/download?url={ADDRESS}", "/image/download?url=https..."),
        ("proxy=https%3A%2F%2Forigin.example%2Fa b", "proxy=https... b"),
        ("proxy=HTTP%25253A%25252F%25252Forigin.example", "proxy=HTTP..."),
        (f"bearer  {JWT}", "bearer..."),
        (f"{{'jwt': '{JWT}'}}", "{'jwt..."),
        (f"a token {JWT} alone", "a token ... alone"),
        (f"Set-Cookie: a=b; jwt={JWT}\nX-Other: c", "Set-Cookie..."),
        ("two\nlines\x1b[31m", "two lines [31m"),
        ("HTTP 500 of a jwt", "HTTP 500 of a jwt"),
        (Path("/var/lib"), "/var/lib"),
        (IPv4Address("127.0.0.1"), "127.0.0.1"),
        (URL(ADDRESS), "<URL>"),
        (b"bytes", "<bytes>"),
        (Telling(), "<Telling>"),
        (math.inf, "inf"),
        ({"url": [ADDRESS], ADDRESS: 1}, {"url": ["https..."], "https...": 1}),
        (ValueError(TEXT), "ValueError"),
        (aiohttp.InvalidURL(ADDRESS), "aiohttp.client_exceptions.InvalidURL"),
        (OSError(errno.ECONNREFUSED, TEXT), "ConnectionRefusedError ECONNREFUSED"),
        (DownloadFailed("bad response 404"), "DownloadFailed: bad response 404"),
        (DownloadFailed(f"nothing at {ADDRESS}"), "DownloadFailed: nothing at https..."),
    ],
)
def test_field_is_plain_and_cleaned(lines: Lines, value: object, logged: object) -> None:
    """Whatever a caller passes."""
    configure("info", "json")
    own.info("event", field=value)
    (line,) = lines()
    assert json.loads(line)["field"] == logged


@pytest.mark.parametrize(
    ("message", "arguments", "logged"),
    [
        ("Error handling request from %s", ("10.0.0.7",), "Error handling request from ..."),
        ("Executing %s took %.3f seconds", (Telling(), 0.25), "Executing ... took 0.250 seconds"),
        ("%(a)s of %(b)d", ({"a": TEXT, "b": 3},), "... of 3"),
        ("took %d", (TEXT,), "took ..."),
        ("%s", (ValueError(TEXT),), "..."),
        (ValueError(TEXT), (), "<ValueError>"),
        (f"Unclosed response {Telling()!r}", (), "Unclosed response ..."),
        (f"got {HEADERS}", (), "got ..."),
        ("Don't: it's out-of-date, see 3.", (), "Don't: it's out-of-date, see 3."),
        ("Cannot connect to origin.example:443", (), "Cannot connect to ..."),
        ("Set-Cookie: holiday", (), "Set-Cookie: ..."),
        ("token holiday", (), "token ..."),
        ("number 49301234567", (), "number ..."),
        ("open 'my holiday at home.png'", (), "open ..."),
        ("Never retrieved\nfuture: holiday", (), "Never retrieved"),
        ("", (), ""),
    ],
)
def test_message_of_a_library_ends_where_its_prose_ends(
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
    message: object,
    arguments: tuple[Any, ...],
    logged: str,
) -> None:
    """Numbers stay; what else was put in does not."""
    configure_alone("json", monkeypatch)
    logging.getLogger("aiohttp.client").error(message, *arguments)
    (line,) = lines()
    assert json.loads(line)["event"] == logged


def chained() -> BaseException:
    """A foreign error with a cause, a context, notes, and a group in it."""
    try:
        try:
            try:
                fail(KeyError(TEXT))
            except KeyError:
                raise aiohttp.ClientConnectionError(TEXT)  # noqa: B904 -- a context, not a cause
        except aiohttp.ClientError as error:
            group = ExceptionGroup(TEXT, [error, ExceptionGroup(TEXT, [OSError(TEXT)])])
            group.add_note(TEXT)
            raise RuntimeError(TEXT) from group
    except RuntimeError as error:
        return error


def log_own_exception() -> None:
    try:
        raise chained()
    except RuntimeError:
        own.exception("unforeseen error")


def log_own_exc_info() -> None:
    error = chained()
    own.error("failed", exc_info=(type(error), error, error.__traceback__), error=error)


def log_request_as_aiohttp_does() -> None:
    request = make_mocked_request("GET", f"/image/holiday.png?proxy={ADDRESS}", headers=HEADERS)
    logger = logging.getLogger("aiohttp.server")
    logger.error("Error handling request from %s", request, exc_info=chained())
    logger.error(
        f"Web-handler should return a response instance, got {request!r}",  # noqa: G004 -- as there
        exc_info=chained(),
        stack_info=True,
    )


def log_headers() -> None:
    logging.getLogger("aiohttp.client").warning("Bad headers: %s", CIMultiDict(HEADERS))
    logging.getLogger("aiohttp.client").warning("Bad headers: " + str(HEADERS))  # noqa: G003
    logging.getLogger("asyncio").error(chained())


def log_as_the_loop_does() -> None:
    def callback(text: str) -> None:
        raise ValueError(text)

    async def fail() -> None:
        raise chained()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "Unclosed connection", "connection": Telling()})
        loop.call_exception_handler({"message": f"Bad {TEXT}", "exception": chained()})
        loop.call_exception_handler({"exception": chained(), "future": loop.create_future()})
        loop.call_soon(callback, TEXT)
        task = spawn(fail(), name=f"fetch {ADDRESS}")
        await asyncio.wait([task])
        del task
        gc.collect()  # "Task exception was never retrieved"

    asyncio.run(main(), debug=True)


def log_warnings() -> None:
    warnings.warn(f"Unclosed response {Telling()!r}", ResourceWarning, stacklevel=1)
    warnings.warn_explicit(UserWarning(TEXT), None, "/srv/x/aiohttp/client.py", 1)


def log_thread() -> None:
    def run() -> None:
        raise chained()

    thread = threading.Thread(target=run, name=TEXT)
    thread.start()
    thread.join()


def log_unraisable() -> None:
    class Dying:
        def __del__(self) -> None:
            raise chained()

        def __repr__(self) -> str:
            return TEXT

    Dying()
    gc.collect()


def log_uncaught() -> None:
    error = chained()
    sys.excepthook(type(error), error, error.__traceback__)


def log_what_cannot_be_formatted() -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError(TEXT)

    logging.getLogger("aiohttp.server").error(Broken(), TEXT)


WAYS = [
    log_own_exception,
    log_own_exc_info,
    log_request_as_aiohttp_does,
    log_headers,
    log_as_the_loop_does,
    log_warnings,
    log_thread,
    log_unraisable,
    log_uncaught,
    log_what_cannot_be_formatted,
]


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
def test_planted_secrets_do_not_come_out(
    way: Callable[[], None], log_format: Format, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any way into the log; each line is one event in the format that was asked for."""
    configure_alone(log_format, monkeypatch)
    way()
    logged = lines()
    assert logged
    assert not [(word, line) for line in logged for word in PLANTED if word in line]
    for line in logged:
        assert "Stack (" not in line
        if log_format == "json":
            assert {"level", "logger", "event"} <= set(json.loads(line))
        else:
            assert re.match(r"\S+Z \w+ +[\w.]+: |{.*a log line was lost", line)


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_error_in_a_handler_of_a_real_server_tells_nothing(
    log_format: Format, lines: Lines
) -> None:
    """What aiohttp itself logs of a request with a user's token."""
    configure("debug", log_format)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        raise ValueError(f"{request!r} {request.headers!r} {request.url}")

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/image/holiday.png?proxy={ADDRESS}"
    async with aiohttp.ClientSession() as session, session.get(url, headers=HEADERS) as answer:
        assert answer.status == 500
    await runner.cleanup()
    (line,) = lines()
    assert "Error handling request from ..." in line
    assert re.search(r"traceback=?\W+ValueError \(.*tests/test_logs.py:\d+ in \S+handle\)", line)
    assert not [word for word in PLANTED if word in line]


def test_exception_keeps_types_and_frames_of_all_its_causes(lines: Lines) -> None:
    """What is needed to find the fault."""
    configure("info", "json")
    own.error("failed", exc_info=chained())
    (line,) = lines()
    text = json.loads(line)["traceback"]
    place = r"\(tests/test_logs\.py:\d+ in chained( > tests/test_logs\.py:\d+ in fail)?\)"
    assert re.fullmatch(
        rf"RuntimeError {place}; because of ExceptionGroup \["
        rf"aiohttp\.client_exceptions\.ClientConnectionError {place}; because of KeyError {place}"
        r" \| ExceptionGroup \[OSError\]\]",
        text,
    )


def test_own_error_keeps_its_text_and_its_cause_does_not(lines: Lines) -> None:
    """It is written without what users sent."""
    configure("info", "json")
    try:
        try:
            fail(TimeoutError(TEXT))
        except TimeoutError as error:
            raise UpstreamUnreachable("pict-rs: TimeoutError") from error
    except UpstreamUnreachable:
        own.exception("failed")
    (line,) = lines()
    text = json.loads(line)["traceback"]
    assert text.startswith("UpstreamUnreachable: pict-rs: TimeoutError (tests/test_logs.py:")
    assert "; because of TimeoutError (" in text


def test_suppressed_context_is_left_out(lines: Lines) -> None:
    """As in Python's own traceback."""
    configure("info", "json")
    try:
        try:
            fail(KeyError(TEXT))
        except KeyError:
            raise EmbedderUnavailable("lost") from None
    except EmbedderUnavailable as error:
        own.error("failed", exc_info=error)
    assert "KeyError" not in lines()[0]


def test_endless_chains_and_stacks_end(lines: Lines) -> None:
    """A member whose context is its group, a thousand frames, a hundred members."""

    def deeper() -> None:
        deeper()

    configure("info", "json")
    group = ExceptionGroup("x", [ValueError(n) for n in range(100)])
    group.exceptions[0].__context__ = group
    own.error("failed", exc_info=group)
    own.error("failed", exc_info=group.exceptions[0])
    try:
        deeper()
    except RecursionError as error:
        own.error("failed", exc_info=error)
    for line in lines():
        assert len(line) < 3000
        json.loads(line)


def test_nothing_to_tell_of_is_no_traceback(lines: Lines) -> None:
    """`exc_info` where no exception is under way."""
    configure("info", "json")
    own.error("failed", exc_info=True)
    own.error("failed", exc_info=False)
    logging.getLogger("asyncio").error("failed", exc_info=(None, None, None))
    assert not [line for line in lines() if "traceback" in json.loads(line)]


def test_thread_that_ends_itself_is_no_error(lines: Lines) -> None:
    """SystemExit is how that is done."""
    configure("info", "json")
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert lines() == []


def test_stderr_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy goes on without a log."""
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        configure("info", "json")
        own.info("scan")
        with suppress(OSError):
            full.close()
        own.info("scan")
