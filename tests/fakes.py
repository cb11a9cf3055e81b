"""Stand-ins at the package's seams: a model, a server for pict-rs or an origin, a policy."""

import asyncio
import email
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from aiohttp import ClientSession, web
from multidict import CIMultiDictProxy
from yarl import URL

from safety_proxy.crops import CropSpec, Float32Array, UInt8Array
from safety_proxy.deadline import Deadline
from safety_proxy.errors import EmbedderUnavailable, ScanTimeout
from safety_proxy.inference.batcher import Batcher
from safety_proxy.look import Viewer
from safety_proxy.media.bounds import Bounds, Frame
from safety_proxy.media.frames import read_frames
from safety_proxy.media.isolation.processes import Decoders
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.metrics import Metrics
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy, parse_policy
from safety_proxy.proxy.fetch import Fetcher
from safety_proxy.proxy.forward import IMPORT, STORES, Pictrs
from safety_proxy.proxy.proxied import Proxied
from safety_proxy.proxy.server import PLACEHOLDER, ProxyServer
from safety_proxy.scanner import Model, Scanner
from safety_proxy.settings import Settings
from safety_proxy.store.cache import VerdictCache
from safety_proxy.store.database import Database
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.proxied import ProxiedTable
from safety_proxy.store.recall import Recall
from safety_proxy.store.unscanned import Unscanned

POLICY_TEXT = """
name = "colors"
score = "cosine"

[concepts.red]
threshold = 0.6
prompts = ["red"]

[concepts.green]
threshold = 0.9
prompts = ["green"]

[concepts.blue]
threshold = 0.6
prompts = ["blue"]

[[rules]]
name = "red-and-blue"
action = "block"
all = ["red", "blue"]

[[rules]]
name = "green"
action = "flag"
all = ["green"]
"""

_AXES = ("red", "green", "blue")
_PATIENCE_SECONDS = 30
API_KEY = "pictrs-api-key"


def color_policy() -> Policy:
    """Blocks what is red and blue in one frame, flags what is green."""
    return parse_policy(POLICY_TEXT, where="test")


@dataclass
class FakeEmbedder:
    """An Embedder whose embeddings are the mean color: axes red, green, blue, and a constant.

    batches: the size of each forward pass, those that fail too.
    started, go: a pass sets the first and waits for the second, which is set unless a test clears.
    error: raised instead of an answer. poison: raised for batches with a crop this returns True of.
    answer: changes what a pass returns.
    """

    fingerprint: str = "fake/fp32"
    crop_spec: CropSpec = field(default_factory=lambda: CropSpec(8, 8))
    logit_scale: float = 10.0
    logit_bias: float | None = None
    error: Exception | None = None
    poison: Callable[[UInt8Array], bool] = lambda crop: False
    answer: Callable[[Float32Array], Float32Array] = lambda rows: rows
    batches: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    started: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def embed_images(self, crops: Sequence[UInt8Array]) -> Float32Array:
        self.batches.append(len(crops))
        self.threads.add(threading.current_thread().name)
        self.started.set()
        assert self.go.wait(_PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        if any(map(self.poison, crops)):
            raise EmbedderUnavailable("poisoned batch")
        colors = [crop.reshape(-1, 3).mean(axis=0) / 255 for crop in crops]
        return self.answer(_normalized([[*color, 0.1] for color in colors]))

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        return _normalized([[*(float(axis in text) for axis in _AXES), 0.001] for text in texts])


def _normalized(rows: Sequence[Sequence[float]]) -> Float32Array:
    array = np.array(rows, np.float32)
    normalized: Float32Array = array / np.linalg.norm(array, axis=1, keepdims=True)
    return normalized


def model_of(
    embedder: FakeEmbedder, metrics: Metrics, *, policy: Policy | None = None, batch_limit: int = 32
) -> Model:
    """What a scanner needs, over this embedder."""

    def judge_of(policy: Policy) -> Judge:
        return Judge(
            policy,
            embedder.embed_texts,
            logit_scale=embedder.logit_scale,
            logit_bias=embedder.logit_bias,
        )

    judge = judge_of(policy or color_policy())
    batcher = Batcher(embedder, batch_limit=batch_limit, metrics=metrics)
    return Model(embedder.fingerprint, embedder.crop_spec, batcher, judge, judge_of)


def bytes_of(media: Media) -> bytes:
    """All of a file."""
    held = media.hold()
    return os.pread(held.descriptor, held.size_bytes, 0)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds; the test's own timeout ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 -- what is waited for is set by threads and sockets
        await asyncio.sleep(0.005)


@dataclass
class Received:
    """A request as a FakeServer got it; `complete` only if its body came to its end."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    @property
    def parts(self) -> list[Message]:
        """The parts of a multipart body, read by another parser than the package's.

        Raises AssertionError if the body ends before its last boundary.
        """
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body)
        assert self.complete
        assert self.body.endswith(f"\r\n--{message.get_boundary()}--\r\n".encode())
        parts = message.get_payload()
        assert isinstance(parts, list)
        return [part for part in parts if isinstance(part, Message)]

    @property
    def files(self) -> list[bytes]:
        """The bodies of the parts, byte for byte."""
        _, _, rest = self.headers["Content-Type"].partition("boundary=")
        sections = bytes(self.body).split(f"--{rest}".encode())
        assert len(self.parts) == len(sections) - 2
        return [section.partition(b"\r\n\r\n")[2][:-2] for section in sections[1:-1]]


Answer = Callable[[web.BaseRequest, Received], Awaitable[web.StreamResponse]]


class FakeServer:
    """A web server on loopback that keeps what it was asked; `answer` says what it answers."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.answer: Answer = self.as_pictrs
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, handler_cancellation=True),
            shutdown_timeout=0.1,
        )

    @property
    def port(self) -> int:
        port: int = self._runner.addresses[0][1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stored(self) -> list[Received]:
        """The complete uploads."""
        return [
            received
            for received in self.received
            if received.complete and received.target.partition("?")[0] in STORES
        ]

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        received = Received(request.method, request.raw_path, request.headers)
        self.received.append(received)
        async for chunk in request.content.iter_any():
            received.body += chunk
        received.complete = True
        return await self.answer(request, received)

    @staticmethod
    async def as_pictrs(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        """As much of pict-rs as the unit tests need."""
        path = received.target.partition("?")[0]
        if path == "/image/backgrounded":
            uploads = [{"upload_id": f"{n}"} for n, _ in enumerate(received.parts)]
            return web.json_response({"msg": "ok", "uploads": uploads}, status=202)
        if path in STORES:
            names = [part.get_filename() for part in received.parts]
            if path != IMPORT:
                names = [f"{n}.png" for n, _ in enumerate(names)]
            files = [{"file": name, "delete_token": "t"} for name in names]
            return web.json_response({"msg": "ok", "files": files}, status=201)
        if path == "/internal/delete":
            return web.json_response({"msg": "ok"})
        return web.Response(text="pict-rs")


@dataclass
class Running:
    """A proxy that listens, and what it was built of."""

    url: str
    embedder: FakeEmbedder
    scanner: Scanner
    metrics: Metrics
    cache: VerdictCache
    pictrs: Pictrs
    proxied: Proxied | None
    table: ProxiedTable
    unscanned: Unscanned
    decoders: Decoders
    spooler: Spooler


class InProcessDecoders(Decoders):
    """Decodes on a thread of the test's own process, and so at once; no test of isolation."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self.decoding = read_frames
        self.lost = 0

    @property
    def healthy(self) -> bool:
        return True

    async def start(self) -> None:
        pass

    async def decode(
        self, media_fd: int, size_bytes: int, spec: CropSpec, bounds: Bounds, *, deadline: Deadline
    ) -> list[Frame]:
        data = os.pread(media_fd, size_bytes, 0)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline.at):
                return await loop.run_in_executor(
                    self._threads, partial(self.decoding, data, spec, bounds)
                )
        except TimeoutError as error:
            raise ScanTimeout("not decoded in time") from error

    async def aclose(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def running_proxy(
    pictrs_url: str,
    /,
    *,
    embedder: FakeEmbedder | None = None,
    policy: Policy | None = None,
    origin_port: int | None = None,
    folder: Path | None = None,
    **sections: dict[str, Any],
) -> AsyncIterator[Running]:
    """The public listener in front of this pict-rs; `sections` are settings.

    folder: of the database; one that goes with the proxy unless given.
    """
    upstream = {"url": pictrs_url, "api_key": API_KEY, **sections.pop("upstream", {})}
    fetch = {
        "allow_networks": ["127.0.0.0/8"],
        "allow_ports": [origin_port or 80],
        **sections.pop("fetch", {}),
    }
    settings = Settings.model_validate({"upstream": upstream, "fetch": fetch, **sections})
    metrics, embedder = Metrics(), embedder or FakeEmbedder()
    cache = VerdictCache(settings.cache.max_entries)
    async with AsyncExitStack() as closing:
        folder = folder or Path(closing.enter_context(TemporaryDirectory()))
        database = Database(folder)
        await database.open()
        closing.push_async_callback(database.aclose)
        decoders = InProcessDecoders()
        closing.push_async_callback(decoders.aclose)
        recall = Recall(EvidenceStore(database, keep_seconds=3600, max_embeddings=1000))
        closing.push_async_callback(recall.aclose)
        table, unscanned = ProxiedTable(database), Unscanned(database)
        scanner = Scanner(
            settings,
            cache=cache,
            lists=HashLists(database=database),
            recall=recall,
            unscanned=unscanned,
            viewer=Viewer(settings, decoders, metrics),
            metrics=metrics,
        )
        model = scanner.model = model_of(
            embedder, metrics, policy=policy, batch_limit=settings.model.batch_limit
        )
        closing.push_async_callback(model.batcher.aclose)
        pictrs = Pictrs(settings.upstream)
        closing.push_async_callback(pictrs.aclose)
        limits = settings.limits
        spooler = Spooler(file_bytes=limits.max_file_bytes, total_bytes=limits.max_spool_bytes)
        fetcher = Fetcher(settings.fetch, spooler)
        closing.push_async_callback(fetcher.aclose)
        proxied = None
        if settings.upstream.api_key is not None:
            proxied = Proxied(
                settings.proxied,
                table=table,
                fetcher=fetcher,
                scanner=scanner,
                pictrs=pictrs,
                metrics=metrics,
                seconds=settings.server.request_seconds,
            )
            closing.push_async_callback(proxied.aclose)
        placeholder = closing.enter_context(await asyncio.to_thread(Media.from_path, PLACEHOLDER))
        server = ProxyServer(
            settings,
            scanner=scanner,
            pictrs=pictrs,
            fetcher=fetcher,
            spooler=spooler,
            proxied=proxied,
            placeholder=placeholder,
            metrics=metrics,
        )
        runner = web.ServerRunner(
            web.Server(server.handle, access_log=None, handler_cancellation=True),
            shutdown_timeout=0.1,
        )
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        closing.callback(embedder.go.set)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield Running(
            url=url,
            embedder=embedder,
            scanner=scanner,
            metrics=metrics,
            cache=cache,
            pictrs=pictrs,
            proxied=proxied,
            table=table,
            unscanned=unscanned,
            decoders=decoders,
            spooler=spooler,
        )


BOUNDARY = "a-boundary"


def multipart(*files: bytes, head: str | None = None) -> bytes:
    """A multipart body of `files`, with BOUNDARY; `head`: other part headers than usual."""
    head = head or 'Content-Disposition: form-data; name="images[]"; filename="x.png"'
    start = f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode()
    return b"".join(start + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


@dataclass
class Answered:
    """An answer, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    json: Any


async def ask(
    client: ClientSession, method: str, url: str, target: str, **options: Any
) -> Answered:
    """The answer to a request whose target is sent as it stands."""
    async with client.request(
        method, URL(url + target, encoded=True), allow_redirects=False, **options
    ) as response:
        body = await response.read()
        is_json = response.content_type == "application/json" and body
        return Answered(
            response.status, response.headers, body, await response.json() if is_json else None
        )


async def upload(
    client: ClientSession, url: str, *files: bytes, query: str = "", **options: Any
) -> Answered:
    """The answer to `POST /image` with these files."""
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        **options.pop("headers", {}),
    }
    return await ask(
        client, "POST", url, f"/image{query}", data=multipart(*files), headers=headers, **options
    )
