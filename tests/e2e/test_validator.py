"""The validator's door, asked by a real pict-rs: beside the proxy, and without it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import BytesIO
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientSession, FormData
from PIL import Image

from safety_proxy.store.hashlist import test_picture as blocked_by_hash
from tests.e2e.harness import (
    PICTRS_VERSIONS,
    VALIDATOR_ID,
    Origin,
    PictRs,
    SafetyProxy,
    free_port,
    missing,
    plain_png,
    upload,
)
from tests.e2e.samples import bodies, fresh, padded

REFUSED = "failed-external-validation"
MEBIBYTE = 1024 * 1024
WEBM = bytes.fromhex("1a45dfa3 9f 4286810142f7810142f2810442f381084282847765626d") + bytes(500)
BOUNDARY = "a-boundary"


class Pair(NamedTuple):
    """A pict-rs that asks the validator of this proxy, and is where the proxy stores."""

    pictrs: PictRs
    proxy: SafetyProxy


StartPair = Callable[..., Pair]


def asking(port: int, *, host: str = "127.0.0.1", the_id: str = VALIDATOR_ID) -> dict[str, str]:
    """The setting that lets pict-rs ask the validator on this port."""
    return {"PICTRS__MEDIA__EXTERNAL_VALIDATION": f"http://{host}:{port}/api/v1/scan/{the_id}"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, version: str) -> Iterator[Pair]:
    """One for all tests that break nothing."""
    port = free_port()
    settings: dict[str, Any] = asking(port)
    pictrs = PictRs(tmp_path_factory.mktemp("pictrs"), version=version, **settings)
    proxy = SafetyProxy(
        tmp_path_factory.mktemp("proxy"), pictrs.url, SAFETY_PROXY_VALIDATOR__PORT=str(port)
    )
    with ExitStack() as stack:
        for server in (pictrs, proxy):
            server.start()
            stack.callback(server.stop)
        yield Pair(pictrs, proxy)


@pytest.fixture
def start_pair(
    start_pictrs: Callable[..., PictRs], start_proxy: Callable[..., SafetyProxy], version: str
) -> StartPair:
    """One for a test alone: `start_pair(real=..., settings of pict-rs)`; `asks`: see `asking`."""

    def start(*, asks: dict[str, str] | None = None, **options: Any) -> Pair:
        port = free_port()
        settings = {**asking(port, **(asks or {})), **options}
        pictrs = start_pictrs(version=version, **settings)
        return Pair(pictrs, start_proxy(pictrs.url, SAFETY_PROXY_VALIDATOR__PORT=str(port)))

    return start


def whole(body: bytes) -> bytes:
    """`body` and 3 MiB of zeros behind its end, which no decoder looks at.

    pict-rs 0.6.0-rc.6 does not flush a file before it reads it for its validator: what its last
    write holds may be missing there, which is up to 2 MiB (docs/validator.md).
    """
    return body + bytes(3 * MEBIBYTE)


def sample(action: str, number: int) -> bytes:
    """A picture that has no copy in the store yet."""
    return whole(fresh(action, number))


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it holds of pict-rs' store: what was refused is removed after the answer."""
    while True:
        with suppress(FileNotFoundError):  # a folder that goes while it is listed
            if condition():
                return
        await asyncio.sleep(0.02)


async def keeps(pictrs: PictRs, body: bytes, *, wanted: bool) -> None:
    """Returns when these very bytes are in its store, or are not."""
    await until(lambda: pictrs.holds(body) is wanted)


async def verdicts(proxy: SafetyProxy) -> int:
    """How many pictures were judged, known ones included."""
    count: int = sum((await proxy.stats())["verdicts"]["by_action"].values())
    return count


async def straight(
    client: ClientSession, pictrs: PictRs, body: bytes
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an upload past the proxy; pict-rs logs the names of files it refuses."""
    form = FormData()
    form.add_field("images[]", BytesIO(body), filename="x.png")
    async with client.post(f"{pictrs.url}/image", data=form) as response:
        return response.status, await response.json()


def message_of(pictrs: PictRs) -> str:
    """What users see of a refusal: a sentence of pict-rs' own."""
    is_new = pictrs.version.startswith("0.6.")
    return "Failed to upload file to url" if is_new else "Failed external validation"


async def test_each_sample_gets_from_pictrs_what_the_proxy_would_say(
    pair: Pair, client: ClientSession
) -> None:
    """Sent straight to pict-rs: what the proxy would block is refused, all else is stored."""
    for action in ("allow", "flag", "block"):
        for body in map(whole, bodies(action)):
            status, answer = await straight(client, pair.pictrs, body)
            by_proxy, _ = await upload(client, pair.proxy.url, body)
            assert status == by_proxy == (400 if action == "block" else 201)
            if action == "block":
                assert answer == {"msg": message_of(pair.pictrs), "code": REFUSED}
    for action in ("allow", "flag", "block"):
        for body in map(whole, bodies(action)):
            await keeps(pair.pictrs, body, wanted=action != "block")


async def test_refused_picture_leaves_nothing_in_the_store(
    pair: Pair, client: ClientSession
) -> None:
    """pict-rs removes the file that it has shown; what cannot be read is refused as well."""
    before = await pair.pictrs.hashes()
    refused = [sample("block", 101), blocked_by_hash(), WEBM, b"no picture", plain_png()[:60]]
    for body in refused:
        status, answer = await straight(client, pair.pictrs, body)
        assert (status, answer["code"]) == (400, REFUSED)
    assert await pair.pictrs.hashes() == before
    for body in refused:
        await keeps(pair.pictrs, body, wanted=False)


async def test_download_past_the_proxy_is_judged(
    pair: Pair, client: ClientSession, origin: Origin
) -> None:
    """Where pict-rs fetches by itself, the validator is the only one who looks."""
    before = await pair.pictrs.hashes()
    address = origin.put("/blocked.png", sample("block", 102))
    async with client.get(f"{pair.pictrs.url}/image/download?url={address}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, REFUSED)
    async with client.get(f"{pair.pictrs.url}/image/original?proxy={address}") as answer:
        assert answer.status == 400
    assert await pair.pictrs.hashes() == before
    address = origin.put("/clean.png", sample("allow", 102))
    async with client.get(f"{pair.pictrs.url}/image/download?url={address}") as answer:
        assert answer.status == 201


async def test_background_upload_is_refused_when_it_is_claimed(
    pair: Pair, client: ClientSession
) -> None:
    """The upload itself is accepted before anybody has looked."""
    for number, action, expected in ((103, "block", 422), (104, "allow", 200)):
        body = sample(action, number)
        form = {"images[]": BytesIO(body)}
        async with client.post(f"{pair.pictrs.url}/image/backgrounded", data=form) as answer:
            assert answer.status == 202
            ticket = (await answer.json())["uploads"][0]["upload_id"]
        claim = f"{pair.pictrs.url}/image/backgrounded/claim?upload_id={ticket}"
        async with client.get(claim) as answer:
            while answer.status == 204:  # not done yet
                await asyncio.sleep(0.05)
                answer = await client.get(claim)  # noqa: PLW2901 -- the next answer
            assert answer.status == expected
        await keeps(pair.pictrs, body, wanted=action == "allow")


async def test_duplicates_are_judged_each_time_and_cost_no_forward_pass(
    pair: Pair, client: ClientSession
) -> None:
    """pict-rs asks before it looks whether it has the picture."""
    for body, status in ((sample("allow", 105), 201), (sample("block", 105), 400)):
        assert (await straight(client, pair.pictrs, body))[0] == status
        before = (await pair.proxy.forward_passes(), await verdicts(pair.proxy))
        for _ in range(3):
            assert (await straight(client, pair.pictrs, body))[0] == status
        after = (await pair.proxy.forward_passes(), await verdicts(pair.proxy))
        assert after == (before[0], before[1] + 3)


async def test_upload_through_both_doors_is_seen_twice_and_looked_at_once(
    pair: Pair, client: ClientSession
) -> None:
    """The proxy judges it, and pict-rs has it judged again before it keeps it."""
    before = (await pair.proxy.forward_passes(), await verdicts(pair.proxy))
    body = whole(plain_png("teal"))  # no sample is like it
    assert (await upload(client, pair.proxy.url, body))[0] == 201
    after = (await pair.proxy.forward_passes(), await verdicts(pair.proxy))
    assert after == (before[0] + 1, before[1] + 2)


async def test_large_picture_passes_through_both_doors(pair: Pair, client: ClientSession) -> None:
    """Of 30 MB, in thousands of chunks."""
    body = padded(fresh("allow", 107), 30 * MEBIBYTE)
    assert (await straight(client, pair.pictrs, body))[0] == 201
    assert (await upload(client, pair.proxy.url, body))[0] == 201
    assert pair.proxy.spooled_files() == []


async def test_twenty_simultaneous_uploads_are_all_judged(
    pair: Pair, client: ClientSession
) -> None:
    """Clean and blocked ones, each gets its own answer."""
    wanted = [("allow", 201), ("block", 400)] * 10
    answers = await asyncio.gather(
        *(
            straight(client, pair.pictrs, sample(action, 110 + number))
            for number, (action, _) in enumerate(wanted)
        )
    )
    assert [status for status, _ in answers] == [status for _, status in wanted]


async def test_id_that_is_not_served_lets_nothing_in(
    start_pair: StartPair, client: ClientSession
) -> None:
    """A mistake in the URL shows at the first upload, and neither id stands in the log."""
    pair = start_pair(asks={"the_id": "a-mistaken-id"})
    status, answer = await straight(client, pair.pictrs, sample("allow", 131))
    assert (status, answer["code"]) == (400, REFUSED)
    assert await pair.pictrs.hashes() == []
    log = pair.proxy.log()
    assert "validator refused a client" in log
    assert "mistaken" not in log
    assert VALIDATOR_ID not in log


async def test_proxy_that_hangs_lets_nothing_in(
    start_pair: StartPair, client: ClientSession
) -> None:
    """pict-rs gives up after its own time; once the proxy goes on, so do uploads."""
    pair = start_pair(PICTRS__MEDIA__EXTERNAL_VALIDATION_TIMEOUT="2")
    pair.proxy.pause()
    status, answer = await straight(client, pair.pictrs, sample("allow", 132))
    assert (status, answer["code"]) == (500, "http-client-error")
    assert await pair.pictrs.hashes() == []
    await until(lambda: pair.pictrs.stored_files() == [])
    pair.proxy.resume()
    assert (await straight(client, pair.pictrs, sample("allow", 132)))[0] == 201
    assert pair.proxy.spooled_files() == []


async def test_proxy_that_is_away_lets_nothing_in_and_a_restart_heals(
    start_pair: StartPair, client: ClientSession
) -> None:
    """Neither stopped nor crashed; what it knew is gone, and pictures are judged anew."""
    pair = start_pair()
    for end in (pair.proxy.stop, pair.proxy.kill):
        await asyncio.to_thread(end)
        status, answer = await straight(client, pair.pictrs, sample("allow", 133))
        assert (status, answer["code"]) == (500, "http-client-error")
        assert await pair.pictrs.hashes() == []
        await asyncio.to_thread(pair.proxy.start)
        assert (await straight(client, pair.pictrs, sample("block", 133)))[0] == 400
    assert (await straight(client, pair.pictrs, sample("allow", 133)))[0] == 201


async def test_upload_in_flight_at_a_stop_still_finds_the_validator(
    start_pair: StartPair,
) -> None:
    """The proxy lets it end, and pict-rs asks the same proxy about it."""
    pair = start_pair()
    picture = sample("allow", 134)
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images[]"; filename="x.png"\r\n\r\n'
    ).encode() + picture
    body += f"\r\n--{BOUNDARY}--\r\n".encode()
    host, _, port = pair.proxy.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(
            (
                f"POST /image HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
            ).encode()
            + body[:-50]
        )
        await writer.drain()
        await asyncio.sleep(0.3)
        stopping = asyncio.get_running_loop().run_in_executor(None, pair.proxy.stop)
        await asyncio.sleep(1)
        writer.write(body[-50:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
    finally:
        writer.close()
        await writer.wait_closed()
    assert await stopping == 0
    assert pair.pictrs.holds(picture)


async def test_host_name_of_a_private_address_needs_a_setting_of_pictrs(
    start_pictrs: Callable[..., PictRs],
    start_proxy: Callable[..., SafetyProxy],
    version: str,
    client: ClientSession,
) -> None:
    """As docs/validator.md says; with the setting missing, nothing is let in."""
    if not await _has_ipv4("localhost"):
        missing("localhost is no IPv4 address here")
    port = free_port()
    cases = [("127.0.0.1", "false", 201), ("localhost", "false", 500), ("localhost", "true", 201)]
    servers: list[PictRs] = []
    for host, local, _ in cases:
        options = {"PICTRS__CLIENT__ALLOW_LOCAL_CONNECTIONS": local}
        servers.append(start_pictrs(version=version, **asking(port, host=host), **options))
    start_proxy(servers[0].url, SAFETY_PROXY_VALIDATOR__PORT=str(port))
    for pictrs, (*_, status) in zip(servers, cases, strict=True):
        assert (await straight(client, pictrs, sample("allow", 135)))[0] == status
        assert (await straight(client, pictrs, sample("block", 135)))[0] in {400, 500}


async def _has_ipv4(name: str) -> bool:
    found = await asyncio.get_running_loop().getaddrinfo(name, None)
    return any(address[0] == "127.0.0.1" for *_, address in found)


async def test_stripped_picture_costs_no_second_forward_pass(
    start_pair: StartPair, client: ClientSession
) -> None:
    """A real pict-rs strips the metadata: other bytes, and the crops that were judged already."""
    pair = start_pair(real=True)
    picture = BytesIO()
    with Image.open(BytesIO(fresh("allow", 136))) as image:
        exif = Image.Exif()
        exif[0x010F] = "A camera"  # Make
        exif[0x010E] = "A description"
        large = image.convert("RGB").resize((2000, 2000))
        large.save(picture, "JPEG", exif=exif, quality=100)
    before = (await pair.proxy.forward_passes(), await verdicts(pair.proxy))
    status, answer = await upload(client, pair.proxy.url, picture.getvalue())
    assert status == 201
    assert not pair.pictrs.holds(picture.getvalue())
    after = (await pair.proxy.forward_passes(), await verdicts(pair.proxy))
    assert after == (before[0] + 1, before[1] + 2)
    alias = answer["files"][0]["file"]
    async with client.get(f"{pair.pictrs.url}/image/original/{alias}") as stored:
        with Image.open(BytesIO(await stored.read())) as image:
            assert not image.getexif()


@pytest.mark.parametrize("version", PICTRS_VERSIONS[:1])
async def test_real_pictrs_asks_about_each_kind_of_picture(
    start_pair: StartPair, client: ClientSession
) -> None:
    """The samples are PNG, JPEG and WebP; what pict-rs makes of them is judged alike."""
    pair = start_pair(real=True)
    for action, expected in (("block", 400), ("allow", 201)):
        for body in bodies(action):
            status, answer = await straight(client, pair.pictrs, body)
            assert status == expected, answer
    assert len(await pair.pictrs.hashes()) == len(bodies("allow"))
