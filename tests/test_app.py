"""Tests of safety_proxy/app.py: start, readiness and shutdown of the whole."""

import asyncio
import gc
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession

from safety_proxy.admin import bodies
from safety_proxy.app import App
from safety_proxy.errors import ConfigError
from safety_proxy.settings import Settings
from safety_proxy.tasks import spawn
from tests.fakes import (
    BOUNDARY,
    POLICY_TEXT,
    FakeEmbedder,
    FakeServer,
    ask,
    multipart,
    until,
    upload,
)
from tests.pictures import PURPLE, RED, plain


@dataclass
class Loader:
    """Gives a fake model, or raises `error`, once `go` is set, which it is unless cleared."""

    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    error: Exception | None = None
    calls: list[Settings] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def hold(self) -> None:
        """Lets the next forward pass begin, and not end."""
        self.embedder.started.clear()
        self.embedder.go.clear()

    def __call__(self, settings: Settings) -> FakeEmbedder:
        self.calls.append(settings)
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        return self.embedder


@pytest.fixture
def loader() -> Iterator[Loader]:
    """A loader, and nobody left who waits for it or its model."""
    loader = Loader()
    yield loader
    loader.go.set()
    loader.embedder.go.set()


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """No task and no open session or socket outlives the test's body (warnings are errors)."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(10):
        await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})
    gc.collect()


def children() -> list[str]:
    """The processes that this one has started and that have not ended."""
    return Path("/proc/self/task", str(os.getpid()), "children").read_text().split()


Make = Callable[..., App]


@pytest.fixture
def make(pictrs: FakeServer, loader: Loader, tmp_path: Path, nothing_left: None) -> Make:
    """Makes an app before `pictrs` that takes its model from `loader`; arguments are sections."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY_TEXT)

    def make(**sections: dict[str, Any]) -> App:
        # The harmless pictures are looked at where a test asks for it.
        policies = {"file": policy, "harmless_limit": 1, **sections.pop("policy", {})}
        server = {"port": 0, "admin_port": 0, **sections.pop("server", {})}
        values = {
            "upstream": {"url": pictrs.url},
            "policy": policies,
            "store": {"folder": tmp_path / "store"},
            **sections,
        }
        return App(Settings.model_validate({"server": server, **values}), load_embedder=loader)

    return make


def public(app: App) -> str:
    return f"http://127.0.0.1:{app.port}"


def admin(app: App) -> str:
    return f"http://127.0.0.1:{app.admin_port}"


async def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def until_closed(port: int) -> None:
    """Returns when nobody listens there any more."""
    while await is_open(port):
        pass


async def test_an_app_that_is_ready_judges_and_stores(
    client: ClientSession, make: Make, pictrs: FakeServer
) -> None:
    """By its own policy file, with both listeners on ports of their own."""
    async with make() as app:
        await app.ready()
        assert app.port != app.admin_port
        assert (await ask(client, "GET", admin(app), "/readyz")).status == 200
        assert (await upload(client, public(app), plain(RED))).status == 201
        assert (await upload(client, public(app), plain(PURPLE))).status == 400
        stats = (await ask(client, "GET", admin(app), "/stats")).json
        assert stats["verdicts"]["by_action"] == {"allow": 1, "block": 1}
        assert stats["policy"]["name"] == "colors"
    assert len(pictrs.stored) == 1


async def test_the_listeners_keep_apart(client: ClientSession, make: Make) -> None:
    """What is for the admin is not for the public."""
    async with make() as app:
        await app.ready()
        for path in ("/stats", "/metrics", "/readyz"):
            assert (await ask(client, "GET", public(app), path)).status == 404
        assert (await ask(client, "GET", admin(app), "/image/original/a.png")).status == 404


async def test_other_machines_need_the_token_of_the_settings(
    client: ClientSession, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what tells of users or changes anything; a monitor does without."""
    monkeypatch.setattr(bodies, "_is_loopback", lambda address: False)
    for token in ("a token of the admin", None):
        async with make(server={"admin_token": token}) as app:
            await app.ready()
            url = admin(app)
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await ask(client, "GET", url, path)).status == 200
            for path in ("/stats", "/api/v1/lists"):
                assert (await ask(client, "GET", url, path)).status == 401
                shown = {"Authorization": f"Bearer {token}"}
                answer = await ask(client, "GET", url, path, headers=shown)
                assert answer.status == (200 if token else 401)


async def test_settings_reach_the_parts(client: ClientSession, make: Make) -> None:
    """Limits, cache and queue are those of the settings."""
    async with make(
        limits={"max_file_bytes": 10}, cache={"max_entries": 7}, scan={"queue_limit": 3}
    ) as app:
        await app.ready()
        assert (await upload(client, public(app), plain(RED))).status == 413
        stats = (await ask(client, "GET", admin(app), "/stats")).json
        assert (stats["cache"]["capacity"], stats["queue"]["limit"]) == (7, 3)


async def test_without_a_policy_file_the_default_fits_the_model(
    client: ClientSession, make: Make, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    """And one that is not calibrated says so in the log."""
    loader.embedder.fingerprint = "some/weights/fp32"
    async with make(policy={"file": None}) as app:
        await app.ready()
        stats = (await ask(client, "GET", admin(app), "/stats")).json
    assert stats["policy"]["name"] == "default (contrast)"
    assert stats["model"] == "some/weights/fp32"
    assert "not calibrated" in caplog.text


async def test_reads_pass_and_uploads_wait_while_the_model_loads(
    client: ClientSession, make: Make, loader: Loader, pictrs: FakeServer
) -> None:
    """503 with Retry-After, nothing stored; then all is as it should be."""
    loader.go.clear()
    async with make() as app:
        answer = await upload(client, public(app), plain(RED))
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json["code"] == "scan-unavailable"
        read = await ask(client, "GET", public(app), "/image/original/a.png")
        assert (read.status, read.body) == (200, b"pict-rs")
        assert (await ask(client, "GET", admin(app), "/healthz")).status == 200
        assert (await ask(client, "GET", admin(app), "/readyz")).json["model"] is False
        assert pictrs.stored == []
        loader.go.set()
        await app.ready()
        assert (await upload(client, public(app), plain(RED))).status == 201
        assert (await ask(client, "GET", admin(app), "/readyz")).status == 200
    assert len(loader.calls) == 1


async def test_a_model_that_cannot_be_loaded_comes_out_of_ready(
    client: ClientSession, make: Make, loader: Loader, pictrs: FakeServer
) -> None:
    """For every one who asks; nothing is let in meanwhile."""
    loader.error = ConfigError("no such weights")
    async with make() as app:
        for _ in range(2):
            with pytest.raises(ConfigError, match="no such weights"):
                await app.ready()
        assert (await upload(client, public(app), plain(RED))).status == 503
    assert pictrs.stored == []


async def test_a_wrong_policy_is_told_before_the_model_is_loaded(
    make: Make, loader: Loader, tmp_path: Path
) -> None:
    """A download of gigabytes for nothing would be an insult."""
    async with make(policy={"file": tmp_path / "none.toml"}) as app:
        with pytest.raises(ConfigError, match=r"none\.toml"):
            await app.ready()
    assert loader.calls == []


async def test_who_stops_waiting_for_the_model_does_not_stop_its_load(
    make: Make, loader: Loader
) -> None:
    """`ready` only watches."""
    loader.go.clear()
    async with make() as app:
        waiting = spawn(app.ready(), name="ready")
        await until(lambda: bool(loader.calls))
        waiting.cancel()
        await asyncio.wait([waiting])
        loader.go.set()
        await app.ready()


async def test_an_upload_in_flight_is_answered_before_the_end(
    client: ClientSession, make: Make, loader: Loader, pictrs: FakeServer
) -> None:
    """The listener is closed to newcomers at once."""
    app = make()
    async with app:
        await app.ready()
        loader.hold()
        uploading = spawn(upload(client, public(app), plain(RED)), name="upload")
        await until(loader.embedder.started.is_set)
        stopping = spawn(app.__aexit__(), name="stop")
        await until_closed(app.port)
        assert not stopping.done()
        loader.embedder.go.set()
        assert (await uploading).status == 201
        await stopping
    assert len(pictrs.stored) == 1
    assert not await is_open(app.admin_port)


async def test_an_upload_that_is_still_arriving_is_answered_before_the_end(
    make: Make, pictrs: FakeServer, spooled: Callable[[], set[str]]
) -> None:
    """The client may send the rest of its body."""
    body = multipart(plain(RED))
    app = make()
    async with app:
        await app.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(
            b"POST /image HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body[:-10]
        )
        await until(lambda: bool(spooled()))
        stopping = spawn(app.__aexit__(), name="stop")
        await until_closed(app.port)
        writer.write(body[-10:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")
        await stopping
        writer.close()
        await writer.wait_closed()
    assert len(pictrs.stored) == 1


async def test_an_upload_that_takes_too_long_is_cut_and_not_stored(
    client: ClientSession, make: Make, loader: Loader, pictrs: FakeServer
) -> None:
    """After `server.shutdown_seconds`; then the forward pass that runs is waited for."""
    app = make(server={"shutdown_seconds": 0.05})
    async with app:
        await app.ready()
        loader.hold()
        uploading = spawn(upload(client, public(app), plain(RED)), name="upload")
        await until(loader.embedder.started.is_set)
        stopping = spawn(app.__aexit__(), name="stop")
        with pytest.raises(ClientConnectionError):
            await uploading
        loader.embedder.go.set()
        await stopping
    assert pictrs.stored == []
    assert app.metrics.failures == {"client_gone": 1}


async def test_a_stop_during_the_load_ends_when_the_load_has(make: Make, loader: Loader) -> None:
    """Nothing of it is left behind, whether it succeeds or fails."""
    for error in (None, ConfigError("too late to matter")):
        loader.error = error
        loader.calls.clear()
        loader.go.clear()
        app = make()
        async with app:
            await until(lambda: bool(loader.calls))
            stopping = spawn(app.__aexit__(), name="stop")
            await until_closed(app.port)
            loader.go.set()
            await stopping
        assert "load model" not in {task.get_name() for task in asyncio.all_tasks()}


@asynccontextmanager
async def taken_port() -> AsyncIterator[int]:
    """A port on which somebody else listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize("key", ["port", "admin_port"])
async def test_a_port_that_is_taken_is_told_at_once_and_all_is_closed_again(
    make: Make, loader: Loader, key: str
) -> None:
    """No listener, session, thread or load is left."""
    async with taken_port() as port:
        app = make(server={key: port})
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*in use"):
            await app.__aenter__()
        assert loader.calls == []
        if key == "port":
            assert not await is_open(app.admin_port)
    assert [t.name for t in threading.enumerate() if t.name.startswith(("model", "decode"))] == []


async def test_two_apps_live_side_by_side(client: ClientSession, make: Make) -> None:
    """With counts of their own; one that has ended takes nothing from the other."""
    async with make() as one, make() as other:
        await one.ready()
        await other.ready()
        assert (await upload(client, public(one), plain(RED))).status == 201
        assert one.metrics.scans_by_action == {"allow": 1}
        assert other.metrics.scans_by_action == {}
        await one.__aexit__()
        assert (await upload(client, public(other), plain(RED))).status == 201


async def test_no_thread_is_left_when_the_app_has_ended(client: ClientSession, make: Make) -> None:
    """That of the model ends with it, and no decoder process is left either."""
    async with make() as app:
        await app.ready()
        await upload(client, public(app), plain(RED))
        assert "model" in {thread.name.partition("_")[0] for thread in threading.enumerate()}
        assert children()
    await until(lambda: "model" not in {t.name.partition("_")[0] for t in threading.enumerate()})
    assert not children()
