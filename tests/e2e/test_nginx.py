"""`nginx/safety_proxy.conf` in a real nginx: what it passes where, and what it answers itself."""

import json
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, web

from tests.e2e.conftest import StartNginx
from tests.e2e.harness import (
    Nginx,
    Origin,
    PictRs,
    SafetyProxy,
    free_port,
    plain_png,
    send_raw,
    upload,
)
from tests.e2e.samples import fresh

ALIAS = "0d0f3a3c-58a4-4b1f-9d53-2f2a4f0a9f5e.png"

MEBIBYTE = 1024 * 1024

PLAIN_READS = [
    f"/image/original/{ALIAS}",
    f"/image/original?alias={ALIAS}",
    f"/image/details/original/{ALIAS}",
    f"/image/details/original?alias={ALIAS}",
    f"/image/process.webp?src={ALIAS}",
    f"/image/process.webp?src={ALIAS}&thumbnail=256",
    f"/image/process.jpg?alias={ALIAS}",
    f"/image/process.png?resize=Mitchell.a40000&blur=1.5&src={ALIAS}&crop=16x9&identity=",
    f"/image/details/process.avif?src={ALIAS}&thumbnail=96",
]

NOT_PLAIN_READS = [
    "/healthz",
    "/image",
    "/image/original",
    "/image/original/",
    "/image/original/..",
    f"/image/original/{ALIAS}/x",
    f"/image/original/{ALIAS}?x=1",
    f"/image/original/%2e%2e/{ALIAS}",
    f"/image//original/{ALIAS}",
    f"/image/original?alias={ALIAS}&alias={ALIAS}",
    f"/image/original?alias={ALIAS}&proxy=http://h/a.png",
    f"/image/original?alias={ALIAS}&pro%78y=http://h/a.png",
    f"/image/original?alias={ALIAS}%26proxy=http://h/a.png",
    f"/image/original?alias={ALIAS}#",
    "/image/original?proxy=http://h/a.png",
    "/image/original?pro%78y=http://h/a.png",
    "/image/original?&&proxy=http://h/a.png&&",
    "/image/%6Friginal?proxy=http://h/a.png",
    "/image/details/original?proxy=http://h/a.png",
    "/image/blurhash?proxy=http://h/a.png",
    "/image/process.xyz?proxy=http://h/a.png",
    "/image/process.a%2Fb?proxy=http://h/a.png",
    "/image/process%2Ewebp?proxy=http://h/a.png",
    f"/image/process.WEBP?src={ALIAS}",
    f"/image/process.webp?src={ALIAS}&src={ALIAS}&proxy=http://h/a.png",
    f"/image/process.webp?src={ALIAS}&alias={ALIAS}",
    f"/image/process.webp?src={ALIAS}&x=1",
    f"/image/process.webp?src={ALIAS}&thumbnail=http://h/a.png",
    f"/image/process.webp?src={ALIAS}&thumbnail=256&proxy=http://h/a.png",
    "/image/process.webp?thumbnail=256",
    "/image/download?url=http://h/a.png",
    "/image/downloa%64?url=http://h/a.png",
    "/image/backgrounded/claim?upload_id=1",
    f"/image/delete/token/{ALIAS}",
    "/internal/hashes",
    "/x",
]

# What pict-rs would fetch and store: `{url}` is a picture that waits at the origin.
FETCHES = [
    "/image/original?proxy={url}",
    "/image/original?pro%78y={url}",
    "/image/original?&&proxy={url}&x=%ff",
    f"/image/original?alias={ALIAS}&proxy={{url}}",
    "/image/%6Friginal?proxy={url}",
    "/image/blurhash?proxy={url}",
    "/image/process.webp?proxy={url}&thumbnail=256",
    "/image/process.webp?src=a&src=b&proxy={url}",
    "/image/process.a%2Fb?proxy={url}",
    "/image/process%2Exyz?proxy={url}",
]


@pytest.fixture
def unreachable_nginx(start_nginx: StartNginx) -> tuple[Nginx, str, str]:
    """nginx, and the addresses of a safety proxy and a pict-rs that do not answer."""
    proxy_url, pictrs_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    return start_nginx(proxy_url, pictrs_url), proxy_url, pictrs_url


async def test_only_plain_reads_go_straight_to_pictrs(
    unreachable_nginx: tuple[Nginx, str, str],
) -> None:
    """GET and HEAD of the listed forms are passed to pict-rs, everything else to the proxy."""
    nginx, proxy_url, pictrs_url = unreachable_nginx
    expected = [("GET", target, pictrs_url) for target in PLAIN_READS]
    expected += [("HEAD", target, pictrs_url) for target in PLAIN_READS]
    expected += [("GET", target, proxy_url) for target in NOT_PLAIN_READS]
    expected += [
        (method, target, proxy_url)
        for method in ("POST", "DELETE", "PUT", "OPTIONS")
        for target in PLAIN_READS + NOT_PLAIN_READS
    ]
    for method, target, _ in expected:
        await send_raw(nginx.url, target, method)
    assert [(method, target, url) for method, target, _, url in nginx.passed_to()] == expected


async def test_requests_are_passed_on_byte_for_byte(
    start_nginx: StartNginx, origin: Origin
) -> None:
    """What arrives is the request line that was judged, not nginx' own idea of it."""
    nginx = start_nginx(origin.url, origin.url)
    targets = PLAIN_READS + [target for target in NOT_PLAIN_READS if "#" not in target]
    for target in targets:
        await send_raw(nginx.url, target)
    assert [hit.target for hit in origin.hits] == targets


async def test_login_tokens_of_lemmys_users_are_dropped(
    start_nginx: StartNginx, origin: Origin
) -> None:
    """Cookie and Authorization end at nginx; the client's address stays the first of the list."""
    nginx = start_nginx(origin.url, origin.url)
    headers = (
        "Cookie: jwt=secret\r\nAuthorization: Bearer secret\r\nRange: bytes=0-9\r\n"
        "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 198.51.100.9:1234\r\n"
    )
    for target in (PLAIN_READS[0], "/image"):
        await send_raw(nginx.url, target, headers=headers)
    for hit in origin.hits:
        assert "secret" not in str(hit.headers)
        assert hit.headers["Range"] == "bytes=0-9"
        assert hit.headers["X-Forwarded-For"].startswith("192.0.2.7, ")
        assert hit.headers["X-Forwarded-For"].endswith(", 127.0.0.1")


async def test_answers_of_the_proxy_are_not_replaced(
    start_nginx: StartNginx, origin: Origin, client: ClientSession
) -> None:
    """Error texts of nginx never stand in for what the proxy says itself."""

    async def overloaded(_request: web.Request) -> web.Response:
        body = {"msg": "Try again", "code": "x"}
        return web.json_response(body, status=503, headers={"Retry-After": "3"})

    origin.route("/image", overloaded)
    nginx = start_nginx(origin.url, origin.url)
    async with client.post(f"{nginx.url}/image") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "3")
        assert await response.json() == {"msg": "Try again", "code": "x"}


async def test_a_stopped_proxy_is_answered_for_in_json(
    unreachable_nginx: tuple[Nginx, str, str], client: ClientSession
) -> None:
    """Lemmy understands no other answer than JSON with `msg`."""
    nginx, _, _ = unreachable_nginx
    status, answer = await upload(client, nginx.url, plain_png())
    assert status == 502
    assert answer["msg"]


async def test_an_upload_over_the_limit_is_answered_in_json(
    unreachable_nginx: tuple[Nginx, str, str], client: ClientSession
) -> None:
    """Over 40 MiB and the form around it nginx refuses by itself, as pict-rs would."""
    nginx, proxy_url, _ = unreachable_nginx
    status, answer = await upload(client, nginx.url, bytes(42 * MEBIBYTE))
    assert (status, answer["code"]) == (413, "validate-file-size")
    assert answer["msg"]
    assert proxy_url not in [url for *_, url in nginx.passed_to()]


async def test_reads_are_served_while_the_proxy_is_stopped(
    start_nginx: StartNginx, pictrs: PictRs, client: ClientSession
) -> None:
    """Pictures that are stored already need no scan, so they need no proxy."""
    body = plain_png("steelblue")
    _, stored = await upload(client, pictrs.url, body)
    nginx = start_nginx(f"http://127.0.0.1:{free_port()}", pictrs.url)
    async with client.get(f"{nginx.url}/image/original/{stored['files'][0]['file']}") as response:
        assert response.status == 200
        assert await response.read() == body


async def test_uploads_go_through_the_proxy_and_reads_do_not(
    nginx: Nginx, proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """An upload is scanned and stored, and is then read without the proxy."""
    scans = sum((await proxy.stats())["scans"]["by_action"].values())
    status, answer = await upload(client, nginx.url, plain_png("olive"))
    assert status == 201, answer
    assert sum((await proxy.stats())["scans"]["by_action"].values()) == scans + 1
    target = f"/image/original/{answer['files'][0]['file']}"
    await send_raw(nginx.url, target)
    assert nginx.passed_to()[-1] == ("GET", target, 200, pictrs.url)


async def test_a_large_upload_passes(nginx: Nginx, pictrs: PictRs, client: ClientSession) -> None:
    """30 MiB are below every limit."""
    body = plain_png("teal") + bytes(30 * MEBIBYTE)
    status, answer = await upload(client, nginx.url, body)
    assert status == 201, answer
    assert pictrs.holds(body)


@pytest.mark.parametrize("target", FETCHES)
async def test_no_spelling_of_a_fetch_reaches_pictrs(
    nginx: Nginx, proxy: SafetyProxy, pictrs: PictRs, origin: Origin, target: str
) -> None:
    """The proxy fetches, judges and refuses; pict-rs hears nothing of the address."""
    url = origin.put("/hidden.png", fresh("block", 90))
    before, stored = len(pictrs.log()), await pictrs.hashes()
    answer = await send_raw(nginx.url, target.format(url=quote(url, safe="")))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["msg"]
    assert nginx.passed_to()[-1][3] == proxy.url
    assert "hidden.png" not in pictrs.log()[before:]
    assert await pictrs.hashes() == stored
