"""The door for pict-rs' `media.external_validation`: a picture comes in, its verdict goes out.

pict-rs takes every 2xx for "let it in", follows redirects, and refuses upon all else. So 200 is
said in one place, of a verdict, and every way to fail ends in an answer that refuses. Nothing is
stored here. The ids in the path are passwords: neither they nor the path is ever logged.
"""

import asyncio
import hmac
import math
from collections.abc import Coroutine
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any, Final, TypeVar, assert_never
from urllib.parse import unquote_to_bytes

import h11

from safety_proxy.deadline import HEADER, Deadline
from safety_proxy.errors import (
    ConfigError,
    DeadlineExceeded,
    SafetyProxyError,
    ScanError,
    UnknownRoute,
)
from safety_proxy.logs import get_logger
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.metrics import Metrics
from safety_proxy.scanner import Scanner
from safety_proxy.settings import ValidatorSettings
from safety_proxy.tasks import spawn
from safety_proxy.validator.connection import Answer, Connection
from safety_proxy.validator.request import read_picture
from safety_proxy.verdict import Action, Verdict

_logger = get_logger(__name__)

T = TypeVar("T")

_PATH: Final = b"/api/v1/scan/"

# pict-rs sends its headers at once.
_HEAD_SECONDS: Final = 5.0

# Each may hold a spooled file; more than scans can wait, and far below the limit of open files.
_MOST_CONNECTIONS: Final = 256

# As the proxy says where nothing better is known.
_RETRY_AFTER_SECONDS: Final = 5


class ValidatorServer:
    """A listener of its own; one request a connection.

    seconds: the longest that a request may take from its headers on, its body included.
    """

    def __init__(
        self,
        scanner: Scanner,
        settings: ValidatorSettings,
        spooler: Spooler,
        *,
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._scanner = scanner
        self._settings = settings
        self._spooler = spooler
        self._seconds = seconds
        self._metrics = metrics
        self._ids = [known.get_secret_value().encode() for known in settings.ids]
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.port = settings.port

    async def start(self) -> None:
        """Listens on `port`. Raises ConfigError if it cannot, or if an id is empty."""
        if not all(self._ids):
            raise ConfigError("validator.ids (SAFETY_PROXY_VALIDATOR__IDS): an id is empty.")
        host, port = self._settings.host, self._settings.port
        try:
            self._listener = await asyncio.start_server(self._accept, host, port)
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Change validator.host or "
                "validator.port (SAFETY_PROXY_VALIDATOR__PORT)."
            ) from error
        self.port = self._listener.sockets[0].getsockname()[1]

    async def aclose(self, seconds: float) -> None:
        """Stops listening; requests in flight have so many seconds to end, then they are cut."""
        if self._listener is not None:
            self._listener.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=seconds)
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        if self._listener is not None:
            await self._listener.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= _MOST_CONNECTIONS:
            self._metrics.failure("validator_full")
            writer.transport.abort()
            return
        task = spawn(self._serve(Connection(reader, writer)), name="validate")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.answer(await self._answer(connection))
        except ConnectionError:
            self._metrics.failure("client_gone")
        finally:
            await connection.aclose()

    async def _answer(self, connection: Connection) -> Answer:
        """The answer to a request: boundary where every error becomes one that refuses."""
        try:
            if not self._is_allowed(connection):
                return self._refused(connection, "address")
            request = await connection.head(_HEAD_SECONDS)
            refusal = self._refusal(connection, request)
            return refusal or await self._validate(connection, request)
        except ScanError as error:  # the scanner has counted and logged it
            return _failed(error)
        except SafetyProxyError as error:
            self._metrics.failure(error.reason)
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                _logger.warning("validation failed", reason=error.reason, detail=str(error))
            return _failed(error)
        except ConnectionError:
            raise
        except Exception:
            self._metrics.failure(SafetyProxyError.reason)
            _logger.exception("unforeseen error in the validator")
            return _failed(SafetyProxyError())

    def _is_allowed(self, connection: Connection) -> bool:
        client = connection.client
        return client is not None and any(
            client in network for network in self._settings.allow_networks
        )

    def _refusal(self, connection: Connection, request: h11.Request) -> Answer | None:
        """The answer to what is not a picture of pict-rs'; nothing of its body is looked at."""
        path = request.target.partition(b"?")[0]
        if not path.startswith(_PATH):
            raise UnknownRoute("No such route")
        given = unquote_to_bytes(path.removeprefix(_PATH))
        # All of them are compared, so that the time says nothing of which one was close.
        if True not in [hmac.compare_digest(given, known) for known in self._ids]:
            return self._refused(connection, "id")
        if request.method != b"POST":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "Only POST", "method-not-allowed")
        return None

    def _refused(self, connection: Connection, reason: str) -> Answer:
        self._metrics.failure("validator_refused")
        client = str(connection.client)
        _logger.warning("validator refused a client", reason=reason, client=client)
        return Answer(HTTPStatus.FORBIDDEN, "Not for you", "forbidden")

    async def _validate(self, connection: Connection, request: h11.Request) -> Answer:
        named = [value for name, value in request.headers if name == HEADER.lower().encode()]
        header = b",".join(named).decode("latin1") if named else None
        deadline = Deadline.of_request(header, self._seconds)
        with ExitStack() as opened:
            with self._metrics.stage("receive"):
                media = await self._receive(connection, request, deadline, opened)
            scan = self._scanner.scan(media, deadline)
            return _judged(await _while_there(connection, scan))

    async def _receive(
        self, connection: Connection, request: h11.Request, deadline: Deadline, opened: ExitStack
    ) -> Media:
        try:
            async with asyncio.timeout(deadline.left):
                return await read_picture(request.headers, connection.body(), self._spooler, opened)
        except TimeoutError as error:
            raise DeadlineExceeded("Deadline exceeded") from error


async def _while_there(connection: Connection, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. It is cancelled, and ConnectionError raised, if the client leaves."""
    working = spawn(work, name="validator scan")
    leaving = spawn(connection.left(), name="validator watch")
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("closed before its answer")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
        del working  # whose error has this frame, which would hold it


def _judged(verdict: Verdict) -> Answer:
    match verdict.action:
        case Action.ALLOW | Action.FLAG:
            return Answer(HTTPStatus.OK, "ok")
        case Action.BLOCK:
            return Answer(HTTPStatus.NOT_ACCEPTABLE, verdict.public_message, verdict.code)
        case _:
            assert_never(verdict.action)


def _failed(error: SafetyProxyError) -> Answer:
    wait = None
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        wanted = error.retry_after if isinstance(error, ScanError) else None
        wait = _RETRY_AFTER_SECONDS if wanted is None else max(1, math.ceil(wanted))
    return Answer(error.status, error.public_message, error.code, wait)
