"""Tests of tests/e2e/harness.py: what pict-rs stumbles over is sent again, and nothing else."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from tests.e2e.harness import TRIES, plain_png, send_raw, upload
from tests.fakes import FakeServer, Received

STUMBLED = {"code": "not-found", "msg": "No such file or directory (os error 2)"}
OTHER = {"code": "not-found", "msg": "Requested file is not found"}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize(
    ("failures", "said", "expected", "tries"),
    [
        (0, STUMBLED, 201, 1),
        (TRIES - 1, STUMBLED, 201, TRIES),
        (TRIES, STUMBLED, 500, TRIES),
        (1, OTHER, 500, 1),
    ],
)
@pytest.mark.parametrize("way", ["client", "raw"])
async def test_stumble_is_tried_again(
    client: ClientSession,
    server: FakeServer,
    failures: int,
    said: dict[str, str],
    expected: int,
    tries: int,
    way: str,
) -> None:
    """With the whole of the body each time."""

    async def answer(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        del request, received
        failed = len(server.received) <= failures
        return web.json_response(said if failed else {}, status=500 if failed else 201)

    server.answer = answer
    if way == "raw":
        body = plain_png()
        answered = await send_raw(
            server.url, "/image", "POST", f"Content-Length: {len(body)}\r\n", body
        )
        status = int(answered.split()[1])
    else:
        status, _ = await upload(client, server.url, plain_png())
    assert status == expected
    assert len(server.received) == tries
    assert all(received.complete and plain_png() in received.body for received in server.received)
