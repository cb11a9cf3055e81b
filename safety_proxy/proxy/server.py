"""The public listener: every request is resolved to a route of pict-rs, and served by its kind."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from safety_proxy.deadline import HEADER as DEADLINE
from safety_proxy.deadline import Deadline
from safety_proxy.errors import (
    DownloadFailed,
    MalformedRequest,
    NotOffered,
    NotProxied,
    SafetyProxyError,
    ScanError,
)
from safety_proxy.logs import get_logger
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.metrics import Metrics
from safety_proxy.proxy import headers, replies, routes
from safety_proxy.proxy.fetch import AGENT, Fetcher
from safety_proxy.proxy.forward import IMPORT, RESERVE_SECONDS, Pictrs
from safety_proxy.proxy.ingest import is_file_name, read_upload
from safety_proxy.proxy.proxied import Proxied
from safety_proxy.proxy.routes import Kind, Route
from safety_proxy.scanner import Cleared, Scanner
from safety_proxy.settings import Settings
from safety_proxy.tasks import spawn
from safety_proxy.verdict import Source, Verdict

_logger = get_logger(__name__)

# Stands for a download that was blocked.
PLACEHOLDER: Final = Path(__file__).with_name("placeholder.png")


class ProxyServer:
    """What Lemmy takes for pict-rs. `handle` is an aiohttp handler for every method and path.

    proxied: None where the settings do not offer `?proxy=`.
    placeholder: the picture that stands for a download that was blocked.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        scanner: Scanner,
        pictrs: Pictrs,
        fetcher: Fetcher,
        spooler: Spooler,
        proxied: Proxied | None,
        placeholder: Media,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._scanner = scanner
        self._pictrs = pictrs
        self._fetcher = fetcher
        self._spooler = spooler
        self._proxied = proxied
        self._placeholder = placeholder
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request: boundary where every error becomes pict-rs' JSON."""
        try:
            with self._metrics.stage("request"):
                return await self._serve(request)
        except ScanError as error:  # the scanner has counted and logged it
            return replies.failed(error)
        except SafetyProxyError as error:
            self._metrics.failure(error.reason)
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                _logger.warning("request failed", reason=error.reason, detail=str(error))
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
                return await self._pass(request, route)
            case Kind.UPLOAD:
                return await self._upload(request, route)
            case Kind.DOWNLOAD:
                return await self._download(request, route)
            case Kind.PROXIED:
                return await self._show(request, route)
            case Kind.LOOKUP:
                return await self._pass(request, route.by_alias(await self._known(route)))
            case Kind.FORGET:
                return await self._forget(request, route)

    async def _pass(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        response = await self._pictrs.stream(request, route)
        assert response is not None  # no status was excluded
        return response

    async def _upload(self, request: web.BaseRequest, route: Route) -> web.Response:
        deadline = _deadline(request, self._settings.server.upload_seconds)
        with ExitStack() as opened:
            with self._metrics.stage("receive"):
                files = await read_upload(
                    request,
                    self._spooler,
                    opened,
                    max_files=self._settings.limits.max_files,
                    deadline=deadline,
                )
            names = [file.name for file in files] if route.path == IMPORT else []
            if not all(map(is_file_name, names)):
                raise MalformedRequest("Failed to parse filename")
            outcome = await self._judge(request, [file.media for file in files], deadline)
            if isinstance(outcome, web.Response):
                return outcome
            return await self._store(outcome, request, route, deadline, names)

    async def _download(self, request: web.BaseRequest, route: Route) -> web.Response:
        _check_not_ours(request)
        deadline = _deadline(request, self._settings.server.request_seconds)
        with ExitStack() as opened:
            with self._metrics.stage("fetch"):
                fetched = await self._fetcher.fetch(route.address, opened, deadline=deadline)
            assert fetched is not None  # which only a conditional request can bring
            outcome = await self._scanner.clear(fetched.media, deadline.before(RESERVE_SECONDS))
            if isinstance(outcome, Verdict):
                # Lemmy answers an error by showing the picture from where it lies. What cannot be
                # read is an error nevertheless: most of it is no picture at all.
                refusal = self._refuse(request, outcome)
                if outcome.source is Source.UNREADABLE or self._settings.fetch.refused == "error":
                    return refusal
                outcome = await self._scanner.clear(
                    self._placeholder, deadline.before(RESERVE_SECONDS)
                )
                if isinstance(outcome, Verdict):  # by a policy that blocks plain gray
                    return self._refuse(request, outcome)
            return await self._store([outcome], request, route, deadline)

    async def _judge(
        self, request: web.BaseRequest, files: Sequence[Media], deadline: Deadline
    ) -> list[Cleared] | web.Response:
        """All of the files or the answer that refuses them: one that is blocked refuses all."""
        scans = [
            spawn(self._scanner.clear(file, deadline.before(RESERVE_SECONDS)), name="clear")
            for file in files
        ]
        try:
            outcomes = await asyncio.gather(*scans)
        finally:
            while scans:  # emptied, so that the frame of an error does not hold the error
                scans.pop().cancel()  # the others', when one of them failed or the client left
        cleared: list[Cleared] = []
        for number, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Verdict):
                return self._refuse(request, outcome, number, len(files))
            cleared.append(outcome)
        return cleared

    def _refuse(
        self, request: web.BaseRequest, verdict: Verdict, number: int = 1, count: int = 1
    ) -> web.Response:
        if verdict.source is not Source.UNREADABLE:
            self._metrics.blocked(headers.client_address(request))
        return replies.refused(verdict, number, count)

    async def _store(
        self,
        files: Sequence[Cleared],
        request: web.BaseRequest,
        route: Route,
        deadline: Deadline,
        names: Sequence[str] = (),
    ) -> web.Response:
        with self._metrics.stage("upstream"):
            return await self._pictrs.store(
                files,
                headers.for_store(request.headers),
                path=route.path,
                query=route.query,
                names=names,
                deadline=deadline,
            )

    async def _show(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        _check_not_ours(request)
        proxied = self._offered()
        deadline = _deadline(request, self._settings.server.request_seconds)
        alias = await proxied.bring(route.address, deadline)
        if isinstance(alias, Verdict):
            return self._refuse(request, alias)
        response = await self._pictrs.stream(
            request, route.by_alias(alias), unless=HTTPStatus.NOT_FOUND
        )
        if response is not None:
            return response
        # Somebody has removed it from pict-rs, as a purge of equal bytes does, or its file is lost.
        await proxied.drop(alias)
        alias = await proxied.bring(route.address, deadline)
        if isinstance(alias, Verdict):
            return self._refuse(request, alias)
        return await self._pass(request, route.by_alias(alias))

    async def _forget(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        alias = await self._known(route)
        response = await self._pass(request, route.by_alias(alias))
        if response.status in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            await self._offered().forget(alias)
        return response

    async def _known(self, route: Route) -> str:
        alias = await self._offered().find(route.address)
        if alias is None:
            raise NotProxied("Media has not been proxied")  # pict-rs' own words
        return alias

    def _offered(self) -> Proxied:
        if self._proxied is None:
            raise NotOffered("Proxied images need the setting upstream.api_key of safety-proxy")
        return self._proxied


def _check_not_ours(request: web.BaseRequest) -> None:
    """Refuses to fetch for ourselves.

    Lemmy passes User-Agent on, so an address that leads to its own image proxy comes back here, and
    could do so until the deadline.
    """
    if request.headers.get(hdrs.USER_AGENT, "").startswith(f"{AGENT}/"):
        raise DownloadFailed("Unable to download image, the address leads back here", status=400)


def _deadline(request: web.BaseRequest, seconds: float) -> Deadline:
    return Deadline.of_request(request.headers.get(DEADLINE), seconds)
