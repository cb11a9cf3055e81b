"""Uploads and downloads through the safety proxy into a real pict-rs."""

import asyncio
import resource
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, web
from PIL import Image

from safety_proxy.app import App
from safety_proxy.crops import CropSpec, Float32Array
from safety_proxy.errors import EmbedderUnavailable
from safety_proxy.proxy.server import PLACEHOLDER
from safety_proxy.settings import load_settings
from safety_proxy.store.hashlist import test_picture as blocked_by_hash
from tests.e2e.harness import Origin, PictRs, SafetyProxy, plain_png, upload
from tests.e2e.samples import bodies, fresh, padded

REFUSED = {
    "msg": "The picture was refused by the safety check",
    "code": "failed-external-validation",
}
MEBIBYTE = 1024 * 1024
IDS = {"file", "alias", "delete_token", "created_at", "upload_id"}


def shape(value: Any) -> Any:
    """A JSON value with its ids and times left out."""
    if isinstance(value, dict):
        return {key: "..." if key in IDS else shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else value


async def test_clean_upload_answers_as_pictrs_itself(
    real_proxy: SafetyProxy, real_pictrs: PictRs, client: ClientSession
) -> None:
    """Status, JSON and stored picture are those of an upload straight to pict-rs."""
    body = fresh("allow", 1)
    direct = await upload(client, real_pictrs.url, body)
    proxied = await upload(client, real_proxy.url, body)
    assert proxied[0] == direct[0] == 201
    assert shape(proxied[1]) == shape(direct[1])
    alias = proxied[1]["files"][0]["file"]
    async with client.get(f"{real_pictrs.url}/image/original/{alias}") as answer:
        assert Image.open(BytesIO(await answer.read())).size == Image.open(BytesIO(body)).size


async def test_resize_of_an_upload_is_honored(
    real_proxy: SafetyProxy, client: ClientSession
) -> None:
    """The upload query reaches pict-rs."""
    status, answer = await upload(client, real_proxy.url, fresh("allow", 2), query="resize=48")
    assert status == 201
    details = answer["files"][0]["details"]
    assert max(details["width"], details["height"]) == 48


async def test_resize_of_a_download_is_honored(
    real_proxy: SafetyProxy, client: ClientSession, origin: Origin
) -> None:
    """A link thumbnail, as Lemmy asks for it, is fetched by the proxy and resized by pict-rs."""
    address = origin.put("/clean.png", fresh("allow", 3))
    async with client.get(f"{real_proxy.url}/image/download?url={address}&resize=48") as answer:
        assert answer.status == 201
        details = (await answer.json())["files"][0]["details"]
    assert max(details["width"], details["height"]) == 48
    assert [hit.headers["User-Agent"].split("/")[0] for hit in origin.hits] == ["safety-proxy"]


async def test_blocked_upload_leaves_no_trace(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """pict-rs' hashes, files and log are the same after each refused picture."""
    before = (await pictrs.hashes(), pictrs.stored_files(), pictrs.log())
    for body in [*bodies("block"), blocked_by_hash()]:
        assert await upload(client, proxy.url, body) == (400, REFUSED)
    after = (await pictrs.hashes(), pictrs.stored_files(), pictrs.log())
    assert after[:2] == before[:2]
    new_lines = after[2].removeprefix(before[2])
    assert "POST" not in new_lines


async def test_blocked_download_leaves_no_trace(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, origin: Origin
) -> None:
    """A gray picture is stored in its place, as often as it is asked for."""
    address = origin.put("/blocked.png", fresh("block", 1))
    for _ in range(2):
        async with client.get(f"{proxy.url}/image/download?url={address}&resize=512") as answer:
            assert answer.status == 201
            alias = (await answer.json())["files"][0]["file"]
        async with client.get(f"{proxy.url}/image/original/{alias}") as answer:
            assert await answer.read() == PLACEHOLDER.read_bytes()
    assert not pictrs.holds(fresh("block", 1))


async def test_downloaded_bytes_are_the_very_bytes_of_the_origin(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, origin: Origin
) -> None:
    """The origin is asked once, and pict-rs stores what was judged."""
    body = fresh("allow", 4)
    address = origin.put("/clean.png", body, "application/json")
    async with client.get(f"{proxy.url}/image/download?url={address}") as answer:
        assert answer.status == 201
    assert len(origin.hits) == 1
    assert pictrs.holds(body)


async def test_one_blocked_file_refuses_the_whole_upload(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """Of several files none is forwarded, and the message says which one it was."""
    before = await pictrs.hashes()
    status, answer = await upload(
        client, proxy.url, fresh("allow", 5), fresh("block", 2), fresh("allow", 6)
    )
    assert status == 400
    assert answer["msg"].startswith("File 2 of 3")
    assert await pictrs.hashes() == before


async def test_flagged_picture_is_stored(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """A flag is for the admin's review and stops nothing."""
    body = fresh("flag", 1)
    before = (await proxy.stats())["verdicts"]["by_action"].get("flag", 0)
    assert (await upload(client, proxy.url, body))[0] == 201
    assert (await proxy.stats())["verdicts"]["by_action"]["flag"] == before + 1
    assert pictrs.holds(body)


async def test_second_upload_of_the_same_bytes_runs_no_forward_pass(
    proxy: SafetyProxy, client: ClientSession
) -> None:
    """Clean and refused pictures alike are judged once."""
    for body, status in ((fresh("allow", 7), 201), (fresh("block", 3), 400)):
        assert (await upload(client, proxy.url, body))[0] == status
        before = await proxy.stats()
        assert (await upload(client, proxy.url, body))[0] == status
        after = await proxy.stats()
        assert after["batches"]["count"] == before["batches"]["count"]
        assert after["cache"]["hits"] == before["cache"]["hits"] + 1


async def test_twenty_simultaneous_uploads_of_one_file_run_one_forward_pass(
    proxy: SafetyProxy, client: ClientSession
) -> None:
    """All twenty get their own answer from one scan."""
    body = fresh("allow", 8)
    before = await proxy.stats()
    answers = await asyncio.gather(*(upload(client, proxy.url, body) for _ in range(20)))
    after = await proxy.stats()
    assert [status for status, _ in answers] == [201] * 20
    assert len({answer["files"][0]["file"] for _, answer in answers}) == 20
    assert after["batches"]["count"] == before["batches"]["count"] + 1
    assert after["cache"]["misses"] == before["cache"]["misses"] + 1


async def test_upload_of_100_mb_leaves_memory_flat(
    start_proxy: Callable[..., SafetyProxy],
    start_pictrs: Callable[..., PictRs],
    client: ClientSession,
) -> None:
    """Neither while it passes nor after it does the proxy hold much of it."""
    pictrs = start_pictrs(PICTRS__MEDIA__MAX_FILE_SIZE="200")
    proxy = start_proxy(pictrs.url, SAFETY_PROXY_LIMITS__MAX_FILE_BYTES=str(200 * MEBIBYTE))
    assert (await upload(client, proxy.url, plain_png()))[0] == 201  # what every first upload loads
    body = padded(fresh("allow", 9), 100_000_000)
    before = proxy.resident_bytes()
    upload_task = asyncio.get_running_loop().create_task(upload(client, proxy.url, body))
    highest = before
    while not upload_task.done():
        highest = max(highest, proxy.resident_bytes())
        await asyncio.sleep(0.01)
    assert (await upload_task)[0] == 201
    assert pictrs.holds(body)
    assert highest - before < 24 * MEBIBYTE
    assert proxy.resident_bytes() - before < 24 * MEBIBYTE
    assert proxy.spooled_files() == []


async def test_pictrs_down_is_502_in_its_json(
    start_proxy: Callable[..., SafetyProxy],
    start_pictrs: Callable[..., PictRs],
    client: ClientSession,
) -> None:
    """Not a safety refusal: the user is told that the image server is away, and it heals."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url)
    body = fresh("allow", 10)
    await asyncio.to_thread(pictrs.kill)
    status, answer = await upload(client, proxy.url, body)
    assert (status, answer["code"]) == (502, "upstream-error")
    assert "image server" in answer["msg"]
    async with client.get(f"{proxy.url}/image/original/x.png") as read:
        assert read.status == 502
    async with client.get(f"{proxy.admin_url}/readyz") as ready:
        assert (ready.status, await ready.json()) == (
            503,
            {"model": True, "decoders": True, "pictrs": False},
        )
    await asyncio.to_thread(pictrs.start)
    assert (await upload(client, proxy.url, body))[0] == 201


class _FailingEmbedder:
    """A model that has lost its device."""

    fingerprint = "failing"
    crop_spec = CropSpec(8, 8)
    logit_scale = 1.0
    logit_bias = None

    def embed_images(self, crops: object) -> Float32Array:
        raise EmbedderUnavailable("the device is lost")

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        return np.ones((len(texts), 2), np.float32)


async def test_without_a_file_to_open_uploads_are_503_until_there_is(
    start_pictrs: Callable[..., PictRs],
    start_proxy: Callable[..., SafetyProxy],
    client: ClientSession,
) -> None:
    """A connection takes one, its upload another, and the scan more."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url)
    assert (await upload(client, proxy.url, fresh("allow", 10)))[0] == 201
    soft, hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (proxy.open_files() + 40, hard))
    pictures = [plain_png(f"rgb({n}, 5, 9)") for n in range(30)]
    answers = await asyncio.gather(*(upload(client, proxy.url, body) for body in pictures))
    statuses = {status for status, _ in answers}
    assert 503 in statuses
    assert statuses <= {201, 503}
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert (await upload(client, proxy.url, pictures[0]))[0] == 201
    assert proxy.spooled_files() == []


async def test_failing_model_is_503_and_nothing_is_forwarded(
    pictrs: PictRs, client: ClientSession
) -> None:
    """No verdict, no picture; the client may come again."""
    before = await pictrs.hashes()
    settings = load_settings(server={"port": 0, "admin_port": 0}, upstream={"url": pictrs.url})
    async with App(settings, load_embedder=lambda _: _FailingEmbedder()) as app:
        await app.ready()
        url = f"http://127.0.0.1:{app.port}"
        status, answer = await upload(client, url, fresh("allow", 11))
        assert (status, answer["code"]) == (503, "scan-unavailable")
        async with client.get(f"http://127.0.0.1:{app.admin_port}/readyz") as ready:
            assert ready.status == 503
    assert await pictrs.hashes() == before


async def test_unreadable_file_is_refused_with_words_of_its_own(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """What is no picture cannot be judged and is never taken for a clean one."""
    before = await pictrs.hashes()
    for body in (b"plain text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", plain_png()[:60]):
        status, answer = await upload(client, proxy.url, body)
        code = "damaged" if body.startswith(b"\x89PNG") else "not-a-picture"
        assert (status, answer["code"]) == (400, code)
    assert await pictrs.hashes() == before


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_origin_that_refuses_is_no_safety_refusal(
    proxy: SafetyProxy, client: ClientSession, origin: Origin, status: int
) -> None:
    """The answer is the one that pict-rs gives for such an origin, and a retry can work."""

    async def refuse(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    address = origin.route("/moved.png", refuse)
    async with client.get(f"{proxy.url}/image/download?url={address}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (500, "download-file-error")
    origin.put("/moved.png", fresh("allow", 12))
    async with client.get(f"{proxy.url}/image/download?url={address}") as answer:
        assert answer.status == 201
