"""Tests of safety_proxy/proxy/server.py: what the public listener answers."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
from aiohttp import ClientSession, web

from safety_proxy import errors
from safety_proxy.errors import SafetyProxyError
from safety_proxy.store.hashlist import test_picture as blocked_test_picture
from safety_proxy.tasks import spawn
from tests.fakes import (
    BOUNDARY,
    FakeEmbedder,
    FakeServer,
    Received,
    Running,
    ask,
    multipart,
    running_proxy,
    until,
    upload,
)
from tests.pictures import BLUE, GREEN, PURPLE, RED, plain

CONCEPTS = ("red", "green", "blue", "red-and-blue")


def assert_pictrs_error(body: bytes, code: str) -> None:
    """The JSON that Lemmy needs, and nothing beside it."""
    answer = json.loads(body)
    assert answer.keys() == {"msg", "code"}
    assert isinstance(answer["msg"], str)
    assert answer["msg"]
    assert answer["code"] == code


async def test_clean_upload_is_answered_by_pictrs(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Status and JSON are those of pict-rs, and it gets the very bytes."""
    picture = plain(RED)
    answer = await upload(client, proxy.url, picture)
    assert answer.status == 201
    assert answer.json["files"] == [{"file": "0.png", "delete_token": "t"}]
    assert [r.files for r in pictrs.received] == [[picture]]


async def test_upload_query_reaches_pictrs_and_headers_of_the_user_do_not(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """`resize` is kept; the session that Lemmy copies from the browser ends here."""
    headers = {"Authorization": "Bearer secret", "Cookie": "jwt=secret", "X-Other": "1"}
    answer = await upload(client, proxy.url, plain(RED), query="?resize=10", headers=headers)
    assert answer.status == 201
    (received,) = pictrs.received
    assert received.target == "/image?resize=10"
    assert {name.lower() for name in received.headers} == {
        "host",
        "content-type",
        "content-length",
        "connection",
    }
    assert b"secret" not in received.body


async def test_flagged_picture_is_stored(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """`flag` lets in and is counted."""
    answer = await upload(client, proxy.url, plain(GREEN))
    assert answer.status == 201
    assert proxy.metrics.scans_by_action == {"flag": 1}
    assert len(pictrs.stored) == 1


async def test_blocked_picture_is_refused_without_a_word_on_why(
    client: ClientSession, proxy: Running, pictrs: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns nothing to train against; the log has the rule and the concepts."""
    with caplog.at_level(logging.INFO):
        answer = await upload(client, proxy.url, plain(PURPLE))
    assert answer.status == 400
    assert_pictrs_error(answer.body, "failed-external-validation")
    text = answer.body.decode() + str(answer.headers)
    assert not [word for word in (*CONCEPTS, "0.7", "score") if word in text]
    assert "red-and-blue" in caplog.text
    assert pictrs.received == []


async def test_unreadable_file_is_refused_as_unreadable(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """A user whose file is broken is told so, and it is no hit of the policy."""
    answer = await upload(client, proxy.url, b"no picture at all")
    assert answer.status == 400
    assert_pictrs_error(answer.body, "failed-external-validation")
    assert "could not be read" in answer.json["msg"]
    assert proxy.metrics.verdicts_by_source == {"unreadable": 1}
    assert pictrs.received == []


async def test_near_variants_get_equal_refusals(client: ClientSession, proxy: Running) -> None:
    """Answers to pictures that are blocked more or less strongly differ in nothing."""
    variants = [plain((255 - n, n, 255)) for n in range(0, 60, 6)]
    answers = [await upload(client, proxy.url, variant) for variant in variants]
    assert {answer.body for answer in answers} == {answers[0].body}
    assert {tuple(sorted(answer.headers.keys())) for answer in answers} == {
        tuple(sorted(answers[0].headers.keys()))
    }


async def test_one_blocked_file_of_several_stops_them_all(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Nothing is forwarded, and the answer says which file it was."""
    answer = await upload(client, proxy.url, plain(RED), plain(PURPLE), plain(BLUE))
    assert answer.status == 400
    assert answer.json["msg"].startswith("File 2 of 3: ")
    assert pictrs.received == []


async def test_several_clean_files_arrive_in_their_order(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Three files, one upload, the same order."""
    files = [plain(RED), plain(BLUE), plain(GREEN)]
    answer = await upload(client, proxy.url, *files)
    assert answer.status == 201
    assert [r.files for r in pictrs.received] == [files]


async def test_second_upload_of_the_same_bytes_skips_the_model(
    client: ClientSession, proxy: Running
) -> None:
    """The verdict is known; only the upload itself is repeated."""
    for _ in range(2):
        assert (await upload(client, proxy.url, plain(RED))).status == 201
    assert proxy.embedder.batches == [1]
    assert proxy.cache.counts.hits == 1


async def test_twenty_simultaneous_uploads_of_one_file_run_one_pass(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """All are answered and stored, and the model looked once."""
    proxy.embedder.go.clear()
    uploads = [spawn(upload(client, proxy.url, plain(RED)), name="upload") for _ in range(20)]
    await until(lambda: proxy.cache.counts.coalesced == 19)
    proxy.embedder.go.set()
    assert {answer.status for answer in await asyncio.gather(*uploads)} == {201}
    assert proxy.embedder.batches == [1]
    assert len(pictrs.stored) == 20


async def test_test_picture_is_refused_by_upload_and_by_download(
    client: ClientSession, proxy: Running, pictrs: FakeServer, origin: FakeServer
) -> None:
    """What an admin checks the wiring with."""

    async def picture(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(body=blocked_test_picture())

    origin.answer = picture
    by_upload = await upload(client, proxy.url, blocked_test_picture())
    by_download = await ask(client, "GET", proxy.url, f"/image/download?url={origin.url}/t.png")
    assert (by_upload.status, by_download.status) == (400, 400)
    assert proxy.embedder.batches == []
    assert pictrs.received == []


async def test_download_is_fetched_once_and_stored_as_an_upload(
    client: ClientSession, proxy: Running, pictrs: FakeServer, origin: FakeServer
) -> None:
    """pict-rs gets the very bytes that were judged, with the rest of the query."""
    picture = plain(RED)

    async def serve(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(body=picture, content_type="application/json")

    origin.answer = serve
    answer = await ask(
        client,
        "GET",
        proxy.url,
        f"/image/download?url={origin.url}/a.png&backgrounded=false&resize=20",
        headers={"Authorization": "Bearer secret"},
    )
    assert answer.status == 201
    assert [(r.method, r.target) for r in origin.received] == [("GET", "/a.png")]
    assert "Authorization" not in origin.received[0].headers
    (stored,) = pictrs.received
    assert (stored.method, stored.target, stored.files) == ("POST", "/image?resize=20", [picture])


async def test_blocked_download_is_refused(
    client: ClientSession, proxy: Running, pictrs: FakeServer, origin: FakeServer
) -> None:
    """The address never reaches pict-rs, which would fetch it itself."""

    async def serve(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(body=plain(PURPLE))

    origin.answer = serve
    answer = await ask(client, "GET", proxy.url, f"/image/download?url={origin.url}/a.png")
    assert answer.status == 400
    assert_pictrs_error(answer.body, "failed-external-validation")
    assert pictrs.received == []


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/image", 404, "not-found"),
        ("POST", "/nothing", 404, "not-found"),
        ("POST", "/image/backgrounded", 501, "not-implemented"),
        ("POST", "/internal/import", 501, "not-implemented"),
        ("GET", "/image/original?proxy=http://x/", 501, "not-implemented"),
        ("GET", "/image/original?pro%78y=http://x/&alias=a", 501, "not-implemented"),
        ("GET", "/image/download?url=a&url=b", 400, "invalid-query"),
        ("GET", "/image/download?url=ftp://x/", 400, "download-file-error"),
        ("GET", "/image/download?url=http://10.0.0.1/", 400, "download-file-error"),
        ("POST", "/image?unknown=1", 400, "invalid-query"),
        ("POST", "/image", 400, "file-upload-error"),
    ],
)
async def test_refused_requests_get_json_and_reach_nobody(
    method: str,
    target: str,
    status: int,
    code: str,
    client: ClientSession,
    proxy: Running,
    pictrs: FakeServer,
) -> None:
    """Every answer of the proxy's own is JSON in pict-rs' shape."""
    answer = await ask(client, method, proxy.url, target)
    assert answer.status == status
    assert_pictrs_error(answer.body, code)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Server"] == "safety-proxy"
    assert pictrs.received == []


def _all_errors(base: type[SafetyProxyError]) -> list[type[SafetyProxyError]]:
    return [base, *(found for child in base.__subclasses__() for found in _all_errors(child))]


@pytest.mark.parametrize("kind", _all_errors(SafetyProxyError))
async def test_every_error_becomes_its_status_in_json_and_is_counted(
    kind: type[SafetyProxyError], client: ClientSession, pictrs: FakeServer
) -> None:
    """An error of any class, raised on the way, ends as its own answer."""
    embedder = FakeEmbedder()
    async with running_proxy(pictrs.url, embedder=embedder) as proxy:
        error = kind("some detail")
        assert proxy.scanner.model is not None

        async def fail(media: object) -> None:
            raise error

        proxy.scanner.clear = fail  # type: ignore[assignment,method-assign]  # the nearest seam
        answer = await upload(client, proxy.url, plain(RED))
        assert answer.status == error.status
        assert_pictrs_error(answer.body, error.code)
        assert answer.json["msg"] == error.public_message
        assert ("Retry-After" in answer.headers) is isinstance(error, errors.ScanError)
        assert proxy.metrics.failures == {kind.reason: 1}
    assert pictrs.received == []


async def test_unforeseen_error_fails_closed_and_says_nothing(
    client: ClientSession, proxy: Running, pictrs: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """500 in JSON, the details in the log alone, and nothing forwarded."""

    async def fail(media: object) -> None:
        raise ZeroDivisionError("a secret detail")

    proxy.scanner.clear = fail  # type: ignore[assignment,method-assign]  # the nearest seam
    answer = await upload(client, proxy.url, plain(RED))
    assert answer.status == 500
    assert_pictrs_error(answer.body, "safety-proxy-error")
    assert b"secret" not in answer.body
    assert "a secret detail" in caplog.text
    assert proxy.metrics.failures == {"internal": 1}
    assert pictrs.received == []


@pytest.mark.parametrize(
    "break_it",
    [
        {"error": errors.EmbedderUnavailable("device lost")},
        {"error": RuntimeError("CUDA error: an illegal memory access was encountered")},
        {"answer": lambda rows: rows * float("nan")},
        {"answer": lambda rows: rows[:0]},
    ],
)
async def test_failing_model_gives_503_and_nothing_is_forwarded(
    break_it: dict[str, object], client: ClientSession, pictrs: FakeServer
) -> None:
    """Raised, not finite, or without an answer: the picture can be sent again later."""
    embedder = FakeEmbedder(**break_it)  # type: ignore[arg-type]  # by field name
    async with running_proxy(pictrs.url, embedder=embedder) as proxy:
        answer = await upload(client, proxy.url, plain(RED))
        assert answer.status == 503
        assert_pictrs_error(answer.body, "scan-unavailable")
        assert answer.headers["Retry-After"] == "5"
        assert proxy.metrics.failures == {"model": 1}
        assert len(proxy.cache) == 0
    assert pictrs.received == []


async def test_recovered_model_judges_what_failed_before(
    client: ClientSession, pictrs: FakeServer
) -> None:
    """A failure is not remembered."""
    embedder = FakeEmbedder(error=RuntimeError("lost"))
    async with running_proxy(pictrs.url, embedder=embedder) as proxy:
        assert (await upload(client, proxy.url, plain(RED))).status == 503
        embedder.error = None
        assert (await upload(client, proxy.url, plain(RED))).status == 201


async def test_pictrs_down_is_502_in_json(client: ClientSession) -> None:
    """For a read and for an upload alike."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with running_proxy(f"http://127.0.0.1:{port}") as proxy:
        for answer in (
            await upload(client, proxy.url, plain(RED)),
            await ask(client, "GET", proxy.url, "/image/original/a.png"),
        ):
            assert answer.status == 502
            assert_pictrs_error(answer.body, "upstream-error")


async def test_refusal_of_pictrs_passes_unchanged_and_is_no_hit(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """pict-rs' own words reach the user."""
    refusal = {"msg": "Too wide", "code": "validate-width"}

    async def refuse(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.json_response(refusal, status=400)

    pictrs.answer = refuse
    answer = await upload(client, proxy.url, plain(RED))
    assert (answer.status, answer.json) == (400, refusal)
    assert proxy.metrics.scans_by_action == {"allow": 1}


async def test_client_that_leaves_during_the_scan_stops_it(
    client: ClientSession, proxy: Running, pictrs: FakeServer, spooled: Callable[[], set[str]]
) -> None:
    """Its spooled bytes are freed, and nothing is forwarded."""
    proxy.embedder.go.clear()
    sending = spawn(upload(client, proxy.url, plain(RED)), name="upload")
    await until(proxy.embedder.started.is_set)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    await until(lambda: proxy.metrics.failures["client_gone"] == 1)
    proxy.embedder.go.set()
    await until(lambda: proxy.scanner.in_flight == 0)
    await until(lambda: not spooled())
    assert pictrs.received == []


async def test_client_that_leaves_during_its_upload_leaves_nothing(
    proxy: Running, spooled: Callable[[], set[str]]
) -> None:
    """Half a body, then gone: no file stays open."""
    host, port = proxy.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = multipart(bytes(3_000_000))
    writer.write(
        f"POST /image HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    )
    writer.write(body[:2_000_000])
    await writer.drain()
    await until(lambda: len(spooled()) == 1)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await until(lambda: not spooled())


async def test_early_refusal_leaves_the_connection_in_order(
    client: ClientSession, pictrs: FakeServer
) -> None:
    """Whoever was refused before the body was read can go on asking."""
    async with running_proxy(pictrs.url, limits={"max_file_bytes": 1000, "max_files": 1}) as proxy:
        for _ in range(3):
            assert (await upload(client, proxy.url, bytes(200_000))).status == 413
            assert (await ask(client, "GET", proxy.url, "/image/original/a")).status == 200
