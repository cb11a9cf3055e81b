"""The public listener: every request is resolved to a route of pict-rs, and served by its kind."""

import asyncio
import logging
from contextlib import ExitStack
from http import HTTPStatus

from aiohttp import web

from safety_proxy.errors import SafetyProxyError
from safety_proxy.media.spool import Media
from safety_proxy.metrics import Metrics
from safety_proxy.proxy import headers, replies, routes
from safety_proxy.proxy.fetch import Fetcher
from safety_proxy.proxy.forward import Pictrs
from safety_proxy.proxy.ingest import read_upload
from safety_proxy.proxy.routes import Kind
from safety_proxy.scanner import Cleared, Scanner
from safety_proxy.settings import LimitsSettings
from safety_proxy.verdict import Verdict

_logger = logging.getLogger(__name__)


class ProxyServer:
    """What Lemmy takes for pict-rs. `handle` is an aiohttp handler for every method and path."""

    def __init__(
        self,
        scanner: Scanner,
        pictrs: Pictrs,
        fetcher: Fetcher,
        *,
        limits: LimitsSettings,
        metrics: Metrics,
    ) -> None:
        self._scanner = scanner
        self._pictrs = pictrs
        self._fetcher = fetcher
        self._limits = limits
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request: boundary where every error becomes pict-rs' JSON."""
        try:
            with self._metrics.stage("request"):
                return await self._serve(request)
        except SafetyProxyError as error:
            self._metrics.failure(error.reason)
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                _logger.warning("%s: %s", error.reason, error)
            return replies.failed(error)
        except (ConnectionError, asyncio.CancelledError):
            self._metrics.failure("client_gone")
            raise
        except Exception:
            # Nothing was forwarded unless a scan had cleared it: an unforeseen error fails closed.
            self._metrics.failure(SafetyProxyError.reason)
            _logger.exception("unforeseen error")
            return replies.failed(SafetyProxyError())

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw_path, _, raw_query = request.raw_path.partition("?")
        route = routes.resolve(request.method, raw_path, raw_query)
        match route.kind:
            case Kind.PASS:
                return await self._pictrs.stream(request, route)
            case Kind.UPLOAD:
                return await self._upload(request, route.query)
            case Kind.DOWNLOAD:
                return await self._download(request, route.query)

    async def _upload(self, request: web.BaseRequest, raw_query: str) -> web.Response:
        query = routes.upload_query(raw_query)
        with ExitStack() as opened:
            with self._metrics.stage("receive"):
                files = await read_upload(request, self._limits, opened)
            return await self._store(files, query, request)

    async def _download(self, request: web.BaseRequest, raw_query: str) -> web.Response:
        address, query = routes.download_query(raw_query)
        with ExitStack() as opened:
            with self._metrics.stage("fetch"):
                media = await self._fetcher.fetch(address, opened)
            return await self._store([media], query, request)

    async def _store(
        self, files: list[Media], query: str, request: web.BaseRequest
    ) -> web.Response:
        """All of the files or none: judged together, forwarded when every one is cleared."""
        outcomes = await asyncio.gather(*map(self._scanner.clear, files))
        cleared: list[Cleared] = []
        for number, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Verdict):
                return replies.refused(outcome, number, len(files))
            cleared.append(outcome)
        with self._metrics.stage("upstream"):
            return await self._pictrs.store(cleared, query, headers.for_store(request.headers))
