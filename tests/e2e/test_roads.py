"""Every road by which bytes enter pict-rs, in every tried spelling: clean as without us, or never.

The roads are those of pict-rs' surface, section 1, the spellings its traps, section 2. Each is
tried on both versions with a blocked picture, after which pict-rs' hashes and files are looked at,
and with a clean one, beside which the same is asked of pict-rs itself.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import pytest
from aiohttp import ClientSession

from safety_proxy.proxy.server import PLACEHOLDER
from tests.e2e.harness import (
    PICTRS_API_KEY,
    SECRET_ADDRESS,
    SECRET_HEADERS,
    Origin,
    PictRs,
    SafetyProxy,
    send_raw,
    upload,
)
from tests.e2e.samples import fresh
from tests.e2e.test_upload import shape

BOUNDARY = "a-boundary"
UPLOAD_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
PART = 'Content-Disposition: form-data; name="images[]"; filename="NAME"'


@dataclass(frozen=True)
class Road:
    """A request that brings a picture in.

    target: ADDRESS stands for where the picture lies, RAW for the same unescaped, ALIAS for a
    picture that is stored already. body: makes the body of an upload from a picture.
    accepted: statuses of a clean one.
    """

    target: str
    method: str = "GET"
    body: Callable[[bytes], bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: tuple[int, ...] = (200,)

    def __str__(self) -> str:
        about = " ".join(f"{name}:{value}" for name, value in self.headers.items())
        return f"{self.method} {self.target} {about}".strip().replace(BOUNDARY, "B")


def form(*pictures: bytes, head: str = PART) -> bytes:
    """A multipart body with these part headers."""
    parts = [
        f"--{BOUNDARY}\r\n{head.replace('NAME', f'{uuid4()}.png')}\r\n\r\n".encode()
        + picture
        + b"\r\n"
        for picture in pictures
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post(
    target: str = "/image",
    head: str = PART,
    *,
    content_type: str = UPLOAD_TYPE,
    before: bytes = b"",
    accepted: tuple[int, ...] = (201, 202),
    **headers: str,
) -> Road:
    """An upload in some spelling."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Road(
        target,
        "POST",
        lambda picture: before + form(picture, head=head),
        {"Content-Type": content_type, **named},
        accepted,
    )


UPLOADS = [
    post(),
    post("/%69mage"),
    post("/image?resize=%31%30"),
    post("/image/backgrounded"),
    post("/image/background%65d"),
    post("/internal/import", X_Api_Token=PICTRS_API_KEY),
    post("/internal/im%70ort", X_Api_Token=PICTRS_API_KEY),
    post("http://other/image"),
    post(head='Content-Disposition: form-data; name="images][]"; filename="NAME"'),
    post(head="Content-Disposition: form-data; name=images[]; filename=NAME"),
    post(head=f"{PART}\r\nContent-Type: image/png"),
    post(head=f"{PART}\r\nContent-Transfer-Encoding: base64"),
    post(head=f"{PART}\r\nX-Other: 1"),
    post(content_type=f"multipart/mixed; boundary={BOUNDARY}"),
    post(content_type=f"multipart/related; boundary={BOUNDARY}"),
    post(content_type=f"MULTIPART/FORM-DATA; boundary={BOUNDARY}"),
    post(content_type=f'multipart/form-data; boundary="{BOUNDARY}"'),
    post(before=b"junk before it\r\n"),
    post(Transfer_Encoding="chunked"),
    Road(
        "/image",
        "POST",
        lambda picture: form(fresh("allow", 70), picture, fresh("allow", 71)),
        {"Content-Type": UPLOAD_TYPE},
        (201,),
    ),
]

# What pict-rs refuses whatever the picture is, and so do we.
REFUSED_UPLOADS = [
    post("/internal/import", accepted=(401,)),
    post("/internal/import", X_Api_Token="wrong", accepted=(401,)),
    Road(
        "/image",
        "POST",
        lambda picture: gzip.compress(form(picture)),
        {"Content-Type": UPLOAD_TYPE, "Content-Encoding": "gzip"},
        (400,),
    ),
    post(
        head="Content-Disposition: form-data; name=\"images[]\"; filename*=UTF-8''x.png",
        accepted=(400,),
    ),
    post(head='Content-Disposition: form-data; name="images[]"', accepted=(400,)),
    post(head='Content-Disposition: form-data; name="other"; filename="NAME"', accepted=(400,)),
    post(head='Content-Disposition: form-data; name="images"; filename="NAME"', accepted=(400,)),
    post("/image/", accepted=(404,)),
    post("//image", accepted=(404,)),
    post("/IMAGE", accepted=(404,)),
    post("/image%2Fbackgrounded", accepted=(404,)),
]

DOWNLOADS = [
    Road("/image/download?url=ADDRESS", accepted=(201,)),
    Road("/image/download?url=RAW", accepted=(201,)),
    Road("/image/download?url=ADDRESS&resize=20", accepted=(201,)),
    Road("/image/download?url=ADDRESS&backgrounded=false", accepted=(201,)),
    Road("/image/download?url=ADDRESS&backgrounded=true", accepted=(202,)),
    Road("/image/downloa%64?url=ADDRESS", accepted=(201,)),
    Road("/image/download?%75rl=ADDRESS", accepted=(201,)),
    Road("http://other/image/download?url=ADDRESS", accepted=(201,)),
]

PROXIED = [
    Road("/image/original?proxy=ADDRESS"),
    Road("/image/original?proxy=RAW"),
    Road("/image/%6Friginal?proxy=ADDRESS"),
    Road("/%69mage/original?proxy=ADDRESS"),
    Road("/image/original?pro%78y=ADDRESS"),
    Road("/image/original?&&proxy=ADDRESS&&"),
    Road("/image/original?x=%ff&proxy=ADDRESS"),
    Road("http://other/image/original?proxy=ADDRESS"),
    Road("/image/original?proxy=ADDRESS", headers={"Range": "bytes=0-9"}, accepted=(206,)),
    Road("/image/blurhash?proxy=ADDRESS"),
    Road("/image/process.png?proxy=ADDRESS&thumbnail=20"),
    Road("/image/process%2Epng?proxy=ADDRESS"),
    Road("/image/process.xyz?proxy=ADDRESS", accepted=(400,)),
    Road("/image/process.a%2Fb?proxy=ADDRESS", accepted=(400, 404)),
]

# Sources that pict-rs chooses among by rules of its own; nothing is chosen here.
AMBIGUOUS = [
    "/image/original?alias=ALIAS&proxy=ADDRESS",
    "/image/blurhash?alias=ALIAS&proxy=ADDRESS",
    "/image/process.png?src=ALIAS&proxy=ADDRESS",
    "/image/process.png?alias=ALIAS&proxy=ADDRESS",
    "/image/process.png?src=ALIAS&src=ALIAS&proxy=ADDRESS",
    "/image/process.png?alias=ALIAS&alias=ALIAS&proxy=ADDRESS",
    "/image/original?proxy=ADDRESS&proxy=ADDRESS",
    "/image/download?url=ADDRESS&url=ADDRESS",
    "/image/download?url=ADDRESS&%75rl=ADDRESS",
]

# No fetch, on pict-rs' own word.
NO_ROADS = [
    ("HEAD", "/image/original?proxy=ADDRESS"),
    ("HEAD", "/image/process.png?proxy=ADDRESS"),
    ("GET", "/image/process_backgrounded.png?proxy=ADDRESS"),
    ("GET", "/image/details/original?proxy=ADDRESS"),
    ("GET", "/image/details/process.png?proxy=ADDRESS"),
    ("GET", "/image/original/ALIAS?proxy=ADDRESS"),
    ("POST", "/internal/purge?proxy=ADDRESS"),
    ("POST", "/internal/delete?proxy=ADDRESS"),
    ("GET", "/internal/aliases?proxy=ADDRESS"),
    ("GET", "/internal/identifier?proxy=ADDRESS"),
    ("HEAD", "/image/download?url=ADDRESS"),
    ("POST", "/image/download?url=ADDRESS"),
    ("GET", "/image%2Fdownload?url=ADDRESS"),
    ("GET", "/image%2Foriginal?proxy=ADDRESS"),
    ("GET", "//image/original?proxy=ADDRESS"),
    ("GET", "/image/./original?proxy=ADDRESS"),
    ("GET", "/image/x/../original?proxy=ADDRESS"),
    ("GET", "/image/original;x?proxy=ADDRESS"),
    ("GET", "/image/original?PROXY=ADDRESS"),
    ("GET", "/image/original?x=1;proxy=ADDRESS"),
]


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    head: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def travel(url: str, road: Road, picture: bytes, address: str = "") -> Reply:
    """The answer at `url` to a request that no client library has tidied up."""
    target = road.target.replace("ADDRESS", quote(address, safe="")).replace("RAW", address)
    body = road.body(picture) if road.body else b""
    headers = {**SECRET_HEADERS, **road.headers}
    if headers.get("Transfer-Encoding") == "chunked":
        body = b"".join(
            f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n"
            for chunk in (body[start : start + 777] for start in range(0, len(body), 777))
        )
        body += b"0\r\n\r\n"
    elif body:
        headers["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw = await send_raw(url, target, road.method, lines, body)
    head, _, rest = raw.partition(b"\r\n\r\n")
    return Reply(int(head.split()[1]), head.decode("latin1"), unchunked(head, rest))


def unchunked(head: bytes, body: bytes) -> bytes:
    """The body behind this head."""
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
        if not int(size, 16):
            break
    return whole


class Contents(NamedTuple):
    """What pict-rs has. It removes what was deleted in its own time, so only what is new tells."""

    hashes: set[str]
    aliases: set[str]


async def contents(pictrs: PictRs) -> Contents:
    """What is in pict-rs now."""
    entries = await pictrs.hashes()
    aliases = {alias for entry in entries for alias in entry["aliases"]}
    return Contents({entry["hex"] for entry in entries}, aliases)


class Numbers:
    """Pictures that no test has sent before."""

    def __init__(self) -> None:
        self._last = 1000

    def next(self, action: str) -> bytes:
        self._last += 1
        return fresh(action, self._last)


NUMBERS = Numbers()


@pytest.mark.parametrize("road", UPLOADS + DOWNLOADS + PROXIED, ids=str)
async def test_blocked_picture_never_enters(
    road: Road, proxy: SafetyProxy, pictrs: PictRs, origin: Origin
) -> None:
    """Neither a hash nor an alias nor a file of it is in pict-rs, and it was told no address."""
    picture = NUMBERS.next("block")
    address = origin.put("/blocked.png", picture)
    await store_placeholder(proxy, origin)
    before, files, log = await contents(pictrs), pictrs.stored_files(), len(pictrs.log())
    reply = await travel(proxy.url, road, picture, address)
    if road in DOWNLOADS:
        assert reply.status in road.accepted
        if reply.status == 202:
            await claim(proxy.url, reply.json["uploads"][0]["upload_id"])
        assert pictrs.holds(PLACEHOLDER.read_bytes())
    else:
        assert reply.status == 400
        assert reply.json["code"] == "failed-external-validation"
        assert (await contents(pictrs)).aliases <= before.aliases
    assert (await contents(pictrs)).hashes <= before.hashes
    assert set(pictrs.stored_files()) <= set(files)
    assert not pictrs.holds(picture)
    assert SECRET_ADDRESS not in pictrs.log()[log:]
    assert SECRET_ADDRESS not in reply.head + reply.body.decode("latin1")


@pytest.mark.parametrize("road", UPLOADS, ids=str)
async def test_clean_upload_is_as_without_us(
    road: Road, proxy: SafetyProxy, pictrs: PictRs
) -> None:
    """Status and JSON of the direct and of the proxied answer are equal, and the bytes are in."""
    replies = []
    for url in (pictrs.url, proxy.url):
        picture = NUMBERS.next("allow")
        reply = await travel(url, road, picture)
        assert reply.status in road.accepted
        if reply.status == 202:
            await claim(url, reply.json["uploads"][0]["upload_id"])
        assert pictrs.holds(picture)
        replies.append((reply.status, shape(reply.json)))
    assert replies[0] == replies[1]


@pytest.mark.parametrize("road", REFUSED_UPLOADS, ids=str)
async def test_upload_that_pictrs_refuses_is_refused_alike(
    road: Road, proxy: SafetyProxy, pictrs: PictRs
) -> None:
    """The status of the direct and of the proxied answer are equal, and nothing is stored."""
    before = await contents(pictrs)
    for url in (pictrs.url, proxy.url):
        assert (await travel(url, road, NUMBERS.next("allow"))).status in road.accepted
    assert (await contents(pictrs)).aliases <= before.aliases


@pytest.mark.parametrize("road", DOWNLOADS + PROXIED, ids=str)
async def test_clean_picture_of_an_address_is_as_without_us(
    road: Road, real_proxy: SafetyProxy, real_pictrs: PictRs, origin: Origin
) -> None:
    """Fetched once, by us; status, JSON or bytes are those of pict-rs' own fetch."""
    replies = []
    for number, url in enumerate((real_pictrs.url, real_proxy.url)):
        address = origin.put(f"/{number}.png", NUMBERS.next("allow"))
        hits = len(origin.hits)
        reply = await travel(url, road, b"", address)
        assert reply.status in road.accepted
        if reply.status == 202:
            await claim(url, reply.json["uploads"][0]["upload_id"])
        asked = origin.hits[hits:]
        assert len(asked) == 1
        agent = asked[0].headers["User-Agent"]
        assert ("safety-proxy" in agent) is (url == real_proxy.url)
        replies.append(seen(reply))
    assert replies[0] == replies[1]


def seen(reply: Reply) -> tuple[int, str, Any]:
    """Of a reply what does not differ between two pictures that look the same."""
    names = ("content-type", "cache-control", "accept-ranges")
    lines = [line for line in reply.head.lower().split("\r\n") if line.startswith(names)]
    try:
        content = shape(reply.json)
    except ValueError:
        content = len(reply.body) > 0
    if isinstance(content, dict):
        content.pop("blurhash", None)
    return reply.status, "".join(sorted(lines)).replace("; charset=utf-8", ""), content


@pytest.mark.parametrize("target", AMBIGUOUS)
async def test_more_than_one_source_brings_nothing_in(
    target: str, proxy: SafetyProxy, pictrs: PictRs, client: ClientSession, origin: Origin
) -> None:
    """400, whatever pict-rs would make of it; nobody is asked for the picture."""
    _, stored = await upload(client, pictrs.url, fresh("allow", 20))
    before = await contents(pictrs)
    address = origin.put("/new.png", NUMBERS.next("allow"))
    alias = stored["files"][0]["file"]
    reply = await travel(proxy.url, Road(target.replace("ALIAS", alias)), b"", address)
    assert (reply.status, reply.json["code"]) == (400, "invalid-query")
    assert origin.hits == []
    assert (await contents(pictrs)).aliases <= before.aliases


@pytest.mark.parametrize(("method", "target"), NO_ROADS)
async def test_what_brings_nothing_in_there_brings_nothing_in_here(
    method: str,
    target: str,
    proxy: SafetyProxy,
    pictrs: PictRs,
    client: ClientSession,
    origin: Origin,
) -> None:
    """The origin is asked by neither, and the status is pict-rs' own."""
    _, stored = await upload(client, pictrs.url, fresh("allow", 20))
    before = await contents(pictrs)
    address = origin.put("/new.png", NUMBERS.next("allow"))
    road = Road(
        target.replace("ALIAS", stored["files"][0]["file"]),
        method,
        headers={"X-Api-Token": PICTRS_API_KEY},
    )
    direct, proxied = [await travel(url, road, b"", address) for url in (pictrs.url, proxy.url)]
    assert origin.hits == []
    assert (await contents(pictrs)).aliases <= before.aliases
    # Of a method that a path does not take pict-rs says 405 or 404; here it is one.
    assert proxied.status == (404 if direct.status == 405 else direct.status)


async def claim(url: str, upload_id: str) -> None:
    """Waits for a background upload."""
    road = Road(f"/image/backgrounded/claim?upload_id={upload_id}")
    while (reply := await travel(url, road, b"")).status == 204:  # after 10 s each
        pass
    assert reply.status == 200


async def store_placeholder(proxy: SafetyProxy, origin: Origin) -> None:
    """After it, another refused download brings no file that was not there."""
    address = origin.put("/blocked-before.png", fresh("block", 1))
    reply = await travel(proxy.url, DOWNLOADS[0], b"", address)
    assert reply.status == 201
