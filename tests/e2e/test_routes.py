"""Every route of pict-rs through the proxy: reads untouched, ways round the scan closed."""

import hashlib
from http import HTTPMethod

import pytest
from aiohttp import ClientSession, FormData
from yarl import URL

from tests.e2e.harness import (
    PICTRS_API_KEY,
    PictRs,
    SafetyProxy,
    upload,
)
from tests.e2e.samples import fresh

# Of an answer, what a browser or Lemmy acts on.
HEADERS = (
    "Accept-Ranges",
    "Cache-Control",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "Etag",
    "Last-Modified",
)

READS = [
    ("GET", {}),
    ("HEAD", {}),
    ("GET", {"Range": "bytes=0-1"}),
    ("GET", {"Range": "bytes=-10"}),
    ("GET", {"Range": "bytes=0-1048575"}),
    ("GET", {"Range": "bytes=99999999-"}),
    ("GET", {"Range": "lines=1-2"}),
    ("HEAD", {"Range": "bytes=0-1"}),
    ("GET", {"If-None-Match": "ETAG"}),
    ("GET", {"If-Match": '"other"'}),
    ("GET", {"If-Modified-Since": "LAST_MODIFIED"}),
    ("GET", {"Range": "bytes=0-9", "If-Range": "ETAG"}),
    ("GET", {"Range": "bytes=0-9", "If-Range": '"other"'}),
    ("GET", {"Accept-Encoding": "gzip"}),
]


@pytest.mark.parametrize(("method", "headers"), READS)
async def test_read_of_an_alias_is_as_without_the_proxy(
    proxy: SafetyProxy,
    pictrs: PictRs,
    client: ClientSession,
    method: str,
    headers: dict[str, str],
) -> None:
    """Status, headers and body hash of the direct and of the proxied answer are equal."""
    _, stored = await upload(client, pictrs.url, fresh("allow", 20))
    path = f"/image/original/{stored['files'][0]['file']}"
    async with client.get(pictrs.url + path) as plain:
        known = {"ETAG": plain.headers["Etag"], "LAST_MODIFIED": plain.headers["Last-Modified"]}
    sent = {name: known.get(value, value) for name, value in headers.items()}
    assert await _seen(client, method, proxy.url + path, sent) == await _seen(
        client, method, pictrs.url + path, sent
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (HTTPMethod.GET, "/healthz"),
        (HTTPMethod.GET, "/image/original/none.png"),
        (HTTPMethod.HEAD, "/image/original/none.png"),
        (HTTPMethod.GET, "/image/original?alias=ALIAS"),
        (HTTPMethod.GET, "/image/details/original/ALIAS"),
        (HTTPMethod.GET, "/image/details/original?alias=ALIAS"),
        (HTTPMethod.GET, "/image/details/process.png?src=ALIAS&thumbnail=20"),
        (HTTPMethod.GET, "/image/process.xyz?src=ALIAS"),
        (HTTPMethod.HEAD, "/image/process.png?src=ALIAS&thumbnail=20"),
        (HTTPMethod.GET, "/image/blurhash?alias=ALIAS"),
        (
            HTTPMethod.GET,
            "/image/backgrounded/claim?upload_id=00000000-0000-0000-0000-000000000000",
        ),
        (HTTPMethod.GET, "/image/delete/00000000-0000-0000-0000-000000000000/ALIAS"),
        (HTTPMethod.GET, "/internal/hashes"),
        (HTTPMethod.GET, "/internal/aliases?alias=ALIAS"),
        (HTTPMethod.GET, "/internal/identifier?alias=ALIAS"),
        (HTTPMethod.POST, "/internal/purge?alias=none.png"),
        (HTTPMethod.POST, "/internal/set_not_found"),
    ],
)
async def test_route_that_stores_nothing_answers_as_pictrs(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, method: str, path: str
) -> None:
    """With the API token and without it."""
    _, stored = await upload(client, pictrs.url, fresh("allow", 20))
    path = path.replace("ALIAS", stored["files"][0]["file"])
    for headers in ({}, {"X-Api-Token": PICTRS_API_KEY}):
        assert await _seen(client, method, proxy.url + path, headers) == await _seen(
            client, method, pictrs.url + path, headers
        )


async def test_picture_is_deleted_through_the_proxy(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """The delete token of the upload's answer works, as Lemmy uses it."""
    _, stored = await upload(client, proxy.url, fresh("allow", 21))
    file = stored["files"][0]
    path = f"/image/delete/{file['delete_token']}/{file['file']}"
    async with client.delete(proxy.url + path) as answer:
        assert answer.status == 204
    assert file["file"] not in await pictrs.aliases()


async def test_session_token_never_reaches_pictrs_or_a_log(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession
) -> None:
    """Lemmy passes the user's live token on; it ends at the proxy."""
    secrets = {"Authorization": "Bearer planted-secret-1", "Cookie": "jwt=planted-secret-2"}
    form = _form(fresh("allow", 24))
    async with client.post(f"{proxy.url}/image", data=form, headers=secrets) as answer:
        alias = (await answer.json())["files"][0]["file"]
    async with client.get(f"{proxy.url}/image/original/{alias}", headers=secrets) as answer:
        assert answer.status == 200
    assert "planted-secret" not in proxy.log() + pictrs.log()


def _form(body: bytes) -> FormData:
    form = FormData()
    form.add_field("images[]", body, filename="a.png")
    return form


async def _seen(
    client: ClientSession, method: str, url: str, headers: dict[str, str]
) -> tuple[int, dict[str, str], str]:
    async with client.request(
        method, URL(url, encoded=True), headers=headers, auto_decompress=False
    ) as answer:
        body = await answer.read()
        kept = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
        return answer.status, kept, hashlib.sha256(body).hexdigest()
