"""Tests of safety_proxy/validator/server.py: what pict-rs asks, and that only clean is let in."""

import asyncio
import gc
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from safety_proxy import errors
from safety_proxy.deadline import HEADER, Deadline
from safety_proxy.errors import ConfigError, EmbedderUnavailable, SafetyProxyError, ScanError
from safety_proxy.media.spool import Media
from safety_proxy.settings import ValidatorSettings
from safety_proxy.store.hashlist import test_picture as blocked_by_hash
from safety_proxy.tasks import spawn
from safety_proxy.validator import server as servers
from safety_proxy.validator.server import ValidatorServer
from safety_proxy.verdict import Verdict
from tests.fakes import Running, running_proxy, until
from tests.media.samples.boxes import film
from tests.pictures import BLUE, GREEN, PURPLE, RED, Color, animation, encoded, plain
from tests.validator.clients import ask, connected, parsed
from tests.validator.pictrs import FORM_TYPE, PATH, chunked, form, head, request_of

VERSIONS = ["0.5.25", "0.6.0-rc.6"]
OK = {"msg": "ok"}
REFUSED = {
    "msg": "The picture was refused by the safety check",
    "code": "failed-external-validation",
}
DAMAGED = {"msg": "The picture could not be read", "code": "damaged"}
NO_PICTURE = {"msg": "This is no picture or video of a known type", "code": "not-a-picture"}
WEBM = bytes.fromhex("1a45dfa3 9f 4286810142f7810142f2810442f381084282847765626d") + bytes(500)
MP4 = bytes.fromhex("00000018 66747970 69736f6d 00000200 69736f6d 6d703432") + bytes(500)


Spooled = Callable[[], set[str]]


def clip(*colors: Color, codec: str = "libx264", kind: str = "mp4") -> bytes:
    """A video with a frame of each color."""
    return film([Image.new("RGB", (64, 64), color) for color in colors], codec, kind)


@dataclass
class Door:
    """A validator that listens, and the parts of the proxy behind it."""

    port: int
    server: ValidatorServer
    behind: Running

    def failures(self) -> dict[str, int]:
        """What was counted, by reason."""
        return dict(self.behind.metrics.failures)


@asynccontextmanager
async def opened(
    *, seconds: float = 30, settings: dict[str, Any] | None = None, **sections: Any
) -> AsyncIterator[Door]:
    """A door with `the-id`; `settings` are the validator's, `sections` all others."""
    values = {"ids": ["another-id", "the-id"], "port": 0, **(settings or {})}
    async with running_proxy("http://127.0.0.1:1", **sections) as behind:
        server = ValidatorServer(
            behind.scanner,
            ValidatorSettings.model_validate(values),
            behind.spooler,
            seconds=seconds,
            metrics=behind.metrics,
        )
        await server.start()
        try:
            yield Door(server.port, server, behind)
        finally:
            behind.embedder.go.set()
            await server.aclose(0)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """One with the settings as they come."""
    async with opened() as door:
        yield door


@pytest.fixture(autouse=True)
def _nothing_leaks(spooled: Spooled) -> Iterator[None]:
    """No test leaves a spooled file or a socket behind, however its requests ended."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    if spooled():
        gc.collect()  # an exception holds the frames it passed, and so what was mapped in them
    assert spooled() == set()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def raw(picture: bytes, *lines: str, path: str = PATH) -> bytes:
    """A request as 0.5 sends it, with these further header lines."""
    chunks = chunked([picture])
    return head("content-type: image/png", "transfer-encoding: chunked", *lines, path=path) + chunks


def with_text(picture: bytes, text: str) -> bytes:
    """The same pixels in other bytes: a PNG with metadata."""
    info = PngInfo()
    info.add_text("Comment", text)
    body = BytesIO()
    with Image.open(BytesIO(picture)) as image:
        image.save(body, "PNG", pnginfo=info)
    return body.getvalue()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("picture", "status", "answer"),
    [
        (plain(RED), 200, OK),
        (plain(GREEN), 200, OK),  # flagged
        (animation([RED, BLUE]), 200, OK),
        (plain(PURPLE), 406, REFUSED),
        (animation([RED] * 9 + [PURPLE]), 406, REFUSED),
        (blocked_by_hash(), 406, REFUSED),
        (clip(RED), 200, OK),
        (clip(*[RED] * 9, PURPLE), 406, REFUSED),  # pict-rs makes videos of animations
        (clip(*[RED] * 9, PURPLE, kind="webm", codec="libvpx-vp9"), 406, REFUSED),
        (WEBM, 406, DAMAGED),
        (MP4, 406, DAMAGED),
        (b"no picture", 406, NO_PICTURE),
        (plain(RED)[:40], 406, DAMAGED),
    ],
)
async def test_verdict_is_the_answer(
    door: Door, version: str, picture: bytes, status: int, answer: dict[str, str]
) -> None:
    """Whichever pict-rs asks; the answer never says which concept was found."""
    reply = await ask(door.port, request_of(version, picture))
    assert (reply.status, reply.json) == (status, answer)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["connection"] == "close"
    assert door.failures() == {}


@pytest.mark.parametrize("version", VERSIONS)
async def test_large_picture_passes(door: Door, version: str) -> None:
    """Of some MB, in many chunks."""
    noise = Image.effect_noise((1500, 1500), 90).convert("RGB")
    picture = encoded(noise)
    assert len(picture) > 2_000_000
    reply = await ask(door.port, request_of(version, picture))
    assert reply.status == 200


async def test_each_call_is_judged_and_only_the_first_costs_a_forward_pass(door: Door) -> None:
    """pict-rs asks for duplicates too; and after it has stripped a picture, for the same pixels."""
    for color, status in ((RED, 200), (PURPLE, 406)):
        before = len(door.behind.embedder.batches)
        bodies = [
            plain(color),
            plain(color),
            with_text(plain(color), "a"),
            encoded(Image.new("RGB", (16, 16), color), compress_level=0),
        ]
        for body in bodies:
            for version in VERSIONS:
                assert (await ask(door.port, request_of(version, body))).status == status
        assert len(door.behind.embedder.batches) == before + 1


async def test_simultaneous_calls_for_one_picture_are_one_scan(door: Door) -> None:
    """As when twenty users share it."""
    requests = [request_of(VERSIONS[n % 2], plain(RED)) for n in range(20)]
    replies = await asyncio.gather(*(ask(door.port, request) for request in requests))
    assert [reply.status for reply in replies] == [200] * 20
    assert door.behind.embedder.batches == [1]


@pytest.mark.parametrize(
    "path", [PATH, "/api/v1/scan/another-id", PATH + "?a=b", PATH[:-2] + "%69d"]
)
async def test_any_of_the_ids_is_served(door: Door, path: str) -> None:
    """Escaped or not, as the URL of an admin may have it."""
    assert (await ask(door.port, raw(plain(RED), path=path))).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/scan/",
        "/api/v1/scan/the-i",
        "/api/v1/scan/the-idx",
        "/api/v1/scan/the-id/",
        "/api/v1/scan/THE-ID",
        "/api/v1/scan/the-id%00",
        "/api/v1/scan//the-id",
        "/api/v1/scan/%ff%fe",
        "/api/v1/scan/a-guess",
    ],
)
async def test_wrong_id_is_refused_unread(
    door: Door, path: str, caplog: pytest.LogCaptureFixture, spooled: Spooled
) -> None:
    """Before its body has come, and what it tried stands in no log."""
    async with connected(door.port) as client:
        await client.send(head("content-length: 5000000", "expect: 100-continue", path=path))
        reply = await client.reply()
        assert spooled() == set()
    assert (reply.status, reply.json["code"], reply.interim) == (403, "forbidden", b"")
    assert door.failures() == {"validator_refused": 1}
    assert "reason=id" in caplog.text
    assert "the-id" not in caplog.text.lower()
    assert "guess" not in caplog.text
    assert "scan" not in caplog.text.replace("scanner", "")


async def test_without_ids_nobody_is_served() -> None:
    """Not even with an empty one."""
    async with opened(settings={"ids": []}) as door:
        for path in ("/api/v1/scan/", PATH):
            assert (await ask(door.port, raw(plain(RED), path=path))).status == 403


@pytest.mark.parametrize("ids", [[""], ["the-id", ""]])
async def test_empty_id_is_a_config_error(ids: list[str]) -> None:
    """It would let everybody in."""
    with pytest.raises(ConfigError, match="VALIDATOR__IDS"):
        async with opened(settings={"ids": ids}):
            pass


async def test_foreign_address_is_refused_before_it_has_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who is not pict-rs cannot hold a connection, nor try ids; the log says whom to allow."""
    async with opened(settings={"allow_networks": ["10.0.0.0/8", "::1/128"]}) as door:
        async with connected(door.port) as client:
            reply = await client.reply()
        assert (reply.status, reply.json["code"]) == (403, "forbidden")
        assert (await ask(door.port, raw(plain(RED)))).status == 403
        assert door.behind.embedder.batches == []
    assert "reason=address client=127.0.0.1" in caplog.text


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (head(path="/"), 404, "not-found"),
        (head(path="/api/v1/scan"), 404, "not-found"),
        (head(path="/image"), 404, "not-found"),
        (head(path="http://x" + PATH), 404, "not-found"),
        (head(method="OPTIONS", path="*"), 404, "not-found"),
        (head(method="GET"), 405, "method-not-allowed"),
        (head(method="PUT"), 405, "method-not-allowed"),
        (head("content-length: 0"), 400, "validate-file-empty"),
        (head(), 400, "validate-file-empty"),
        (head("content-length: 1", "transfer-encoding: chunked"), 400, "file-upload-error"),
        (head("content-length: 1", "content-length: 2"), 400, "file-upload-error"),
        (b"hello\r\n\r\n", 400, "file-upload-error"),
        (raw(plain(RED), "content-encoding: gzip"), 400, "file-upload-error"),
        (raw(plain(RED), f"content-type: {FORM_TYPE}"), 400, "file-upload-error"),
        (raw(plain(RED), f"{HEADER}: soon"), 400, "parse-deadline"),
        (raw(plain(RED), f"{HEADER}: 1"), 408, "request-timeout"),
        (raw(plain(RED), *[f"{HEADER}: 99999999999999999999"] * 2), 400, "parse-deadline"),
    ],
)
async def test_what_is_not_a_request_of_pictrs_is_refused(
    door: Door, request_: bytes, status: int, code: str
) -> None:
    """With the reason, and without a look at any picture."""
    reply = await ask(door.port, request_)
    assert (reply.status, reply.json["code"]) == (status, code)
    assert door.behind.embedder.batches == []


async def test_head_request_gets_no_body(door: Door) -> None:
    """A method like others."""
    reply = await ask(door.port, head(method="HEAD"))
    assert (reply.status, reply.json) == (405, None)


@pytest.mark.parametrize("version", VERSIONS)
async def test_picture_over_the_limit_is_413(version: str) -> None:
    """The limit is that of the other doors; a picture of just that size passes."""
    picture = plain(RED)
    limits = {"max_file_bytes": len(picture)}
    async with opened(limits=limits) as door:
        assert (await ask(door.port, request_of(version, picture))).status == 200
        reply = await ask(door.port, request_of(version, picture + b"x"))
        assert (reply.status, reply.json["code"]) == (413, "validate-file-size")
        declared = head("content-length: 90000", "expect: 100-continue")
        reply = await ask(door.port, declared)
        assert (reply.status, reply.interim) == (413, b"")


async def test_100_continue_is_said_to_a_client_that_is_served(door: Door) -> None:
    """As `curl` waits for it with large files."""
    picture = plain(RED)
    async with connected(door.port) as client:
        await client.send(head(f"content-length: {len(picture)}", "expect: 100-continue"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        await client.send(picture)
        assert (await client.reply()).status == 200


async def test_full_disk_is_busy(caplog: pytest.LogCaptureFixture) -> None:
    """The client may come again."""
    async with opened(limits={"max_spool_bytes": 10}) as door:
        reply = await ask(door.port, raw(plain(RED)))
        assert (reply.status, reply.json["code"]) == (503, "busy")
        assert reply.headers["retry-after"] == "5"
        assert door.failures() == {"busy": 1}
    assert "validation failed" in caplog.text


async def test_failed_scan_refuses(door: Door) -> None:
    """pict-rs then stores nothing; it is counted once."""
    door.behind.embedder.error = EmbedderUnavailable("the device is lost")
    reply = await ask(door.port, raw(plain(RED)))
    door.behind.embedder.error = None
    assert (reply.status, reply.json["code"]) == (503, "scan-unavailable")
    assert reply.headers["retry-after"] == "5"
    assert "device" not in reply.json["msg"]
    assert door.failures() == {"model": 1}


async def test_model_that_is_still_loading_refuses(door: Door) -> None:
    """After a start, until there is one."""
    model, door.behind.scanner.model = door.behind.scanner.model, None
    assert (await ask(door.port, raw(plain(RED)))).status == 503
    door.behind.scanner.model = model
    assert (await ask(door.port, raw(plain(RED)))).status == 200


async def test_on_failure_allow_lets_in_here_too() -> None:
    """The admin chose it for all doors; the picture is noted for a later scan."""
    async with opened(scan={"on_failure": "allow"}) as door:
        door.behind.embedder.error = EmbedderUnavailable("the device is lost")
        assert (await ask(door.port, raw(plain(RED)))).status == 200
        assert len(door.behind.unscanned) == 1
        door.behind.embedder.error = None


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(0.2, []), (30, ["in 0.2 s"])],
    ids=["the door's time", "the time that the client gave"],
)
async def test_scan_that_does_not_end_is_given_up_in_time(seconds: float, lines: list[str]) -> None:
    """So that pict-rs gets an answer and does not have to break the connection."""
    async with opened(seconds=seconds) as door:
        door.behind.embedder.go.clear()
        lines = [f"{HEADER}: {int((time.time() + 0.2) * 1e9)}" for _ in lines]
        start = time.monotonic()
        reply = await ask(door.port, raw(plain(RED), *lines))
        assert reply.status == 503
        assert time.monotonic() - start < 5
        await until(lambda: door.behind.scanner.in_flight == 0)


async def test_slow_head_is_408(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nobody asks is not held."""
    monkeypatch.setattr(servers, "_HEAD_SECONDS", 0.05)
    for sent in (b"", b"POST /api"):
        async with connected(door.port) as client:
            await client.send(sent)
            reply = await client.reply()
        assert (reply.status, reply.json["code"]) == (408, "request-timeout")


@pytest.mark.parametrize("version", VERSIONS)
async def test_slow_body_is_408(version: str) -> None:
    """Neither is one whose picture never ends."""
    async with opened(seconds=0.1) as door, connected(door.port) as client:
        await client.send(request_of(version, plain(RED))[:-20])
        reply = await client.reply()
        assert (reply.status, reply.json["code"]) == (408, "request-timeout")
        assert door.behind.embedder.batches == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_body_that_is_cut_is_never_judged(door: Door, version: str) -> None:
    """Wherever: a beginning that looks clean says nothing of the whole."""
    whole = request_of(version, plain(RED))
    for length in range(1, len(whole), 7):
        async with connected(door.port) as client:
            await client.send(whole[:length])
            client.writer.write_eof()
            assert await client.closed() == b""
    assert door.behind.embedder.batches == []
    assert door.failures() == {"client_gone": len(range(1, len(whole), 7))}


@pytest.mark.parametrize("whole", [True, False])
async def test_form_that_ends_early_is_never_judged(door: Door, whole: bool) -> None:  # noqa: FBT001
    """The transfer is complete then, and the multipart in it is not."""
    chunks = form(plain(RED))[: 3 + whole]
    request = head(f"content-type: {FORM_TYPE}", "transfer-encoding: chunked") + chunked(chunks)
    assert (await ask(door.port, request)).status == 400
    assert door.behind.embedder.batches == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_client_that_leaves_during_the_scan_ends_it(
    door: Door, version: str, how: str, spooled: Spooled
) -> None:
    """As pict-rs does when its time is over."""
    door.behind.embedder.go.clear()
    async with connected(door.port) as client:
        await client.send(request_of(version, plain(RED)))
        await until(door.behind.embedder.started.is_set)
        assert spooled() != set()
        if how == "closes":
            client.writer.write_eof()
        else:
            client.leave()
        await until(lambda: door.behind.scanner.in_flight == 0)
        await until(lambda: door.failures() == {"client_gone": 1})
        await until(lambda: not spooled())
    assert door.behind.spooler.used_bytes == 0


async def test_scan_goes_on_while_another_waits_for_it(door: Door) -> None:
    """The one who left takes nothing from those who stay."""
    door.behind.embedder.go.clear()
    async with connected(door.port) as staying, connected(door.port) as leaving:
        for client in (leaving, staying):
            await client.send(raw(plain(RED)))
        await until(lambda: len(door.server._serving) == 2)
        await until(door.behind.embedder.started.is_set)
        leaving.leave()
        await until(lambda: door.failures() == {"client_gone": 1})
        door.behind.embedder.go.set()
        assert (await staying.reply()).status == 200
    assert door.behind.embedder.batches == [1]


async def test_bytes_after_the_request_are_dropped(door: Door) -> None:
    """A second request, however it was smuggled in, is no request here."""
    door.behind.embedder.go.clear()
    async with connected(door.port) as client:
        await client.send(raw(plain(RED)) + raw(plain(PURPLE)))
        await until(door.behind.embedder.started.is_set)
        await client.send(raw(plain(PURPLE)))
        door.behind.embedder.go.set()
        assert (await client.reply()).status == 200
    assert door.behind.embedder.batches == [1]


def kinds(root: type[SafetyProxyError] = SafetyProxyError) -> Iterator[type[SafetyProxyError]]:
    """The class and all below it."""
    yield root
    for child in root.__subclasses__():
        yield from kinds(child)


def an_error(kind: Any) -> BaseException:
    """One of its kind."""
    values: dict[Any, tuple[Any, ...]] = {
        errors.DeadlineExceeded: (),
        errors.NotProxied: (),
        errors.UpstreamRefused: (500, "text", "code"),
    }
    error: BaseException = kind(*values.get(kind, ("the reason",)))
    return error


@pytest.mark.parametrize("kind", [*kinds(), RuntimeError, ValueError, OSError, AssertionError])
async def test_no_error_ever_lets_a_picture_in(
    door: Door, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither 2xx nor a redirect, which pict-rs would follow, comes of one."""

    async def fail(media: Media, deadline: Deadline) -> Verdict:
        raise an_error(kind)

    door.behind.scanner.scan = fail  # type: ignore[method-assign]  # stands for any bug
    reply = await ask(door.port, raw(plain(RED)))
    assert reply.status >= 400
    assert reply.json.keys() == {"msg", "code"}
    counted = 0 if issubclass(kind, ScanError) else 1
    assert sum(door.failures().values()) == counted
    assert "the-id" not in caplog.text


async def test_connections_are_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens more is cut off; there is room again when one has ended."""
    monkeypatch.setattr(servers, "_MOST_CONNECTIONS", 2)
    async with connected(door.port) as one:
        async with connected(door.port):
            await until(lambda: len(door.server._serving) == 2)
            async with connected(door.port) as third:
                assert await third.closed() == b""
        await until(lambda: len(door.server._serving) == 1)
        await one.send(raw(plain(RED)))
        assert (await one.reply()).status == 200
    assert door.failures()["validator_full"] == 1


async def test_close_lets_requests_in_flight_end(door: Door) -> None:
    """And takes no new ones."""
    door.behind.embedder.go.clear()
    async with connected(door.port) as client:
        await client.send(raw(plain(RED)))
        await until(door.behind.embedder.started.is_set)
        closing = spawn(door.server.aclose(20), name="close")
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionError):
            await ask(door.port, raw(plain(RED)))
        assert not closing.done()
        door.behind.embedder.go.set()
        assert (await client.reply()).status == 200
    await closing


async def test_close_cuts_what_does_not_end(door: Door, spooled: Spooled) -> None:
    """Without an answer, which is a refusal."""
    door.behind.embedder.go.clear()
    async with connected(door.port) as waiting, connected(door.port) as sending:
        await waiting.send(raw(plain(RED)))
        await sending.send(raw(plain(GREEN))[:-20])
        await until(door.behind.embedder.started.is_set)
        await door.server.aclose(0.05)
        assert door.server._serving == set()
        assert spooled() == set()
        for client in (waiting, sending):
            assert await client.closed() == b""
    await until(lambda: door.behind.scanner.in_flight == 0)


async def test_close_of_what_never_started_is_nothing(door: Door) -> None:
    """As after a start that failed."""
    other = ValidatorServer(
        door.behind.scanner,
        ValidatorSettings(port=door.port, ids=[]),
        door.behind.spooler,
        seconds=1,
        metrics=door.behind.metrics,
    )
    with pytest.raises(ConfigError, match=rf"Cannot listen on 127.0.0.1:{door.port}: .*PORT"):
        await other.start()
    await other.aclose(1)


async def test_clean_scan_is_logged_once_and_without_the_id(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """By the scanner; what the door would add is only what should stay secret."""
    with caplog.at_level(logging.DEBUG, "safety_proxy"):
        assert (await ask(door.port, request_of("0.6.0-rc.6", plain(RED)))).status == 200
    assert len(caplog.records) == 1
    for secret in ("the-id", "0547230d180d", PATH):
        assert secret not in caplog.text


async def test_answer_is_what_a_json_client_reads(door: Door) -> None:
    """For admins who try it with curl."""
    async with connected(door.port) as client:
        await client.send(raw(plain(PURPLE)))
        answer = await client.closed()
    assert answer.startswith(b"HTTP/1.1 406 Not Acceptable\r\n")
    assert parsed(answer).json == json.loads(answer.partition(b"\r\n\r\n")[2])
