"""Tests of safety_proxy/proxy/proxied.py: foreign pictures are fetched, judged, kept and let go."""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, ClientTimeout, web

from safety_proxy.deadline import HEADER as DEADLINE
from safety_proxy.errors import StoreUnavailable
from safety_proxy.proxy.forward import IMPORT
from safety_proxy.proxy.proxied import Proxied
from safety_proxy.tasks import spawn
from tests.fakes import (
    API_KEY,
    Answer,
    Answered,
    FakeEmbedder,
    FakeServer,
    Received,
    Running,
    ask,
    running_proxy,
    until,
    upload,
)
from tests.pictures import BLUE, GREEN, PURPLE, RED, plain

HOUR = 3600.0
ETAG = 'W/"version 1"'
MODIFIED = "Wed, 25 Nov 2026 12:47:02 GMT"
DELETE = "/internal/delete"

# What tells of a picture or removes it, and fetches nothing.
LOOKUPS = [
    ("HEAD", "/image/original"),
    ("HEAD", "/image/process.png"),
    ("GET", "/image/process_backgrounded.webp"),
    ("GET", "/image/details/original"),
    ("GET", "/image/details/process.webp"),
    ("GET", "/internal/aliases"),
    ("GET", "/internal/identifier"),
    ("POST", "/internal/purge"),
    ("POST", DELETE),
]


@dataclass
class Clock:
    """The time of day, as much later as a test says."""

    later: float = 0.0

    def __post_init__(self) -> None:
        self._time = time.time

    def time(self) -> float:
        return self._time() + self.later


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock.time)
    return clock


@dataclass
class Site:
    """An origin that has one picture at all its addresses.

    status: other than 200, it is all that an answer has. go: each answer waits for it; it is set
    unless a test clears it. left: how many did not wait for their answer.
    """

    server: FakeServer
    body: bytes = field(default_factory=lambda: plain(RED))
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    left: int = 0

    def __post_init__(self) -> None:
        self.go.set()
        self.server.answer = self.answer

    @property
    def address(self) -> str:
        return f"{self.server.url}/a.png"

    @property
    def asked(self) -> list[str]:
        """The targets of the requests so far."""
        return [received.target for received in self.server.received]

    async def answer(self, request: web.BaseRequest, received: Received) -> web.StreamResponse:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        if self.status != 200:
            return web.Response(status=self.status, text="no picture")
        known = request.headers.get("If-None-Match")
        if known is not None and known == self.headers.get("ETag"):
            return web.Response(status=304, headers=self.headers)
        return web.Response(body=self.body, headers=self.headers, content_type="image/png")


@dataclass
class Store:
    """pict-rs, as far as it matters here. `instead`: what answers for a path in its place."""

    server: FakeServer
    pictures: dict[str, bytes] = field(default_factory=dict)
    instead: dict[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.server.answer = self.answer

    @property
    def asked(self) -> list[str]:
        """Methods and targets of the requests so far, without the imports."""
        return [
            f"{received.method} {received.target}"
            for received in self.server.received
            if received.target != IMPORT
        ]

    def refuse(self, path: str, status: int, message: str = "No", code: str = "no") -> None:
        """From now on this is the answer to that path."""

        async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
            return web.json_response({"msg": message, "code": code}, status=status)

        self.instead[path] = answer

    async def answer(self, request: web.BaseRequest, received: Received) -> web.StreamResponse:
        path = received.target.partition("?")[0]
        if path in self.instead:
            return await self.instead[path](request, received)
        if path.startswith("/internal/") and request.headers.get("X-Api-Token") != API_KEY:
            return web.json_response(
                {"msg": "Invalid API Key", "code": "invalid-api-token"}, status=401
            )
        if path == IMPORT:
            for part, body in zip(received.parts, received.files, strict=True):
                alias = part.get_filename()
                assert alias is not None
                self.pictures[alias] = body
        alias = request.query.get("alias", "")
        if not alias:
            return await FakeServer.as_pictrs(request, received)
        if alias not in self.pictures:
            return web.json_response({"msg": "Gone", "code": "alias-not-found"}, status=404)
        if path in {DELETE, "/internal/purge"}:
            del self.pictures[alias]
            return web.json_response({"msg": "ok"})
        return web.Response(body=self.pictures[alias])


@dataclass
class Scene:
    """A proxy between a client, an origin and pict-rs."""

    client: ClientSession
    site: Site
    store: Store
    proxy: Running

    @property
    def proxied(self) -> Proxied:
        assert self.proxy.proxied is not None
        return self.proxy.proxied

    async def ask(
        self,
        method: str = "GET",
        path: str = "/image/original",
        *,
        of: str | None = None,
        more: str = "",
        **options: Any,
    ) -> Answered:
        """The answer to a request by address, which is that of the site's picture unless given."""
        target = f"{path}?proxy={quote(of or self.site.address, safe='')}{more}"
        return await ask(self.client, method, self.proxy.url, target, **options)

    async def shown(self) -> bytes:
        """What a user sees at the address of the site's picture."""
        answer = await self.ask()
        assert answer.status == 200
        return answer.body

    async def rows(self) -> dict[str, str]:
        """All that the table holds: the state of each alias."""
        return dict(
            await self.proxy.table._database.run(
                lambda connection: connection.execute("SELECT alias, state FROM proxied").fetchall()
            )
        )

    async def alias(self) -> str | None:
        """By which the site's picture is shown."""
        return await self.proxied.find(self.site.address)

    async def revalidated(self) -> None:
        """Returns when no origin is being asked anew."""
        await until(lambda: not self.proxied._revalidating)

    @property
    def waiting(self) -> int:
        """Askers for a picture that is on its way."""
        return sum(flight.waiting for flight in self.proxied._arrivals._flights.values())

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        """While that is removed which pict-rs should not have any more."""
        task = spawn(self.proxied.sweep_forever(), name="sweep")
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def deleted(self) -> list[str]:
        """The aliases that pict-rs was asked to delete, in this order."""
        prefix = f"POST {DELETE}?alias="
        return [asked.removeprefix(prefix) for asked in self.store.asked if prefix in asked]

    async def removed(self, alias: str | None) -> None:
        """Returns when pict-rs was asked to delete this, nothing else, and it is forgotten."""
        await until(lambda: self.deleted() != [])
        await self.forgotten(alias)
        assert self.deleted() == [alias]

    async def forgotten(self, alias: str | None) -> None:
        """Returns when the table does not hold it any more."""
        while alias in await self.rows():  # noqa: ASYNC110 -- asked of a file
            await asyncio.sleep(0.005)


@asynccontextmanager
async def playing(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, **options: Any
) -> AsyncIterator[Scene]:
    """A scene with these settings."""
    site, store = Site(origin), Store(pictrs)
    async with running_proxy(pictrs.url, origin_port=origin.port, **options) as proxy:
        yield Scene(client, site, store, proxy)


@pytest.fixture
async def scene(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer
) -> AsyncIterator[Scene]:
    async with playing(client, origin, pictrs) as scene:
        yield scene


def broken_off(request: web.BaseRequest) -> web.Response:
    """What becomes of a server's answer when it dies over it."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def hang(request: web.BaseRequest, received: Received) -> web.StreamResponse:
    """No answer, ever."""
    await asyncio.Event().wait()
    raise AssertionError


def assert_error(answer: Answered, status: int, code: str) -> None:
    """An answer in the form of pict-rs' own errors."""
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["msg"]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/image/original", ""),
        ("/image/process.webp", "&thumbnail=256"),
        ("/image/process.jpg", "&resize=100&blur=2.5"),
        ("/image/blurhash", ""),
    ],
)
async def test_a_new_address_is_fetched_imported_and_asked_for_by_alias(
    scene: Scene, path: str, more: str
) -> None:
    """pict-rs gets the very bytes that were judged, and no address; the second time it has them."""
    for _ in range(2):
        answer = await scene.ask(path=path, more=more)
        assert (answer.status, answer.body) == (200, scene.site.body)
    ((alias, body),) = scene.store.pictures.items()
    assert alias.startswith("safety-proxy-")
    assert body == scene.site.body
    assert scene.site.asked == ["/a.png"]
    (imported,) = scene.store.server.stored
    assert 0 < int(imported.headers[DEADLINE]) / 1e9 - time.time() < 9.5
    assert (imported.method, imported.target) == ("POST", IMPORT)
    assert imported.headers["X-Api-Token"] == API_KEY
    assert scene.store.asked == [f"GET {path}?alias={alias}{more}"] * 2
    assert await scene.rows() == {alias: "live"}
    assert scene.proxy.embedder.batches == [1]


async def test_flagged_is_shown_like_any_other(scene: Scene) -> None:
    """`flag` lets in."""
    scene.site.body = plain(GREEN)
    assert await scene.shown() == plain(GREEN)
    assert scene.proxy.metrics.verdicts_by_action == {"flag": 1}


async def test_known_pictures_survive_a_restart(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, tmp_path: Path
) -> None:
    """The next process shows them without a fetch."""
    async with playing(client, origin, pictrs, folder=tmp_path) as scene:
        await scene.shown()
    pictures = scene.store.pictures
    async with playing(client, origin, pictrs, folder=tmp_path) as scene:
        scene.store.pictures = pictures
        assert await scene.shown() == scene.site.body
    assert len(origin.received) == 1
    assert len(pictrs.stored) == 1


async def test_equal_bytes_at_two_addresses_are_judged_once(scene: Scene) -> None:
    """Each address has an alias of its own, so that one can go without the other."""
    for name in ("a", "b"):
        answer = await scene.ask(of=f"{scene.site.server.url}/{name}.png")
        assert answer.status == 200
    assert len(scene.store.pictures) == 2
    assert scene.proxy.embedder.batches == [1]


async def test_spellings_of_one_address_meet(scene: Scene) -> None:
    """One fetch, one entry, by whatever spelling it is asked for."""
    port = scene.site.server.port
    for address in (
        scene.site.address,
        f"HTTP://127.0.0.1:{port}/a.png",
        f"http://127.0.0.1:{port}/b/../a.png",
        f"{scene.site.address}#part",
        f" {scene.site.address}",
    ):
        assert (await scene.ask(of=address)).status == 200
        assert (await scene.ask("HEAD", of=address)).status == 200
    assert scene.site.asked == ["/a.png"]
    assert len(await scene.rows()) == 1


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        (
            "/p%2Fq/a%2B%27%25%28.png?sig=x%2By%2F%3D&w=1200",
            "/p%2Fq/a%2B%27%25%28.png?sig=x%2By%2F%3D&w=1200",
        ),
        ("/a+b.png?c+d=(e)'~", "/a+b.png?c+d=(e)'~"),
        ("/a b.png?c d", "/a%20b.png?c%20d"),
        ("/\u00e9.png?\u00e9", "/%C3%A9.png?%C3%A9"),
        ("/a.png?a=1&alias=x&src=y&thumbnail=9#part", "/a.png?a=1&alias=x&src=y&thumbnail=9"),
    ],
)
async def test_the_origin_is_asked_for_what_the_address_says(
    scene: Scene, written: str, asked: str
) -> None:
    """Nothing in it is decoded or escaped once too often, and nothing of it becomes a parameter."""
    address = scene.site.server.url + written
    answer = await scene.ask(path="/image/process.webp", of=address, more="&thumbnail=512")
    assert answer.status == 200
    assert scene.site.asked == [asked]
    (alias,) = scene.store.pictures
    assert scene.store.asked == [f"GET /image/process.webp?alias={alias}&thumbnail=512"]


@pytest.mark.parametrize("thumbnail_first", [True, False])
async def test_the_two_ways_that_lemmy_writes_an_address_meet(
    scene: Scene, *, thumbnail_first: bool
) -> None:
    """0.19 puts it in as it is for the picture, and escaped for the details."""
    address = f"{scene.site.server.url}/x.png?a=1&b=2"
    url, client = scene.proxy.url, scene.client
    targets = [
        f"/image/process.webp?proxy={address}&thumbnail=256",
        f"/image/original?proxy={address}",
    ]
    for target in targets if thumbnail_first else reversed(targets):
        answer = await ask(client, "GET", url, target)
        assert (answer.status, answer.body) == (200, scene.site.body)
    details = await scene.ask(path="/image/details/original", of=address)
    assert details.status == 200
    assert scene.site.asked == ["/x.png?a=1&b=2"]
    (alias,) = await scene.rows()
    assert sorted(scene.store.asked) == [
        f"GET /image/details/original?alias={alias}",
        f"GET /image/original?alias={alias}",
        f"GET /image/process.webp?alias={alias}&thumbnail=256",
    ]


async def test_the_user_s_session_goes_nowhere(scene: Scene) -> None:
    """Neither to the origin nor to pict-rs; what a reader asks of the picture goes to pict-rs."""
    secrets = {
        "Authorization": "Bearer secret",
        "Cookie": "jwt=secret",
        "X-Api-Token": "secret",
        "User-Agent": "secret",
        "Referer": "http://secret/",
        "X-Forwarded-For": "10.0.0.1",
        "Range": "bytes=0-1",
        "If-None-Match": '"x"',
    }
    answer = await scene.ask(headers=secrets)
    assert answer.status == 200
    (fetched,) = scene.site.server.received
    assert {name.lower() for name in fetched.headers} == {
        "host",
        "connection",
        "accept",
        "accept-encoding",
        "user-agent",
    }
    imported, read = scene.store.server.received
    assert "secret" not in str(fetched.headers) + str(imported.headers)
    assert b"secret" not in imported.body
    assert {name.lower() for name in imported.headers} == {
        "host",
        "connection",
        "content-type",
        "content-length",
        "x-api-token",
        "x-request-deadline",
    }
    assert {name.lower() for name in read.headers} == {
        "host",
        "x-api-token",
        "range",
        "if-none-match",
    }


async def test_simultaneous_first_requests_share_all_the_work(scene: Scene) -> None:
    """One fetch, one scan, one import; a client that leaves takes nothing from the others."""
    scene.site.go.clear()
    asking = [spawn(scene.ask(), name="ask") for _ in range(10)]
    await until(lambda: scene.waiting == 10 and len(scene.site.asked) == 1)
    asking[0].cancel()
    await until(lambda: scene.waiting == 9)
    scene.site.go.set()
    answers = await asyncio.gather(*asking[1:])
    assert {(answer.status, answer.body) for answer in answers} == {(200, scene.site.body)}
    assert scene.site.asked == ["/a.png"]
    assert scene.site.left == 0
    assert scene.proxy.embedder.batches == [1]
    assert len(scene.store.server.stored) == 1
    assert list((await scene.rows()).values()) == ["live"]


async def test_simultaneous_first_requests_share_a_failure_and_the_next_does_not(
    scene: Scene,
) -> None:
    """All are told, and nothing of it is kept."""
    scene.site.go.clear()
    scene.site.status = 500
    asking = [spawn(scene.ask(), name="ask") for _ in range(3)]
    await until(lambda: scene.waiting == 3)
    scene.site.go.set()
    for answer in await asyncio.gather(*asking):
        assert_error(answer, 500, "download-file-error")
    assert scene.site.asked == ["/a.png"]
    scene.site.status = 200
    assert await scene.shown() == scene.site.body


async def test_a_fetch_that_nobody_waits_for_is_given_up(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer
) -> None:
    """Long before its time is over; nothing is stored, and the next request starts anew."""
    patient = {
        "server": {"request_seconds": 60},
        "fetch": {"silence_seconds": 60, "total_seconds": 60},
    }
    async with playing(client, origin, pictrs, **patient) as scene:
        scene.site.go.clear()
        asking = [spawn(scene.ask(), name="ask") for _ in range(3)]
        await until(lambda: scene.waiting == 3 and len(scene.site.asked) == 1)
        for asker in asking:
            asker.cancel()
        async with asyncio.timeout(20):
            await until(lambda: scene.site.left == 1)
        await until(lambda: not scene.proxied._arrivals._flights)
        assert scene.proxy.spooler.used_bytes == 0
        assert scene.store.server.received == []
        assert await scene.rows() == {}
        scene.site.go.set()
        assert await scene.shown() == scene.site.body


async def test_who_comes_later_waits_no_longer_than_their_own_time(scene: Scene) -> None:
    """The others wait on, and see the picture."""
    scene.site.go.clear()
    first = spawn(scene.ask(), name="ask")
    await until(lambda: scene.waiting == 1 and len(scene.site.asked) == 1)
    soon = str(int((time.time() + 0.2) * 1e9))
    assert_error(await scene.ask(headers={DEADLINE: soon}), 500, "download-file-error")
    assert not first.done()
    scene.site.go.set()
    assert (await first).status == 200
    assert scene.site.asked == ["/a.png"]


async def test_an_import_that_nobody_waits_for_is_swept(scene: Scene, clock: Clock) -> None:
    """pict-rs may have it, or may yet get it: the row says so until it was deleted."""
    scene.store.instead[IMPORT] = hang
    asker = spawn(scene.ask(), name="ask")
    await until(lambda: len(scene.store.server.stored) == 1)
    asker.cancel()
    await until(lambda: not scene.proxied._arrivals._flights)
    ((alias, state),) = (await scene.rows()).items()
    assert state == "storing"
    clock.later += 10 * 60
    async with scene.sweeping():
        await scene.removed(alias)
    assert await scene.alias() is None


async def test_different_addresses_do_not_wait_for_each_other(scene: Scene) -> None:
    """A slow origin holds up its own pictures only."""
    await scene.shown()
    scene.site.go.clear()
    slow = spawn(scene.ask(of=f"{scene.site.server.url}/slow.png"), name="ask")
    await until(lambda: scene.waiting == 1)
    assert await scene.shown() == scene.site.body
    scene.site.go.set()
    assert (await slow).status == 200


@pytest.mark.parametrize(("method", "path"), LOOKUPS)
async def test_an_address_that_is_not_known_is_not_found(
    scene: Scene, method: str, path: str
) -> None:
    """In pict-rs' words; nothing is fetched, and pict-rs is not asked."""
    answer = await scene.ask(method, path, headers={"X-Api-Token": API_KEY})
    assert answer.status == 404
    if method != "HEAD":
        assert answer.json == {"msg": "Media has not been proxied", "code": "proxy-not-found"}
    assert scene.site.asked == []
    assert scene.store.server.received == []


@pytest.mark.parametrize(("method", "path"), LOOKUPS)
async def test_an_address_that_is_known_is_asked_for_by_alias(
    scene: Scene, method: str, path: str
) -> None:
    """With the operations and the caller's key, and without a fetch."""
    await scene.shown()
    (alias,) = scene.store.pictures
    answer = await scene.ask(method, path, more="&thumbnail=256", headers={"X-Api-Token": API_KEY})
    assert answer.status == 200
    assert scene.store.asked[1:] == [f"{method} {path}?alias={alias}&thumbnail=256"]
    assert scene.store.server.received[-1].headers["X-Api-Token"] == API_KEY
    assert scene.site.asked == ["/a.png"]


@pytest.mark.parametrize("path", ["/internal/purge", DELETE])
@pytest.mark.parametrize("has_it", [True, False])
async def test_a_purge_forgets(scene: Scene, path: str, *, has_it: bool) -> None:
    """Also of what pict-rs had lost already; the address is then as if nobody had asked for it."""
    await scene.shown()
    (alias,) = scene.store.pictures
    if not has_it:
        scene.store.pictures.clear()
    answer = await scene.ask("POST", path, headers={"X-Api-Token": API_KEY})
    assert answer.status == (200 if has_it else 404)
    assert await scene.rows() == {}
    assert_error(await scene.ask(path="/image/details/original"), 404, "proxy-not-found")
    assert await scene.shown() == scene.site.body
    assert alias not in scene.store.pictures
    assert len(scene.site.asked) == 2


@pytest.mark.parametrize("headers", [{}, {"X-Api-Token": "wrong"}])
async def test_a_purge_that_pictrs_refuses_forgets_nothing(
    scene: Scene, headers: dict[str, str]
) -> None:
    """The proxy's own key is not the caller's."""
    await scene.shown()
    answer = await scene.ask("POST", "/internal/purge", headers=headers)
    assert_error(answer, 401, "invalid-api-token")
    assert list((await scene.rows()).values()) == ["live"]
    assert await scene.shown() == scene.site.body
    assert scene.site.asked == ["/a.png"]


async def test_a_purge_has_one_answer_though_it_cannot_be_noted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pict-rs' answer has been sent by then; a second one would be taken for the next request's."""
    await scene.shown()

    async def fail(alias: str) -> None:
        raise StoreUnavailable("on purpose")

    monkeypatch.setattr(scene.proxy.table, "remove", fail)
    _, _, port = scene.proxy.url.rpartition(":")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    target = f"/internal/purge?proxy={quote(scene.site.address, safe='')}"
    head = f"Host: x\r\nX-Api-Token: {API_KEY}\r\nContent-Length: 0\r\n"
    writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode())
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert received.count(b"HTTP/1.1 ") == received.count(b"HTTP/1.1 200 OK") == 2
    assert received.endswith(b"pict-rs")


async def test_what_somebody_removed_from_pictrs_is_fetched_anew(scene: Scene) -> None:
    """As a purge of equal bytes does: users see the picture, not that it was gone."""
    await scene.shown()
    (first,) = scene.store.pictures
    scene.store.pictures.clear()
    answer = await scene.ask(path="/image/process.webp", more="&thumbnail=256")
    assert (answer.status, answer.body) == (200, scene.site.body)
    (second,) = scene.store.pictures
    assert first != second == await scene.alias()
    assert len(scene.site.asked) == 2
    assert scene.store.asked[1:] == [
        f"GET /image/process.webp?alias={alias}&thumbnail=256" for alias in (first, second)
    ]
    await scene.shown()
    assert len(scene.site.asked) == 2


async def test_what_pictrs_never_finds_is_fetched_anew_once_a_request(scene: Scene) -> None:
    """Its own answer is passed on then; there is no end to trying otherwise."""
    scene.store.refuse("/image/original", 404, "Not there", "not-found")
    answer = await scene.ask()
    assert_error(answer, 404, "not-found")
    assert len(scene.site.asked) == 2


async def test_an_alias_that_pictrs_does_not_find_is_removed_from_it(scene: Scene) -> None:
    """It may be the file behind it that is lost: an alias that nobody notes would stay for ever."""
    scene.store.refuse("/image/original", 404)
    for _ in range(2):
        assert_error(await scene.ask(), 404, "no")
    del scene.store.instead["/image/original"]
    async with scene.sweeping():
        assert await scene.shown() == scene.site.body
        current = await scene.alias()
        with suppress(TimeoutError):  # upon which the next line shows what there is
            async with asyncio.timeout(1):
                await until(lambda: set(scene.store.pictures) == {current})
        assert set(scene.store.pictures) == {current}


async def test_when_what_is_fetched_anew_is_blocked_it_is_refused(scene: Scene) -> None:
    """The address may well show another picture by now."""
    await scene.shown()
    scene.store.pictures.clear()
    scene.site.body = plain(PURPLE)
    assert_error(await scene.ask(), 400, "failed-external-validation")
    assert scene.store.pictures == {}


@pytest.mark.parametrize("path", ["/image/original", "/image/process.webp", "/image/blurhash"])
async def test_a_blocked_picture_is_refused_and_leaves_nothing(scene: Scene, path: str) -> None:
    """pict-rs hears nothing of it, and the table does not either; each asker is refused."""
    scene.site.body = plain(PURPLE)
    for _ in range(2):
        answer = await scene.ask(path=path)
        assert_error(answer, 400, "failed-external-validation")
        assert not [word for word in ("red", "blue", "0.7") if word in answer.json["msg"]]
    assert scene.store.server.received == []
    assert await scene.rows() == {}
    assert scene.proxy.embedder.batches == [1]  # what was learned of its bytes is kept
    assert_error(await scene.ask(path="/image/details/original"), 404, "proxy-not-found")


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><title>A page</title>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>',
        plain(RED)[:40],
    ],
)
async def test_what_is_no_picture_is_refused_and_leaves_nothing(scene: Scene, body: bytes) -> None:
    """Links to pages are shown as pictures all the time; it is told apart from a hit."""
    scene.site.body = body
    answer = await scene.ask()
    assert_error(answer, 400, "damaged" if body.startswith(b"\x89PNG") else "not-a-picture")
    assert scene.store.server.received == []
    assert await scene.rows() == {}
    assert scene.proxy.metrics.verdicts_by_source == {"unreadable": 1}


@pytest.mark.parametrize("status", [204, 403, 404, 410, 429, 500, 503])
async def test_what_the_origin_does_not_give_is_not_remembered(scene: Scene, status: int) -> None:
    """An error as pict-rs has it; it works as soon as the origin does."""
    scene.site.status = status
    for _ in range(2):
        assert_error(await scene.ask(), 500, "download-file-error")
    assert len(scene.site.asked) == 2
    assert scene.store.server.received == []
    assert await scene.rows() == {}
    assert scene.proxy.embedder.batches == []
    scene.site.status = 200
    assert await scene.shown() == scene.site.body


async def test_an_origin_that_says_nothing_is_given_up(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer
) -> None:
    """In time for Lemmy to hear of it."""
    async with playing(client, origin, pictrs, fetch={"silence_seconds": 0.2}) as scene:
        scene.site.go.clear()
        assert_error(await scene.ask(), 500, "download-file-error")
        assert await scene.rows() == {}
        scene.site.go.set()
        assert await scene.shown() == scene.site.body


@pytest.mark.parametrize(("slow", "left"), [("origin", []), ("pict-rs", ["storing"])])
async def test_a_request_ends_within_its_time(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, slow: str, left: list[str]
) -> None:
    """Whoever takes too long; what pict-rs may have got is noted."""
    async with playing(client, origin, pictrs, server={"request_seconds": 1.5}) as scene:
        if slow == "origin":
            scene.site.go.clear()
        else:
            scene.store.instead[IMPORT] = hang
        answer = await scene.ask(timeout=ClientTimeout(total=4))
        assert answer.status in {500, 504}
        assert answer.json["msg"]
        assert list((await scene.rows()).values()) == left


async def test_a_client_that_waits_less_is_answered_sooner(scene: Scene) -> None:
    """By its own deadline, and a past one starts nothing."""
    scene.site.go.clear()
    soon = str(int((time.time() + 0.2) * 1e9))
    assert_error(await scene.ask(headers={DEADLINE: soon}), 500, "download-file-error")
    assert len(scene.site.asked) == 1
    assert_error(await scene.ask(headers={DEADLINE: soon}), 408, "request-timeout")
    assert len(scene.site.asked) == 1


async def test_what_cannot_be_judged_is_not_stored(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer
) -> None:
    """503 while the model is broken, and nothing is left of the attempt."""
    embedder = FakeEmbedder(error=RuntimeError("lost"))
    async with playing(client, origin, pictrs, embedder=embedder) as scene:
        answer = await scene.ask()
        assert_error(answer, 503, "scan-unavailable")
        assert "Retry-After" in answer.headers
        assert scene.store.server.received == []
        assert await scene.rows() == {}
        embedder.error = None
        assert await scene.shown() == scene.site.body


async def test_a_scan_that_leaves_pictrs_no_time_is_given_up(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer
) -> None:
    """Lemmy would not hear of it any more, and the picture would be stored nevertheless."""
    async with playing(client, origin, pictrs, server={"request_seconds": 1.4}) as scene:
        scene.proxy.embedder.go.clear()
        assert_error(await scene.ask(), 503, "scan-unavailable")
        scene.proxy.embedder.go.set()
        assert scene.store.server.received == []
        assert await scene.rows() == {}


async def test_a_fetch_of_the_proxy_s_own_is_not_served(scene: Scene) -> None:
    """An address that leads back here, through Lemmy, ends at once and not at the deadline."""
    await scene.shown()
    (fetched,) = scene.site.server.received
    own = {"User-Agent": fetched.headers["User-Agent"]}
    for address in (scene.site.address, f"{scene.site.server.url}/new.png"):
        assert_error(await scene.ask(of=address, headers=own), 400, "download-file-error")
    assert len(scene.site.asked) == 1


@pytest.mark.parametrize(
    "address",
    ["a.png", "ftp://127.0.0.1/a.png", "file:///etc/passwd", "http://", "http://u:p@127.0.0.1/"],
)
async def test_what_is_no_address_of_the_web_is_refused(scene: Scene, address: str) -> None:
    """Whatever is asked about it."""
    for method, path in (
        ("GET", "/image/original"),
        ("GET", "/image/details/original"),
        ("POST", "/internal/purge"),
    ):
        assert_error(await scene.ask(method, path, of=address), 400, "download-file-error")
    assert scene.store.server.received == []


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "Failed external validation", "failed-external-validation"),
        (413, "Filesize too large", "validate-file-size"),
        (400, "read only", "read-only"),
        (500, "ffprobe Failed with exit status: 1", "command-failure"),
        (401, "Invalid API Key", "invalid-api-token"),
    ],
)
async def test_what_pictrs_says_of_a_picture_reaches_the_client(
    scene: Scene, clock: Clock, status: int, message: str, code: str
) -> None:
    """Its limits are its own. It may have kept something nevertheless, so it is swept."""
    scene.store.refuse(IMPORT, status, message, code)
    answer = await scene.ask()
    assert (answer.status, answer.json) == (status, {"msg": message, "code": code})
    ((alias, state),) = (await scene.rows()).items()
    assert state == "storing"
    assert await scene.alias() is None
    clock.later += 10 * 60
    async with scene.sweeping():
        await scene.removed(alias)
    assert await scene.rows() == {}
    del scene.store.instead[IMPORT]
    assert await scene.shown() == scene.site.body


@pytest.mark.parametrize("body", ["", "<html>", "null", "[]", '"x"', "{}", '{"msg": "x"}'])
async def test_a_refusal_that_is_no_json_of_pictrs_is_put_into_words(
    scene: Scene, body: str
) -> None:
    """As from a server in front of it; Lemmy needs a message."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=502, text=body)

    scene.store.instead[IMPORT] = answer
    assert_error(await scene.ask(), 502, "upstream-error")


@pytest.mark.parametrize("status", [200, 202, 204, 302, 304])
async def test_an_import_that_did_not_store_is_no_success(scene: Scene, status: int) -> None:
    """Only 201 says that it is stored; any other answer is an error to the client as well."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    scene.store.instead[IMPORT] = answer
    answered = await scene.ask()
    assert answered.status >= 500
    assert answered.json["msg"]
    assert await scene.alias() is None


@pytest.mark.parametrize("stored", [True, False])
async def test_when_pictrs_dies_over_an_import_it_is_swept(
    scene: Scene, clock: Clock, *, stored: bool
) -> None:
    """502; whether it has got the picture is not known, so it is asked to delete it."""

    async def die(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        del scene.store.instead[IMPORT]
        if stored:
            await scene.store.answer(request, received)
        return broken_off(request)

    scene.store.instead[IMPORT] = die
    assert_error(await scene.ask(), 502, "upstream-error")
    ((alias, state),) = (await scene.rows()).items()
    assert state == "storing"
    assert (alias in scene.store.pictures) is stored
    clock.later += 10 * 60
    async with scene.sweeping():
        await scene.removed(alias)
    assert scene.store.pictures == {}
    assert await scene.rows() == {}


async def test_when_pictrs_is_down_a_new_picture_cannot_be_shown(scene: Scene) -> None:
    """502, and what was known is as it was."""
    await scene.shown()
    known = await scene.rows()
    await scene.store.server.stop()
    assert_error(await scene.ask(), 502, "upstream-error")
    assert_error(await scene.ask(of=f"{scene.site.server.url}/new.png"), 502, "upstream-error")
    rows = await scene.rows()
    assert known.items() <= rows.items()
    assert sorted(rows.values()) == ["live", "storing"]
    assert await scene.alias() in known


async def test_an_upload_under_way_is_not_swept(scene: Scene, clock: Clock) -> None:
    """Only what was interrupted is: here it is stored in the end, and shown."""
    go, reached = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        reached.set()
        await go.wait()
        del scene.store.instead[IMPORT]
        return await scene.store.answer(request, received)

    scene.store.instead[IMPORT] = slow
    asker = spawn(scene.ask(), name="ask")
    await reached.wait()
    async with scene.sweeping():
        go.set()
        assert (await asker).status == 200
    assert scene.deleted() == []


async def test_within_the_hour_the_origin_is_not_asked_again(scene: Scene, clock: Clock) -> None:
    """However often the picture is shown."""
    await scene.shown()
    clock.later += HOUR - 60
    await scene.shown()
    await scene.revalidated()
    assert len(scene.site.asked) == 1


@pytest.mark.parametrize(
    ("headers", "conditions"),
    [
        ({"ETag": ETAG}, {"If-None-Match": ETAG}),
        ({"Last-Modified": MODIFIED}, {"If-Modified-Since": MODIFIED}),
        (
            {"ETag": ETAG, "Last-Modified": MODIFIED},
            {"If-None-Match": ETAG, "If-Modified-Since": MODIFIED},
        ),
        ({}, {}),
    ],
)
async def test_what_has_not_changed_is_kept(
    scene: Scene, clock: Clock, headers: dict[str, str], conditions: dict[str, str]
) -> None:
    """Told by 304 or by equal bytes. It is asked by what the origin gave, and again in an hour."""
    scene.site.headers = headers
    for hour in range(3):
        assert await scene.shown() == scene.site.body
        await scene.revalidated()
        await scene.shown()  # which asks nobody: it has just been checked
        await scene.revalidated()
        assert len(scene.site.asked) == 1 + hour
        clock.later += HOUR + 60
    first, *later = scene.site.server.received
    assert not {"If-None-Match", "If-Modified-Since"} & first.headers.keys()
    for received in later:
        names = ("If-None-Match", "If-Modified-Since")
        sent = {name: received.headers[name] for name in names if name in received.headers}
        assert sent == conditions
    assert len(scene.store.server.stored) == 1
    assert list((await scene.rows()).values()) == ["live"]
    assert scene.proxy.embedder.batches == [1]


async def test_the_setting_says_how_often_the_origin_is_asked(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, clock: Clock
) -> None:
    """`proxied.revalidate_seconds`."""
    proxied = {"revalidate_seconds": 60}
    async with playing(client, origin, pictrs, proxied=proxied) as scene:
        await scene.shown()
        clock.later += 50
        await scene.shown()
        await scene.revalidated()
        assert len(scene.site.asked) == 1
        clock.later += 20
        await scene.shown()
        await scene.revalidated()
        assert len(scene.site.asked) == 2


async def test_what_has_changed_is_judged_and_replaces(scene: Scene, clock: Clock) -> None:
    """The old one is shown once more, then the new one, and pict-rs loses the old one at once."""
    scene.site.headers = {"ETag": ETAG}
    old = await scene.shown()
    first = await scene.alias()
    new = scene.site.body = plain(BLUE)
    scene.site.headers = {"ETag": '"version 2"'}
    clock.later += 2 * HOUR
    async with scene.sweeping():
        assert await scene.shown() == old
        await scene.revalidated()
        second = await scene.alias()
        assert second != first
        assert await scene.shown() == new
        await scene.removed(first)
        assert scene.store.pictures == {second: new}
    assert await scene.rows() == {second: "live"}
    assert scene.proxy.metrics.verdicts_by_action == {"allow": 2}
    clock.later += 2 * HOUR
    await scene.shown()
    await scene.revalidated()
    assert scene.site.server.received[-1].headers["If-None-Match"] == '"version 2"'


@pytest.mark.parametrize("body", [plain(PURPLE), b"<!DOCTYPE html><title>A page</title>"])
async def test_what_has_changed_into_what_may_not_be_shown_is_dropped(
    scene: Scene, clock: Clock, body: bytes
) -> None:
    """The next request is refused, pict-rs never sees the new bytes and loses the old ones."""
    await scene.shown()
    alias = await scene.alias()
    scene.site.body = body
    clock.later += 2 * HOUR
    async with scene.sweeping():
        await scene.shown()
        await scene.revalidated()
        code = "not-a-picture" if body.startswith(b"<") else "failed-external-validation"
        assert_error(await scene.ask(), 400, code)
        await scene.removed(alias)
    assert scene.store.pictures == {}
    assert len(scene.store.server.stored) == 1
    assert_error(await scene.ask(path="/image/details/original"), 404, "proxy-not-found")


@pytest.mark.parametrize("status", [404, 410])
async def test_what_the_origin_has_removed_is_dropped(
    scene: Scene, clock: Clock, status: int
) -> None:
    """As its owner wanted, within the hour; it comes back if they put it back."""
    await scene.shown()
    alias = await scene.alias()
    scene.site.status = status
    clock.later += 2 * HOUR
    async with scene.sweeping():
        await scene.shown()
        await scene.revalidated()
        assert_error(await scene.ask(), 500, "download-file-error")
        await scene.removed(alias)
    scene.site.status = 200
    assert await scene.shown() == scene.site.body


@pytest.mark.parametrize("status", [403, 429, 500, 503])
async def test_an_origin_in_trouble_changes_nothing(
    scene: Scene, clock: Clock, status: int
) -> None:
    """What is known is shown on, and the origin is left in peace for another hour."""
    await scene.shown()
    scene.site.status = status
    clock.later += 2 * HOUR
    for _ in range(3):
        assert await scene.shown() == scene.site.body
        await scene.revalidated()
    assert len(scene.site.asked) == 2
    assert list((await scene.rows()).values()) == ["live"]
    clock.later += 2 * HOUR
    await scene.shown()
    await scene.revalidated()
    assert len(scene.site.asked) == 3


async def test_an_origin_that_says_nothing_any_more_changes_nothing(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, clock: Clock
) -> None:
    """Neither does one that is gone altogether."""
    async with playing(client, origin, pictrs, fetch={"silence_seconds": 0.2}) as scene:
        await scene.shown()
        address = scene.site.address
        scene.site.go.clear()
        clock.later += 2 * HOUR
        await scene.shown()
        await scene.revalidated()
        assert len(scene.site.asked) == 2
        scene.site.go.set()
        await origin.stop()
        clock.later += 2 * HOUR
        assert (await scene.ask(of=address)).status == 200
        await scene.revalidated()
        assert (await scene.ask(of=address)).status == 200
        assert list((await scene.rows()).values()) == ["live"]


@pytest.mark.parametrize("trouble", ["scan", "pict-rs", "pict-rs refuses"])
async def test_a_change_that_cannot_be_taken_in_yet_is_asked_for_again(
    scene: Scene, clock: Clock, trouble: str
) -> None:
    """Nobody knows whether it has changed into what may not be shown: it does not wait an hour."""
    await scene.shown()
    old = scene.site.body
    new = scene.site.body = plain(BLUE)
    if trouble == "scan":
        scene.proxy.embedder.error = RuntimeError("lost")
    else:

        async def fail(request: web.BaseRequest, received: Received) -> web.StreamResponse:
            if trouble == "pict-rs refuses":
                return web.json_response({"msg": "No", "code": "no"}, status=400)
            return broken_off(request)

        scene.store.instead[IMPORT] = fail
    clock.later += 2 * HOUR
    for _ in range(2):
        assert await scene.shown() == old
        await scene.revalidated()
    assert len(scene.site.asked) == 3
    scene.proxy.embedder.error = None
    scene.store.instead.clear()
    assert await scene.shown() == old
    await scene.revalidated()
    assert await scene.shown() == new


async def test_readers_do_not_wait_for_a_revalidation(scene: Scene, clock: Clock) -> None:
    """They see what is known, however slow its origin is, which is asked once for all of them."""
    await scene.shown()
    scene.site.go.clear()
    clock.later += 2 * HOUR
    for _ in range(5):
        assert await scene.shown() == scene.site.body
    await until(lambda: len(scene.site.asked) == 2)
    assert len(scene.proxied._revalidating) == 1
    scene.site.go.set()
    await scene.revalidated()
    assert len(scene.site.asked) == 2


async def test_at_most_four_origins_are_asked_anew_at_once(scene: Scene, clock: Clock) -> None:
    """The others have their turn when they are next asked for."""
    addresses = [f"{scene.site.server.url}/{n}.png" for n in range(7)]
    for address in addresses:
        assert (await scene.ask(of=address)).status == 200
    clock.later += 2 * HOUR
    scene.site.go.clear()
    for _ in range(2):
        for address in addresses:
            assert (await scene.ask(of=address)).status == 200
    await until(lambda: len(scene.site.asked) == 7 + 4)
    scene.site.go.set()
    await scene.revalidated()
    assert len(scene.site.asked) == 7 + 4
    for address in addresses:
        await scene.ask(of=address)
    await scene.revalidated()
    assert Counter(scene.site.asked) == {f"/{n}.png": 2 for n in range(7)}


async def test_a_purge_is_not_undone_by_a_check_that_found_no_change(
    scene: Scene, clock: Clock
) -> None:
    """What was removed meanwhile stays so."""
    await scene.shown()
    scene.site.go.clear()
    clock.later += 2 * HOUR
    await scene.shown()
    await until(lambda: len(scene.site.asked) == 2)
    await scene.ask("POST", "/internal/purge", headers={"X-Api-Token": API_KEY})
    scene.site.go.set()
    await scene.revalidated()
    assert await scene.rows() == {}


async def test_what_nobody_asks_for_is_deleted_with_the_proxy_s_key(
    scene: Scene, clock: Clock
) -> None:
    """After the days that the setting names, as pict-rs itself does; what is in use stays."""
    await scene.shown()
    old = await scene.alias()
    clock.later += 3 * 24 * HOUR
    other = f"{scene.site.server.url}/b.png"
    assert (await scene.ask(of=other)).status == 200
    clock.later += 5 * 24 * HOUR
    async with scene.sweeping():
        await scene.removed(old)
    (kept,) = await scene.rows()
    assert kept == await scene.proxied.find(other)
    (deletion,) = (r for r in scene.store.server.received if r.target.startswith(DELETE))
    assert (deletion.method, deletion.target) == ("POST", f"{DELETE}?alias={old}")
    assert deletion.headers["X-Api-Token"] == API_KEY
    assert (await scene.ask(of=other)).status == 200


async def test_the_setting_says_how_long_a_picture_is_kept(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, clock: Clock
) -> None:
    """`proxied.keep_days`."""
    async with playing(client, origin, pictrs, proxied={"keep_days": 1}) as scene:
        await scene.shown()
        alias = await scene.alias()
        clock.later += 20 * HOUR
        async with scene.sweeping():
            await asyncio.sleep(0.05)
            assert scene.deleted() == []
        clock.later += 8 * HOUR
        async with scene.sweeping():
            await scene.removed(alias)


async def test_what_pictrs_does_not_have_counts_as_removed(scene: Scene, clock: Clock) -> None:
    """It is not asked for ever."""
    await scene.shown()
    alias = await scene.alias()
    scene.store.pictures.clear()
    clock.later += 30 * 24 * HOUR
    async with scene.sweeping():
        await scene.removed(alias)
    assert await scene.rows() == {}


@pytest.mark.parametrize("trouble", [401, 500, 503, "broken off", "down"])
async def test_what_cannot_be_removed_yet_is_tried_again(
    scene: Scene, clock: Clock, monkeypatch: pytest.MonkeyPatch, trouble: int | str
) -> None:
    """pict-rs may be down, or have another key: the row is kept until it is gone there."""
    monkeypatch.setattr("safety_proxy.proxy.proxied._SWEEP_SECONDS", 0.02)
    await scene.shown()
    alias = await scene.alias()
    assert alias is not None
    delete, attempts = scene.proxy.pictrs.delete, []

    async def counted(alias: str) -> None:
        attempts.append(alias)
        await delete(alias)

    async def fail(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        if isinstance(trouble, int):
            return web.json_response({"msg": "No", "code": "no"}, status=trouble)
        return broken_off(request)

    monkeypatch.setattr(scene.proxy.pictrs, "delete", counted)
    scene.store.instead[DELETE] = fail
    if trouble == "down":
        await scene.store.server.stop()
    clock.later += 30 * 24 * HOUR
    async with scene.sweeping():
        await until(lambda: len(attempts) >= 3)
        assert await scene.rows() == {alias: "doomed"}
        if trouble != "down":
            scene.store.instead.clear()
            await scene.forgotten(alias)
            assert scene.store.pictures == {}


async def test_one_that_cannot_be_removed_does_not_keep_the_others(
    scene: Scene, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pict-rs stumbles over some of its files now and then; the rest goes all the same."""
    monkeypatch.setattr("safety_proxy.proxy.proxied._SWEEP_SECONDS", 0.02)
    for n in range(5):
        assert (await scene.ask(of=f"{scene.site.server.url}/{n}.png")).status == 200
    attempts: list[str] = []

    async def stumble(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        alias = request.query["alias"]
        attempts.append(alias)
        if alias == attempts[0]:
            return web.json_response({"msg": "No", "code": "no"}, status=500)
        del scene.store.pictures[alias]
        return web.json_response({"msg": "ok"})

    scene.store.instead[DELETE] = stumble
    clock.later += 30 * 24 * HOUR
    async with scene.sweeping():
        await until(lambda: attempts.count(attempts[0]) >= 5 if attempts else False)
    assert set(scene.store.pictures) == {attempts[0]}
    assert await scene.rows() == {attempts[0]: "doomed"}


async def test_the_sweep_goes_on_when_the_database_was_away(
    scene: Scene, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again in a while."""
    monkeypatch.setattr("safety_proxy.proxy.proxied._SWEEP_SECONDS", 0.02)
    await scene.shown()
    alias = await scene.alias()
    clock.later += 30 * 24 * HOUR
    real, attempts = scene.proxy.table.doomed, []

    async def fail(**options: Any) -> list[str]:
        attempts.append(1)
        if len(attempts) < 3:
            raise StoreUnavailable("on purpose")
        return await real(**options)

    monkeypatch.setattr(scene.proxy.table, "doomed", fail)
    async with scene.sweeping():
        await scene.removed(alias)
    assert len(attempts) >= 3


@pytest.mark.parametrize(("method", "path"), [("GET", "/image/original"), *LOOKUPS])
async def test_without_a_key_it_is_not_offered(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer, method: str, path: str
) -> None:
    """The message names the setting, and nothing is fetched or asked."""
    async with playing(client, origin, pictrs, upstream={"api_key": None}) as scene:
        answer = await scene.ask(method, path)
        assert answer.status == 501
        if method != "HEAD":
            assert_error(answer, 501, "not-implemented")
            assert "upstream.api_key" in answer.json["msg"]
    assert origin.received == pictrs.received == []


@asynccontextmanager
async def broken_database(scene: Scene, how: str) -> AsyncIterator[None]:
    """While the database cannot be used."""
    database = scene.proxy.table._database
    if how == "closed":
        with suppress(StoreUnavailable):
            await database.run(lambda connection: connection.close())
        yield
    else:
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield


@pytest.mark.parametrize("how", ["closed", "locked"])
async def test_without_the_database_it_is_unavailable_and_uploads_are_not(
    client: ClientSession,
    origin: FakeServer,
    pictrs: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """503 for pictures by address, known or not, without a fetch that would lead nowhere."""
    monkeypatch.setattr("safety_proxy.store.database._BUSY_SECONDS", 0.05)
    async with playing(client, origin, pictrs) as scene:
        await scene.shown()
        async with broken_database(scene, how):
            for method, path in (
                ("GET", "/image/original"),
                ("GET", "/image/process.webp"),
                ("GET", "/image/details/original"),
                ("POST", "/internal/purge"),
            ):
                for address in (scene.site.address, f"{origin.url}/unknown.png"):
                    answer = await scene.ask(method, path, of=address)
                    assert_error(answer, 503, "busy")
                    assert int(answer.headers["Retry-After"]) > 0
            assert len(scene.site.asked) == 1
            assert (await upload(client, scene.proxy.url, plain(BLUE))).status == 201
            assert (await upload(client, scene.proxy.url, plain(PURPLE))).status == 400


async def test_one_asker_in_a_hurry_does_not_spoil_it_for_the_others(scene: Scene) -> None:
    """A deadline is the asker's own; any client can send one through Lemmy."""
    scene.site.go.clear()
    soon = {DEADLINE: str(int((time.time() + 0.3) * 1e9))}
    hasty = spawn(scene.ask(headers=soon), name="hasty")
    await until(lambda: scene.waiting == 1)
    patient = spawn(scene.ask(), name="patient")
    await until(lambda: scene.waiting == 2)
    assert_error(await hasty, 500, "download-file-error")
    scene.site.go.set()
    assert (await patient).status == 200
    assert len(scene.site.asked) == 1


async def test_stop_gives_up_what_asks_origins_anew(
    client: ClientSession, origin: FakeServer, pictrs: FakeServer
) -> None:
    """Before what it works with is closed."""
    settings = {"revalidate_seconds": 0.001}
    async with playing(client, origin, pictrs, proxied=settings) as scene:
        await scene.shown()
        scene.site.go.clear()
        await asyncio.sleep(0.01)
        await scene.shown()
        await until(lambda: len(scene.site.asked) == 2)
        (task,) = scene.proxied._revalidating.values()
    assert task.cancelled()


async def test_sweep_with_a_wrong_key_ends_after_a_few_refusals(
    scene: Scene, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """And says so, instead of asking for each of thousands once a minute."""
    for n in range(15):
        assert (await scene.ask(of=f"{scene.site.server.url}/{n}.png")).status == 200
    scene.store.refuse(DELETE, 401, "Invalid API Key", "invalid-api-token")
    clock.later += 30 * 24 * HOUR
    async with scene.sweeping():
        await until(lambda: "cannot remove proxied pictures yet" in caplog.text)
        assert len(scene.deleted()) <= 20  # of this sweep and the next
    assert len(await scene.rows()) == 15
