"""The composition root: builds each part once, hands it down, starts and stops all in order."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

from aiohttp import web
from aiohttp.abc import AbstractResolver

from safety_proxy.admin.bodies import HOST, TOKEN
from safety_proxy.admin.server import AdminServer
from safety_proxy.administration import Administration
from safety_proxy.assembly import build_decoders, build_model, load_clip, own_policy
from safety_proxy.deadline import Deadline
from safety_proxy.errors import ConfigError, ScanError, StoreUnavailable, UndecodableImage
from safety_proxy.inference.embedder import Embedder
from safety_proxy.logs import get_logger
from safety_proxy.look import Viewer
from safety_proxy.media.isolation.processes import Decoders
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.metrics import Metrics
from safety_proxy.policy.policy import check_model
from safety_proxy.proof import Proof
from safety_proxy.proxy.fetch import Fetcher
from safety_proxy.proxy.forward import Pictrs
from safety_proxy.proxy.proxied import Proxied
from safety_proxy.proxy.server import PLACEHOLDER, ProxyServer
from safety_proxy.scanner import Model, Scanner
from safety_proxy.settings import Settings
from safety_proxy.store.cache import VerdictCache
from safety_proxy.store.database import Database
from safety_proxy.store.entries import Kind
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.hashlist import TEST_PICTURE, HashLists
from safety_proxy.store.proxied import ProxiedTable
from safety_proxy.store.recall import Recall
from safety_proxy.store.shared import ListSource
from safety_proxy.store.unscanned import Unscanned
from safety_proxy.tasks import in_daemon_thread, spawn
from safety_proxy.validator.server import ValidatorServer

_logger = get_logger(__name__)

# Spooling, hashing and name look-ups share the loop's threads; a name server that hangs may hold
# many of them for seconds.
_IO_THREADS = 64

_DAY_SECONDS = 86_400

# For the answer of a request that has been served, after a stop.
_LAST_WORDS_SECONDS = 0.5

# After which a model that failed is shown the harmless pictures again.
_AGAIN_SECONDS = 30.0

_DRY_RUN = "DRY RUN (policy.dry_run): what the policy would block is flagged, and STORED"


class App:
    """The running proxy: `async with App(settings) as app: await app.ready()`.

    Listeners open at once, so that reads pass while the model loads; uploads get 503 until then.
    load_embedder, resolver, decoders: the model, how foreign names are looked up, and what reads
    pictures, where not as usual.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        load_embedder: Callable[[Settings], Embedder] = load_clip,
        resolver: AbstractResolver | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        self.settings = settings
        self._load_embedder = load_embedder
        self._resolver = resolver
        self.metrics = Metrics()
        self._cache = VerdictCache(settings.cache.max_entries)
        self._database = Database(settings.store.folder)
        self._unscanned = Unscanned(self._database)
        self._decoders = decoders or build_decoders(settings)
        self._lists = _lists(settings, self._database)
        self._evidence = EvidenceStore(
            self._database,
            keep_seconds=settings.store.keep_days * _DAY_SECONDS,
            max_embeddings=settings.store.max_embeddings,
        )
        self._recall = Recall(self._evidence)
        viewer = Viewer(settings, self._decoders, self.metrics)
        self.scanner = Scanner(
            settings,
            cache=self._cache,
            lists=self._lists,
            recall=self._recall,
            unscanned=self._unscanned,
            viewer=viewer,
            metrics=self.metrics,
        )
        limit = settings.policy.harmless_limit
        self.proof = Proof(self.scanner, lists=self._lists, viewer=viewer, limit=limit)
        self._administration: Administration | None = None
        self._closing = AsyncExitStack()
        self._loading: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._stop = Deadline.after(0)  # until then work in flight may go on
        self.port = settings.server.port
        self.admin_port = settings.server.admin_port
        self.validator_port = settings.validator.port

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(_IO_THREADS, thread_name_prefix="io")
        )
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stops: listeners close, work in flight ends (up to server.shutdown_seconds)."""
        await self._closing.aclose()

    async def ready(self) -> None:
        """Returns when the model has loaded and warmed up. Raises ConfigError if it cannot.

        The policy may still prove to be none that can be used: see `Proof.look`.
        """
        assert self._loading is not None
        await asyncio.shield(self._loading)

    async def _start(self) -> None:
        settings = self.settings
        self._closing.push_async_callback(self._database.aclose)
        await self._database.open()
        await self._load_decisions()
        self._closing.push_async_callback(self._evidence.aclose)
        self._closing.push_async_callback(self._recall.aclose)
        sweeping = spawn(self._evidence.keep_forever(), name="sweep evidence")
        self._closing.push_async_callback(_cancel, sweeping)
        self._closing.push_async_callback(self._decoders.aclose)
        await self._decoders.start()
        self._closing.push_async_callback(self._unload_model)
        self._pictures = await self._opened(TEST_PICTURE), await self._opened(PLACEHOLDER)
        spooler = Spooler(
            file_bytes=settings.limits.max_file_bytes, total_bytes=settings.limits.max_spool_bytes
        )
        fetcher = Fetcher(settings.fetch, spooler, resolver=self._resolver)
        self._closing.push_async_callback(fetcher.aclose)
        pictrs = Pictrs(settings.upstream)
        self._closing.push_async_callback(pictrs.aclose)
        proxy = ProxyServer(
            settings,
            scanner=self.scanner,
            pictrs=pictrs,
            fetcher=fetcher,
            spooler=spooler,
            proxied=self._proxied(fetcher, pictrs),
            placeholder=self._pictures[1],
            metrics=self.metrics,
        )
        self._administration = Administration(
            settings.policy,
            scanner=self.scanner,
            lists=self._lists,
            evidence=self._evidence,
            fetcher=fetcher,
            spooler=spooler,
            proof=self.proof,
        )
        admin = AdminServer(
            self.scanner,
            self._cache,
            self.metrics,
            unscanned=self._unscanned,
            decoders=self._decoders,
            queue_limit=settings.scan.queue_limit,
            upstream_alive=pictrs.is_alive,
            routes=self._administration.routes,
        )
        server = settings.server
        admin.app[HOST] = server.admin_host
        if server.admin_token is not None:
            admin.app[TOKEN] = server.admin_token.get_secret_value()
        self.admin_port = await self._listen(
            web.AppRunner(admin.app, access_log=None, shutdown_timeout=_LAST_WORDS_SECONDS),
            server.admin_host,
            server.admin_port,
        )
        # Before the public listener, and so closed after it: pict-rs asks while it takes the last.
        if settings.validator.ids:
            await self._start_validator(spooler)
        requests = _InFlight(proxy.handle)
        runner = web.ServerRunner(
            web.Server(requests.handle, access_log=None, handler_cancellation=True),
            shutdown_timeout=_LAST_WORDS_SECONDS,
        )
        self.port = await self._listen(runner, server.host, server.port)
        self._closing.push_async_callback(self._drain, runner, requests)
        # Last, since a port that is taken should be told at once, not after a download.
        self._loading = spawn(self._load_model(), name="load model")

    async def _load_decisions(self) -> None:
        """What earlier runs and the admin left in the database. Raises ConfigError."""
        try:
            await self._unscanned.load()
            await self._lists.load()
        except StoreUnavailable as error:
            raise ConfigError(
                f"Database {self._database.path}: {error}. If another process holds the file, end "
                "that; if it is damaged, move it away and it is made anew."
            ) from error

    async def _listen(self, runner: web.BaseRunner, host: str, port: int) -> int:
        """Starts a listener; its port, also where any free one was asked for.

        Raises ConfigError if it cannot stand there.
        """
        await runner.setup()
        self._closing.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
        address: tuple[str, int] = runner.addresses[0][:2]
        return address[1]

    async def _start_validator(self, spooler: Spooler) -> None:
        settings = self.settings
        validator = ValidatorServer(
            self.scanner,
            settings.validator,
            spooler,
            seconds=settings.server.upload_seconds,
            metrics=self.metrics,
        )
        await validator.start()
        self.validator_port = validator.port
        self._closing.push_async_callback(self._close_validator, validator)

    async def _close_validator(self, validator: ValidatorServer) -> None:
        """Within the time that the public listener has left of the stop."""
        await validator.aclose(max(0.0, self._stop.left))

    async def reload(self) -> None:
        """Reads `policy.file` and the lists anew; what is wrong is logged, and stays as it was."""
        if self._administration is not None:
            await self._administration.reload()

    def _proxied(self, fetcher: Fetcher, pictrs: Pictrs) -> Proxied | None:
        """What serves `?proxy=`; None without the key that it stores and removes pictures by."""
        settings = self.settings
        if settings.upstream.api_key is None:
            return None
        proxied = Proxied(
            settings.proxied,
            table=ProxiedTable(self._database),
            fetcher=fetcher,
            scanner=self.scanner,
            pictrs=pictrs,
            metrics=self.metrics,
            seconds=settings.server.request_seconds,
        )
        self._closing.push_async_callback(proxied.aclose)
        sweeping = spawn(proxied.sweep_forever(), name="sweep proxied pictures")
        self._closing.push_async_callback(_cancel, sweeping)
        return proxied

    async def _opened(self, path: Path) -> Media:
        media = await asyncio.to_thread(Media.from_path, path)
        self._closing.callback(media.close)
        return media

    async def _drain(self, runner: web.BaseRunner, requests: "_InFlight") -> None:
        """Lets work in flight end; aiohttp's own shutdown drops what is still arriving of it."""
        self._stop = Deadline.after(self.settings.server.shutdown_seconds)
        for site in list(runner.sites):
            await site.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._stop.left):
                await requests.ended.wait()

    async def _load_model(self) -> None:
        self.scanner.model = await in_daemon_thread(self._build_model)
        policy = self.scanner.model.judge.policy
        for note in (policy.note, check_model(policy, self.scanner.model.fingerprint)):
            if note:
                _logger.warning("policy", name=policy.name, note=note)
        if self.settings.policy.dry_run:
            _logger.warning(_DRY_RUN, policy=policy.name)
        try:
            await self.proof.prove(*self._pictures)
        except (ScanError, UndecodableImage) as error:
            # No bug: the model is at fault, or its machine.
            _logger.error("not ready: the model failed its first pictures", detail=str(error))  # noqa: TRY400
        if not self.scanner.proven:
            return
        _logger.info(
            "ready",
            model=self.scanner.model.fingerprint,
            policy=policy.name,
            version=policy.version,
        )
        self._trying = spawn(self._try_harmless(), name="look at harmless pictures")

    async def _try_harmless(self) -> None:
        """Afterwards, since it takes a slow model a minute, and uploads are judged meanwhile."""
        while True:
            try:
                return await self.proof.look()
            except (ScanError, UndecodableImage) as error:
                _logger.warning("the harmless pictures wait", detail=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    def _build_model(self) -> Model:
        policy = own_policy(self.settings)
        embedder = self._load_embedder(self.settings)
        return build_model(self.settings, embedder, policy, self.metrics)

    async def _unload_model(self) -> None:
        for task in (self._loading, self._trying):
            if task is not None:
                await _cancel(task)  # the thread that loads ends with the process
        if self.scanner.model is not None:
            await self.scanner.model.batcher.aclose()


def _lists(settings: Settings, database: Database) -> HashLists:
    lists = settings.lists
    sources = [
        ListSource(each.name, each.file.expanduser(), Kind(each.kind) if each.kind else None)
        for each in lists.files
    ]
    return HashLists(
        sources,
        database=database,
        max_distance=lists.max_distance,
        min_quality=lists.min_quality,
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


class _InFlight:
    """A handler that knows whether it serves any request: `ended` is set while it does not."""

    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._handle = handle
        self._count = 0
        self.ended = asyncio.Event()
        self.ended.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._count += 1
        self.ended.clear()
        try:
            return await self._handle(request)
        finally:
            self._count -= 1
            if not self._count:
                self.ended.set()
