"""The life of a proxied picture: known once, asked anew, replaced, purged, found after a crash."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from http import HTTPMethod
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, web
from yarl import URL

from tests.e2e.conftest import StartPictRs, StartSafetyProxy
from tests.e2e.harness import PICTRS_API_KEY, PICTRS_VERSIONS, Origin, PictRs, SafetyProxy
from tests.e2e.samples import fresh

KEY = {"X-Api-Token": PICTRS_API_KEY}
OURS = "safety-proxy-"
# An origin is asked anew after this, and pictures are deleted when nobody looks for so many days.
SOON = {"SAFETY_PROXY_PROXIED__REVALIDATE_SECONDS": "0.01"}


async def show(
    client: ClientSession,
    proxy: SafetyProxy,
    address: str,
    route: str = "image/original",
    method: str = HTTPMethod.GET,
) -> tuple[int, bytes]:
    """Status and body of a request by address."""
    target = URL(f"{proxy.url}/{route}?proxy={quote(address, safe='')}", encoded=True)
    async with client.request(method, target, headers=KEY) as answer:
        return answer.status, await answer.read()


async def ours(pictrs: PictRs) -> set[str]:
    """The aliases that the proxy has chosen."""
    return {alias for alias in await pictrs.aliases() if alias.startswith(OURS)}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when it holds; the test's own timeout ends a wait in vain."""
    while not await condition():  # noqa: ASYNC110 -- what is waited for happens elsewhere
        await asyncio.sleep(0.05)


async def test_picture_is_fetched_once_and_known_by_every_route(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, origin: Origin
) -> None:
    """Nothing by address before it was shown; then details, HEAD, aliases and identifier."""
    body = fresh("allow", 300)
    address = origin.put("/a.png", body)
    lookups = [
        ("image/details/original", HTTPMethod.GET),
        ("image/original", HTTPMethod.HEAD),
        ("internal/aliases", HTTPMethod.GET),
        ("internal/identifier", HTTPMethod.GET),
    ]
    for route, method in lookups:
        assert (await show(client, proxy, address, route, method))[0] == 404
    assert origin.hits == []
    before = await ours(pictrs)
    shown = await asyncio.gather(*(show(client, proxy, address) for _ in range(10)))
    assert shown == [(200, body)] * 10
    assert len(origin.hits) == 1
    assert len(await ours(pictrs) - before) == 1
    for route, method in lookups:
        assert (await show(client, proxy, address, route, method))[0] == 200
    assert len(origin.hits) == 1


async def test_address_as_lemmy_019_leaves_it_meets_the_encoded_one(
    proxy: SafetyProxy, client: ClientSession, origin: Origin
) -> None:
    """What the address itself brings along as parameters does nothing."""
    address = origin.put("/b.png", fresh("allow", 301)) + "&src=x&alias=y&thumbnail=3"
    raw = URL(f"{proxy.url}/image/original?proxy={address}", encoded=True)
    async with client.get(raw) as answer:
        assert await answer.read() == fresh("allow", 301)
    assert [hit.target for hit in origin.hits] == [address.removeprefix(origin.url)]
    assert (await show(client, proxy, address, "image/details/original"))[0] == 200
    assert len(origin.hits) == 1


@pytest.mark.parametrize("route", ["internal/purge", "internal/delete"])
async def test_picture_is_removed_by_its_address(
    route: str, proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, origin: Origin
) -> None:
    """Which Lemmy cannot do; only with the key, and it is fetched anew when it is asked for."""
    address = origin.put(f"/{route}.png", fresh("allow", 302))
    before = await ours(pictrs)
    assert (await show(client, proxy, address))[0] == 200
    target = URL(f"{proxy.url}/{route}?proxy={quote(address, safe='')}", encoded=True)
    async with client.post(target) as answer:
        assert answer.status == 401
    assert (await show(client, proxy, address, route, HTTPMethod.POST))[0] == 200

    async def is_removed() -> bool:
        return await ours(pictrs) <= before

    await until(is_removed)
    assert (await show(client, proxy, address, "image/details/original"))[0] == 404
    assert (await show(client, proxy, address, route, HTTPMethod.POST))[0] == 404
    assert (await show(client, proxy, address))[0] == 200
    assert len(origin.hits) == 2


async def test_picture_that_somebody_removed_from_pictrs_is_fetched_anew(
    proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, origin: Origin
) -> None:
    """As a purge of an upload of equal bytes does."""
    address = origin.put("/c.png", fresh("allow", 303))
    before = await ours(pictrs)
    assert (await show(client, proxy, address))[0] == 200
    (alias,) = await ours(pictrs) - before
    async with client.post(f"{pictrs.url}/internal/purge?alias={alias}", headers=KEY) as answer:
        assert answer.status == 200
    assert await show(client, proxy, address) == (200, fresh("allow", 303))


@pytest.mark.parametrize("version", PICTRS_VERSIONS)
async def test_origin_is_asked_whether_it_has_changed(
    version: str,
    start_pictrs: StartPictRs,
    start_proxy: StartSafetyProxy,
    client: ClientSession,
    origin: Origin,
) -> None:
    """Unchanged keeps, changed is judged and replaces, blocked and gone are not shown any more."""
    pictrs = start_pictrs(version=version)
    proxy = start_proxy(pictrs.url, **SOON)
    address = origin.put("/d.png", fresh("allow", 304))
    assert (await show(client, proxy, address))[0] == 200
    first = await ours(pictrs)

    async def shows(body: bytes) -> bool:
        return (await show(client, proxy, address))[1] == body

    async def asked_again(times: int = len(origin.hits)) -> bool:
        await show(client, proxy, address)
        return len(origin.hits) > times + 2

    await until(asked_again)
    assert await ours(pictrs) == first

    origin.put("/d.png", fresh("allow", 305))
    await until(lambda: shows(fresh("allow", 305)))

    async def one_is_left() -> bool:
        return len(await ours(pictrs)) == 1

    await until(one_is_left)  # the picture that it replaced is removed
    assert await ours(pictrs) != first

    origin.put("/d.png", fresh("block", 306))

    async def is_refused() -> bool:
        return (await show(client, proxy, address))[0] == 400

    await until(is_refused)

    async def none_is_left() -> bool:
        return not await ours(pictrs)

    await until(none_is_left)
    assert not pictrs.holds(fresh("block", 306))

    origin.put("/d.png", fresh("allow", 307))
    assert (await show(client, proxy, address))[0] == 200

    async def gone(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=410)

    origin.route("/d.png", gone)

    async def is_gone() -> bool:
        return (await show(client, proxy, address))[0] == 500

    await until(is_gone)
    await until(none_is_left)


async def test_what_is_known_survives_a_restart_and_a_crash(
    start_pictrs: StartPictRs,
    start_proxy: StartSafetyProxy,
    client: ClientSession,
    origin: Origin,
) -> None:
    """The address is not fetched again."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url)
    address = origin.put("/e.png", fresh("allow", 308))
    assert (await show(client, proxy, address))[0] == 200
    for end in (proxy.stop, proxy.kill):
        await asyncio.to_thread(end)
        await asyncio.to_thread(proxy.start)
        assert await show(client, proxy, address) == (200, fresh("allow", 308))
    assert len(origin.hits) == 1


async def test_crash_while_pictrs_is_given_a_picture_leaves_nothing_unknown(
    start_pictrs: StartPictRs,
    start_proxy: StartSafetyProxy,
    client: ClientSession,
    origin: Origin,
) -> None:
    """Whatever pict-rs has stored by then is in the table, and so can be removed."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url)
    for number in range(4):
        address = origin.put(f"/{number}.png", fresh("allow", 310 + number))
        showing = asyncio.get_running_loop().create_task(show(client, proxy, address))
        while len(origin.hits) <= number:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.001)
        await asyncio.sleep(number * 0.008)  # somewhere between the fetch and the answer
        await asyncio.to_thread(proxy.kill)
        await asyncio.wait([showing])
        showing.exception()
        await asyncio.to_thread(proxy.start)
    await asyncio.to_thread(proxy.stop)
    known = await asyncio.to_thread(aliases_in_table, proxy)
    assert await ours(pictrs) <= known


def aliases_in_table(proxy: SafetyProxy) -> set[str]:
    """All that the proxy knows it may have brought into pict-rs."""
    with closing(sqlite3.connect(proxy.folder / "store" / "safety-proxy.sqlite3")) as connection:
        return {alias for (alias,) in connection.execute("SELECT alias FROM proxied")}


async def test_without_the_key_proxied_images_are_not_offered(
    start_pictrs: StartPictRs, start_proxy: StartSafetyProxy, client: ClientSession, origin: Origin
) -> None:
    """501 that names the setting; nobody is asked, and everything else works."""
    pictrs = start_pictrs()
    proxy = start_proxy(pictrs.url, SAFETY_PROXY_UPSTREAM__API_KEY="")
    status, body = await show(client, proxy, origin.put("/f.png", fresh("allow", 330)))
    assert status == 501
    assert b"upstream.api_key" in body
    assert origin.hits == []
