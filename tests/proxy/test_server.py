"""Tests of safety_proxy/proxy/server.py: what the public listener answers."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientSession, web

from safety_proxy import errors
from safety_proxy.deadline import HEADER as DEADLINE
from safety_proxy.errors import SafetyProxyError
from safety_proxy.proxy.server import PLACEHOLDER
from safety_proxy.store.hashlist import test_picture as blocked_test_picture
from safety_proxy.tasks import spawn
from tests.fakes import (
    BOUNDARY,
    Answer,
    Answered,
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
        "x-request-deadline",
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
    assert_pictrs_error(answer.body, "not-a-picture")
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


async def test_refusals_are_counted_by_client(client: ClientSession, proxy: Running) -> None:
    """Whoever sends variant after variant shows; what is broken or clean does not count."""
    for color in (PURPLE, (254, 0, 255), (253, 0, 255)):
        headers = {"X-Forwarded-For": "203.0.113.7"}
        await upload(client, proxy.url, plain(color), headers=headers)
    await upload(client, proxy.url, plain(PURPLE))
    await upload(client, proxy.url, plain(RED))
    await upload(client, proxy.url, b"no picture")
    assert dict(proxy.metrics.blocked_by_client) == {"203.0.113.7": 3, "127.0.0.1": 1}


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: ",
        "Transfer-Encoding: chunked\t, identity",
        "Transfer-Encoding: gzip, chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Content-Length : 5",
    ],
)
async def test_request_of_unclear_length_is_refused_and_hung_up_on(
    framing: str, proxy: Running, pictrs: FakeServer
) -> None:
    """Read one way here and another there, its rest would be a request that nobody has judged."""
    host, port = proxy.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    hidden = "POST /image HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    for method, path in (("POST", "/image"), ("POST", "/internal/set_not_found")):
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\n\r\n0\r\n\r\n{hidden}".encode()
        )
        answer = await reader.read()
        assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
        assert answer.count(b"HTTP/1.") == 1
        writer.close()
        reader, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    assert pictrs.received == []


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
    address = f"{origin.url}/t.png"
    by_upload = await upload(client, proxy.url, blocked_test_picture())
    by_proxying = await ask(client, "GET", proxy.url, f"/image/original?proxy={address}")
    assert (by_upload.status, by_proxying.status) == (400, 400)
    assert proxy.embedder.batches == []
    assert pictrs.received == []
    by_download = await ask(client, "GET", proxy.url, f"/image/download?url={address}")
    assert by_download.status == 201
    assert [received.files for received in pictrs.received] == [[PLACEHOLDER.read_bytes()]]


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


def serving(body: bytes) -> Answer:
    """An origin that has one picture at every address."""

    async def serve(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(body=body)

    return serve


async def test_blocked_download_is_answered_by_a_placeholder(
    client: ClientSession, proxy: Running, pictrs: FakeServer, origin: FakeServer
) -> None:
    """To an error Lemmy would answer by showing the picture from where it lies."""
    origin.answer = serving(plain(PURPLE))
    target = f"/image/download?url={origin.url}/a.png&resize=512"
    answer = await ask(client, "GET", proxy.url, target)
    assert answer.status == 201
    (stored,) = pictrs.received
    assert (stored.target, stored.files) == ("/image?resize=512", [PLACEHOLDER.read_bytes()])
    assert proxy.metrics.scans_by_action == {"block": 1, "allow": 1}


async def test_blocked_download_is_an_error_where_the_admin_wants_it(
    client: ClientSession, pictrs: FakeServer, origin: FakeServer
) -> None:
    """As pict-rs itself refuses."""
    origin.answer = serving(plain(PURPLE))
    async with running_proxy(
        pictrs.url, origin_port=origin.port, fetch={"refused": "error"}
    ) as proxy:
        answer = await ask(client, "GET", proxy.url, f"/image/download?url={origin.url}/a.png")
    assert answer.status == 400
    assert_pictrs_error(answer.body, "failed-external-validation")
    assert pictrs.received == []


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html><title>A page</title>",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg/>',
        b"%PDF-1.7 ...",
        b"GIF89a",
        b"text",
    ],
)
async def test_what_is_no_picture_is_refused_by_every_road(
    body: bytes, client: ClientSession, proxy: Running, pictrs: FakeServer, origin: FakeServer
) -> None:
    """Decided from the bytes, without a placeholder: link posts name web pages as pictures."""

    async def serve(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(body=body, content_type="image/png")

    origin.answer = serve
    address = f"{origin.url}/x.png"
    answers = [
        await upload(client, proxy.url, body),
        await ask(client, "GET", proxy.url, f"/image/download?url={address}"),
        await ask(client, "GET", proxy.url, f"/image/original?proxy={address}"),
    ]
    code = "damaged" if body == b"GIF89a" else "not-a-picture"
    for answer in answers:
        assert answer.status == 400
        assert_pictrs_error(answer.body, code)
    assert proxy.embedder.batches == []
    assert pictrs.received == []


@pytest.mark.parametrize("target", ["/image/original?proxy=", "/image/download?url="])
async def test_request_of_our_own_making_is_not_fetched_for(
    target: str, client: ClientSession, proxy: Running, origin: FakeServer
) -> None:
    """An address that leads through Lemmy back to this proxy would go round until the deadline."""

    async def through_lemmy(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        agent = {"User-Agent": request.headers["User-Agent"]}
        inner = await ask(client, "GET", proxy.url, f"{target}{origin.url}/a.png", headers=agent)
        return web.Response(status=inner.status, body=inner.body)

    origin.answer = through_lemmy
    answer = await ask(client, "GET", proxy.url, f"{target}{origin.url}/a.png")
    assert answer.status == 500
    assert answer.json["msg"] == "Unable to download image, bad response 400"
    assert len(origin.received) == 1


async def test_download_in_the_background_is_stored_in_the_background(
    client: ClientSession, proxy: Running, pictrs: FakeServer, origin: FakeServer
) -> None:
    """By pict-rs' own road, with the judged bytes."""
    origin.answer = serving(plain(RED))
    target = f"/image/download?backgrounded=true&url={origin.url}/a.png"
    answer = await ask(client, "GET", proxy.url, target)
    assert (answer.status, answer.json["uploads"]) == (202, [{"upload_id": "0"}])
    (stored,) = pictrs.received
    assert (stored.target, stored.files) == ("/image/backgrounded", [plain(RED)])


async def post(
    client: ClientSession, proxy: Running, path: str, *files: bytes, **options: Any
) -> Answered:
    """The answer to an upload by this route."""
    headers = {
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "X-Api-Token": "the client's own",
    }
    body = multipart(*files, **options)
    return await ask(client, "POST", proxy.url, path, data=body, headers=headers)


@pytest.mark.parametrize("path", ["/image/backgrounded", "/internal/import"])
async def test_every_upload_route_is_judged(
    path: str, client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Blocked files stop all; clean ones arrive by the same route, with the client's own token."""
    refused = await post(client, proxy, f"{path}?resize=5", plain(RED), plain(PURPLE))
    assert (refused.status, refused.json["msg"][:12]) == (400, "File 2 of 2:")
    assert pictrs.received == []
    taken = await post(client, proxy, f"{path}?resize=5", plain(RED), plain(BLUE))
    assert taken.status in {201, 202}
    (stored,) = pictrs.received
    assert (stored.target, stored.files) == (f"{path}?resize=5", [plain(RED), plain(BLUE)])
    assert stored.headers["X-Api-Token"] == "the client's own"


@pytest.mark.parametrize(
    ("sent", "alias"),
    [
        ('filename="a.webp"', "a.webp"),
        ('filename="../../x/a.webp"', "a.webp"),
        ('filename="C:\\x\\a.webp"', "a.webp"),
        ('filename="\u00e9 \u00ab\U0001f600\u00bb.png"', "\u00e9 \u00ab\U0001f600\u00bb.png"),
    ],
)
async def test_import_keeps_the_name_for_it_is_the_alias(
    sent: str, alias: str, client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Its last part, as pict-rs takes it, in the bytes that came."""
    head = f'Content-Disposition: form-data; name="images[]"; {sent}'
    assert (await post(client, proxy, "/internal/import", plain(RED), head=head)).status == 201
    (received,) = pictrs.received
    assert f'filename="{alias}"'.encode() in received.body


@pytest.mark.parametrize(
    "name", ["", "/", "a\x00b", 'a\\"b', "a\tb", "n" * 201, "\u202egnp.a", "x/"]
)
async def test_import_under_a_name_that_no_header_holds_is_refused(
    name: str, client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """Before anything is judged; other uploads do not care for the name."""
    head = f'Content-Disposition: form-data; name="images[]"; filename="{name}"'
    answer = await post(client, proxy, "/internal/import", plain(RED), head=head)
    assert answer.status == 400
    assert_pictrs_error(answer.body, "file-upload-error")
    assert proxy.embedder.batches == []
    assert pictrs.received == []


async def test_deadline_of_the_client_is_passed_on_and_bounds_ours(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """pict-rs is told the earlier of what the client and this proxy allow."""
    for allowed, least, most in ((5.0, 3, 5), (1000.0, 20, 30), (None, 20, 30)):
        headers = {} if allowed is None else {DEADLINE: str(int((time.time() + allowed) * 1e9))}
        assert (await upload(client, proxy.url, plain(RED), headers=headers)).status == 201
        left = int(pictrs.received[-1].headers[DEADLINE]) / 1e9 - time.time()
        assert least < left <= most


@pytest.mark.parametrize(
    ("value", "status", "code"),
    [("1", 408, "request-timeout"), ("soon", 400, "parse-deadline"), ("", 400, "parse-deadline")],
)
async def test_deadline_that_is_past_or_wrong_ends_the_request_at_once(
    value: str, status: int, code: str, client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """As pict-rs answers it; nothing is judged."""
    answer = await upload(client, proxy.url, plain(RED), headers={DEADLINE: value})
    assert answer.status == status
    assert_pictrs_error(answer.body, code)
    assert proxy.embedder.batches == []
    assert pictrs.received == []


async def test_verdict_that_comes_too_late_to_store_is_not_stored(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """The client has given up, or would before pict-rs answers."""
    proxy.embedder.go.clear()
    soon = str(int((time.time() + 1.3) * 1e9))
    answer = await upload(client, proxy.url, plain(RED), headers={DEADLINE: soon})
    assert answer.status == 503
    assert_pictrs_error(answer.body, "scan-unavailable")
    assert proxy.metrics.failures == {"timeout": 1}
    assert pictrs.received == []


async def test_pictrs_that_hangs_is_given_up_at_the_deadline(
    client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """With an answer, before the client's own time is over."""

    async def hang(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    pictrs.answer = hang
    soon = str(int((time.time() + 1.5) * 1e9))
    answer = await upload(client, proxy.url, plain(RED), headers={DEADLINE: soon})
    assert answer.status == 504
    assert_pictrs_error(answer.body, "upstream-error")


@pytest.mark.parametrize("status", [408, 404, 500, 503])
async def test_error_of_pictrs_without_a_word_gets_one(
    status: int, client: ClientSession, proxy: Running, pictrs: FakeServer
) -> None:
    """At the deadline it answers 408 and nothing; Lemmy needs JSON with `msg`."""

    async def refuse(request: web.BaseRequest, received: Received) -> web.StreamResponse:
        return web.Response(status=status)

    pictrs.answer = refuse
    answer = await upload(client, proxy.url, plain(RED))
    assert answer.status == status
    assert_pictrs_error(answer.body, "upstream-error")


async def test_uploads_share_the_room_for_what_is_being_received(
    client: ClientSession, pictrs: FakeServer
) -> None:
    """Beyond it the answer is 503 at once, reads pass, and there is room again afterwards."""
    limits = {"max_file_bytes": 100_000, "max_spool_bytes": 100_000}
    async with running_proxy(pictrs.url, limits=limits) as proxy:
        proxy.embedder.go.clear()
        first = spawn(upload(client, proxy.url, plain(RED) + bytes(60_000)), name="upload")
        await until(proxy.embedder.started.is_set)
        second = await upload(client, proxy.url, plain(BLUE) + bytes(60_000))
        assert (second.status, second.headers["Retry-After"]) == (503, "5")
        assert_pictrs_error(second.body, "busy")
        assert (await ask(client, "GET", proxy.url, "/image/original/a.png")).status == 200
        proxy.embedder.go.set()
        assert (await first).status == 201
        assert (await upload(client, proxy.url, plain(BLUE) + bytes(60_000))).status == 201
        await until(lambda: proxy.spooler.used_bytes == 0)


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/image", 404, "not-found"),
        ("POST", "/nothing", 404, "not-found"),
        ("POST", "/image/backgrounded", 400, "file-upload-error"),
        ("POST", "/internal/import", 400, "file-upload-error"),
        ("GET", "/image/original?proxy=http://10.0.0.1/", 400, "download-file-error"),
        ("GET", "/image/original?proxy=nothing", 400, "download-file-error"),
        ("GET", "/image/original?pro%78y=http://x/&alias=a", 400, "invalid-query"),
        ("GET", "/image/details/original?proxy=http://x/", 404, "proxy-not-found"),
        ("POST", "/internal/purge?proxy=http://x/", 404, "proxy-not-found"),
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

        async def fail(media: object, deadline: object) -> None:
            raise error

        proxy.scanner.clear = fail  # type: ignore[assignment,method-assign]  # the nearest seam
        answer = await upload(client, proxy.url, plain(RED))
        assert answer.status == error.status
        assert_pictrs_error(answer.body, error.code)
        assert answer.json["msg"] == error.public_message
        may_retry = isinstance(error, errors.ScanError | errors.Busy)
        assert ("Retry-After" in answer.headers) is may_retry
        # What became of a scan is counted by the scanner, which this test has bypassed.
        is_scan = isinstance(error, errors.ScanError)
        assert proxy.metrics.failures == ({} if is_scan else {kind.reason: 1})
    assert pictrs.received == []


async def test_unforeseen_error_fails_closed_and_says_nothing(
    client: ClientSession, proxy: Running, pictrs: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """500 in JSON, the details in the log alone, and nothing forwarded."""

    async def fail(media: object, deadline: object) -> None:
        raise ZeroDivisionError("a secret detail")

    proxy.scanner.clear = fail  # type: ignore[assignment,method-assign]  # the nearest seam
    answer = await upload(client, proxy.url, plain(RED))
    assert answer.status == 500
    assert_pictrs_error(answer.body, "safety-proxy-error")
    assert b"secret" not in answer.body
    assert "ZeroDivisionError" in caplog.text
    assert "a secret detail" not in caplog.text
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
