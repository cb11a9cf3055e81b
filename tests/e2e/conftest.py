"""Fixtures of the end-to-end tests; `tests/e2e/harness.py` says what each server can do.

Shared by all tests of a module (a test compares `stats()` before and after, never absolute values):

    pictrs          pict-rs in dummy mode: stores the very bytes, looks at nothing
    proxy           the safety proxy in front of `pictrs`, demo model and policy
    real_pictrs     pict-rs with ImageMagick, ffmpeg and exiftool
    real_proxy      the safety proxy in front of `real_pictrs`
    nginx           nginx in front of `proxy` and `pictrs`

For one test alone, for tests that stop, break or configure a server:

    start_pictrs(real=False, **environment) -> PictRs
    start_proxy(upstream_url, **environment) -> SafetyProxy
    start_nginx(proxy_url, pictrs_url) -> Nginx
    origin          a web server to fetch from, which records what it was asked

A server that is missing (no pict-rs, no nginx) skips the test, or fails it when REQUIRE_E2E=1.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tests.e2e.harness import (
    PICTRS_VERSIONS,
    SECRET_HEADERS,
    Nginx,
    Origin,
    PictRs,
    SafetyProxy,
    Server,
    missing,
    try_again,
)

StartPictRs = Callable[..., PictRs]
StartSafetyProxy = Callable[..., SafetyProxy]
StartNginx = Callable[[str, str], Nginx]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an end-to-end test."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@contextmanager
def _running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


def _build_pictrs(folder: Path, *, real: bool = False, **options: str) -> PictRs:
    if real and not PictRs.can_be_real():
        missing("no ImageMagick, ffmpeg or exiftool, which a real pict-rs calls")
    return PictRs(folder, real=real, **options)


@pytest.fixture(scope="module", params=PICTRS_VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each test that stands on pict-rs runs with each of its versions."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def pictrs(tmp_path_factory: pytest.TempPathFactory, version: str) -> Iterator[PictRs]:
    server = _build_pictrs(tmp_path_factory.mktemp("pictrs"), version=version)
    with _running(server):
        yield server


@pytest.fixture(scope="module")
def real_pictrs(tmp_path_factory: pytest.TempPathFactory, version: str) -> Iterator[PictRs]:
    server = _build_pictrs(tmp_path_factory.mktemp("real-pictrs"), version=version, real=True)
    with _running(server):
        yield server


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, pictrs: PictRs) -> Iterator[SafetyProxy]:
    server = SafetyProxy(tmp_path_factory.mktemp("proxy"), pictrs.url)
    with _running(server):
        yield server


@pytest.fixture(scope="module")
def real_proxy(
    tmp_path_factory: pytest.TempPathFactory, real_pictrs: PictRs
) -> Iterator[SafetyProxy]:
    server = SafetyProxy(tmp_path_factory.mktemp("real-proxy"), real_pictrs.url)
    with _running(server):
        yield server


@pytest.fixture(scope="module")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, pictrs: PictRs, proxy: SafetyProxy
) -> Iterator[Nginx]:
    server = Nginx(tmp_path_factory.mktemp("nginx"), proxy_url=proxy.url, pictrs_url=pictrs.url)
    with _running(server):
        yield server


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Ends the servers of one test, the last started first."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_pictrs(tmp_path: Path, servers: ExitStack) -> StartPictRs:
    def start(*, real: bool = False, **options: str) -> PictRs:
        server = _build_pictrs(_new_folder(tmp_path, "pictrs"), real=real, **options)
        servers.enter_context(_running(server))
        return server

    return start


@pytest.fixture
def start_proxy(tmp_path: Path, servers: ExitStack) -> StartSafetyProxy:
    def start(
        upstream_url: str, *, wait_until_ready: bool = True, **environment: str
    ) -> SafetyProxy:
        server = SafetyProxy(_new_folder(tmp_path, "proxy"), upstream_url, **environment)
        servers.callback(server.stop)
        server.start(wait_until_ready=wait_until_ready)
        return server

    return start


@pytest.fixture
def start_nginx(tmp_path: Path, servers: ExitStack) -> StartNginx:
    def start(proxy_url: str, pictrs_url: str) -> Nginx:
        server = Nginx(_new_folder(tmp_path, "nginx"), proxy_url=proxy_url, pictrs_url=pictrs_url)
        servers.enter_context(_running(server))
        return server

    return start


def _new_folder(parent: Path, name: str) -> Path:
    folder = parent / f"{name}-{sum(1 for _ in parent.glob(f'{name}-*'))}"
    folder.mkdir()
    return folder


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    origin = Origin()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", origin.answer)
    async with TestServer(application) as server:
        origin.url = f"http://127.0.0.1:{server.port}"
        yield origin


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    """An HTTP client that sends what Lemmy copies from its users' browsers."""
    async with ClientSession(headers=SECRET_HEADERS, middlewares=[try_again]) as session:
        yield session
