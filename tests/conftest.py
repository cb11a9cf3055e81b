"""What every test runs under, and the servers that most of the proxy's tests talk to."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from blockbuster import blockbuster_ctx
from hypothesis import settings

from tests.fakes import FakeServer, Running, running_proxy

# No test is about time: a slow machine must not fail one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    """Code of the package that blocks the event loop fails the test."""
    with blockbuster_ctx("safety_proxy") as guard:
        # Read once, while the parts are built and before anything listens.
        guard.functions["io.BufferedReader.read"].can_block_in("store/hashlist.py", "test_picture")
        yield


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests configures nothing in them."""
    for name in os.environ:
        if name.upper().startswith("SAFETY_PROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """A client that adds no header of its own but Host, and unpacks nothing."""
    async with ClientSession(
        auto_decompress=False,
        cookie_jar=DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        timeout=ClientTimeout(total=30),
    ) as session:
        yield session


@pytest.fixture
async def pictrs() -> AsyncIterator[FakeServer]:
    """A server that answers a little as pict-rs does."""
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def origin() -> AsyncIterator[FakeServer]:
    """A server to fetch pictures from."""
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def proxy(pictrs: FakeServer, origin: FakeServer) -> AsyncIterator[Running]:
    """The proxy in front of `pictrs`, which may fetch from `origin`."""
    async with running_proxy(pictrs.url, origin_port=origin.port) as running:
        yield running


@pytest.fixture
def spooled() -> Callable[[], set[str]]:
    """Asked, names the nameless files that this process opened since the test began."""

    def nameless() -> set[str]:
        names = set()
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                names.add(str(descriptor.readlink()))
            except OSError:
                continue  # the descriptor of this very listing
        return {name for name in names if name.endswith("(deleted)")}

    before = nameless()
    return lambda: nameless() - before
