"""A plan, carried out: what is sent on each road, and what its answer must look like."""

import hashlib
import time
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from tests.faults import forms
from tests.faults.forms import address_of, escaped, form, part
from tests.faults.pictures import Kind
from tests.faults.plans import Plan, Road
from tests.faults.spellings import BY_NAME, IMPROPER, Matter, written_anew
from tests.faults.wire import Reply, Request, ask
from tests.faults.world import Stored, World

_DETAILS_KEYS: Final = {"width", "height", "content_type"}
_NO_BODY: Final = {204, 304}
_REFUSED: Final = {"failed-external-validation", "damaged", "not-a-picture", "too-large"}
# Of pict-rs, without a word: for an alias that is not there, a range past the end, a wrong method.
_EMPTY: Final = {200, 202, 404, 405, 408, 412, 416}

# An empty answer to these would leave Lemmy's user with an unknown error.
_TAKING: Final = {
    Road.UPLOAD,
    Road.SEVERAL,
    Road.BACKGROUNDED,
    Road.IMPORT,
    Road.DOWNLOAD,
    Road.DOWNLOAD_LATER,
    Road.VALIDATOR,
}

# Those of variants find none in dummy mode.
_LOOK_UPS: Final = (
    ("HEAD", "image/original"),
    ("GET", "internal/aliases"),
    ("HEAD", "image/process.png"),
    ("GET", "image/details/original"),
    ("GET", "internal/identifier"),
    ("GET", "image/details/original"),
    ("GET", "image/details/process.png"),
)

# How long a client asks for what was stored in the background.
_CLAIM_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan. succeeded: as the road has it."""

    plan: Plan
    reply: Reply
    succeeded: bool


async def perform(world: World, plan: Plan) -> Outcome:
    """Sends it, follows it up, and notes what must not be."""
    if plan.road.is_read:
        plan = replace(plan, kind=Kind.CLEAN)
    match plan.road:
        case Road.VALIDATOR:
            outcome = await _validate(world, plan)
        case Road.SPELLING:
            outcome = await _spell(world, plan)
        case Road.LOOKUP | Road.FORGET:
            outcome = await _by_known_address(world, plan)
        case Road.READ:
            outcome = await _read(world, plan)
        case _ if plan.is_by_address:
            outcome = await _by_address(world, plan)
        case _:
            outcome = await _upload(world, plan)
    _look_at(world, outcome)
    return outcome


async def _upload(world: World, plan: Plan) -> Outcome:
    kinds = [plan.kind, *([Kind.CLEAN] * (len(plan.numbers) - 1))]
    if plan.index % 2:
        kinds.reverse()
    bodies = [
        world.ledger.take(kind, number) for kind, number in zip(kinds, plan.numbers, strict=True)
    ]
    target = "/image"
    lines = list(_deadline(plan))
    parts = [part(body) for body in bodies]
    if plan.road is Road.BACKGROUNDED:
        target = "/image/backgrounded"
    elif plan.road is Road.IMPORT:
        target = "/internal/import"
        lines.append(forms.API_TOKEN)
        alias = f'form-data; name="images[]"; filename="import-{plan.index}-{time.time_ns()}.png"'
        parts = [part(body, alias) for body in bodies]
    request = forms.upload(form(parts), *lines, target=target, chunked=plan.pick < 0.1)
    reply = await _ask(world, plan, request)
    digests = [world.ledger.note(body, kind) for body, kind in zip(bodies, kinds, strict=True)]
    return Outcome(plan, reply, await _is_stored(world, plan, reply, digests))


async def _by_address(world: World, plan: Plan) -> Outcome:
    address = _address(world, plan)
    if plan.pick < 0.3 and world.addresses and plan.road in {Road.ORIGINAL, Road.BLURHASH}:
        address = world.addresses[int(plan.pick / 0.3 * len(world.addresses))]
        plan = replace(plan, kind=Kind.CLEAN)
    lines = list(_deadline(plan))
    reply = await _ask(world, plan, forms.read(_target(plan, address), "GET", *lines))
    match plan.road:
        case Road.DOWNLOAD | Road.DOWNLOAD_LATER:
            # A download that is blocked is answered by a placeholder: 201 all the same, and what
            # lies in the store tells whether that is what it is.
            succeeded = await _is_stored(world, plan, reply, [])
        case Road.PROCESS:
            # In dummy mode pict-rs makes no variants, and this refusal comes after the import.
            succeeded = reply.code == "invalid-file-extension"
        case _:
            succeeded = reply.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}
    if succeeded and plan.is_fair and plan.road is Road.ORIGINAL and plan.kind is Kind.CLEAN:
        world.addresses.append(address)
    return Outcome(plan, reply, succeeded)


def _target(plan: Plan, address: str) -> str:
    url = escaped(address)
    match plan.road:
        case Road.DOWNLOAD:
            return f"/image/download?url={url}" + ("&resize=512" if plan.index % 2 else "")
        case Road.DOWNLOAD_LATER:
            return f"/image/download?url={url}&backgrounded=true"
        case Road.BLURHASH:
            return f"/image/blurhash?proxy={url}"
        case Road.PROCESS:
            extension = "xyz" if plan.kind is Kind.CLEAN else "png"
            return f"/image/process.{extension}?proxy={url}&thumbnail=96"
        case _:
            return f"/image/original?proxy={url}"


async def _by_known_address(world: World, plan: Plan) -> Outcome:
    address = _address(world, plan)
    if plan.pick < 0.8 and world.addresses:
        address = world.addresses[int(plan.pick / 0.8 * len(world.addresses))]
    url, turn = escaped(address), plan.index
    if plan.road is Road.FORGET:
        action = ("purge", "delete")[turn % 2]
        request = forms.read(f"/internal/{action}?proxy={url}", "POST", forms.API_TOKEN)
    else:
        method, path = _LOOK_UPS[turn % len(_LOOK_UPS)]
        request = forms.read(f"/{path}?proxy={url}", method, forms.API_TOKEN)
    reply = await _ask(world, plan, request)
    if plan.road is Road.FORGET and reply.status == HTTPStatus.OK:
        world.addresses = [it for it in world.addresses if it != address]
    return Outcome(plan, reply, reply.status == HTTPStatus.OK)


async def _read(world: World, plan: Plan) -> Outcome:
    known = world.stored[int(plan.pick * len(world.stored))] if world.stored else None
    alias = known.alias if known else "none.png"
    token = known.delete_token if known else "none"
    method, target, lines = "GET", f"/image/original/{alias}", []
    match plan.index % 9:
        case 0:
            method = "HEAD"
        case 1:
            lines = ["Range: bytes=0-9"]
        case 2:
            target = f"/image/original?alias={alias}"
        case 3:
            target = f"/image/details/original/{alias}"
        case 4 if plan.pick < 0.2:
            method, target = "DELETE", f"/image/delete/{token}/{alias}"
        case 5:
            lines = ["If-None-Match: *"]
        case 6:
            target = "/healthz"
        case _:
            pass
    reply = await _ask(world, plan, forms.read(target, method, *lines))
    is_whole = reply.status == HTTPStatus.OK and reply.silence is None and method == "GET"
    digest = hashlib.sha256(reply.body).hexdigest()
    if known and is_whole and reply.is_picture and digest not in known.digests:
        world.found("reads with other bytes than were stored", f"{plan}, {alias}")
    ok = reply.status in {200, 204, 206, 304}
    return Outcome(plan, reply, ok)


async def _validate(world: World, plan: Plan) -> Outcome:
    body = world.ledger.take(plan.kind, plan.numbers[0])
    target, port = world.proxy.validator
    lines = ["content-type: image/png", "accept: */*", "user-agent: pict-rs"]
    if plan.index % 2:  # as pict-rs 0.6 does
        lines.append(f"content-type: multipart/form-data; boundary={forms.BOUNDARY}")
        body = form([part(body, "form-data; name*=utf-8''01%2Fa2%2Fx.png")])
    request = Request(target, "POST", lines, body, chunked=True)
    reply = await _ask(world, plan, request, port=port)
    return Outcome(plan, reply, reply.is_success)


async def _spell(world: World, plan: Plan) -> Outcome:
    body = world.ledger.take(plan.kind, plan.numbers[0])
    shown, too_large = written_anew(body)
    world.ledger.note(shown, plan.kind)
    world.ledger.note(too_large, Kind.UNREADABLE)
    alias = world.stored[int(plan.pick * len(world.stored))].alias if world.stored else "none.png"
    matter = Matter(
        body=body,
        address=_address(world, plan),
        alias=alias,
        clean=world.ledger.take(Kind.CLEAN, plan.numbers[0]),
    )
    reply = await _ask(world, plan, BY_NAME[plan.spelling].write(matter))
    return Outcome(plan, reply, reply.is_success)


def _address(world: World, plan: Plan) -> str:
    number = plan.numbers[0]
    return address_of(plan.host, world.origins.port, plan.behavior, plan.kind, number)


def _deadline(plan: Plan) -> list[str]:
    """Of the client, in pict-rs' header."""
    if plan.deadline is None:
        return []
    return [f"X-Request-Deadline: {int((time.time() + plan.deadline) * 1e9)}"]


async def _ask(world: World, plan: Plan, request: Request, port: int | None = None) -> Reply:
    return await ask(
        port or world.proxy.port,
        request,
        seconds=plan.road.seconds,
        manner=plan.manner,
        seed=plan.index,
    )


async def _is_stored(world: World, plan: Plan, reply: Reply, digests: list[str]) -> bool:
    """Whether the answer, or the claim of what it promises, says that all was stored."""
    files = reply.json.get("files") if reply.status == HTTPStatus.CREATED else None
    if reply.status == HTTPStatus.ACCEPTED:
        claims = [await _claim(world, it["upload_id"]) for it in reply.json["uploads"]]
        files = [file for claim in claims for file in claim]
    if not isinstance(files, list) or not files:
        return False
    if digests:
        world.stored += [
            Stored(file["file"], file["delete_token"], frozenset(digests)) for file in files
        ]
    return len(files) >= len(digests)


async def _claim(world: World, upload_id: str) -> list[dict[str, str]]:
    end = time.monotonic() + _CLAIM_SECONDS
    while time.monotonic() < end:
        request = forms.read(f"/image/backgrounded/claim?upload_id={upload_id}")
        reply = await ask(world.proxy.port, request, seconds=11)
        if reply.status == HTTPStatus.OK:
            files: list[dict[str, str]] = reply.json["files"]
            return files
        if reply.status != HTTPStatus.NO_CONTENT:
            break
    return []


def _look_at(world: World, outcome: Outcome) -> None:
    """Notes what no answer may be, whatever is broken."""
    plan, reply = outcome.plan, outcome.reply
    what = str(plan)
    if reply.silence is None and not _is_proper(plan, reply):
        told = reply.body[:80]
        world.found("answers that are no JSON with msg", f"{what}: {reply.status} {told!r}")
    if reply.is_picture and reply.status == HTTPStatus.OK:
        shown = world.ledger.kind_of_body(reply.body) if reply.body else "clean"
        if shown in {Kind.BLOCKED, Kind.UNREADABLE} and reply.silence is None:
            world.found("blocked pictures shown", what)
    takes = plan.road in _TAKING and not plan.is_by_address
    if takes and plan.kind is not Kind.CLEAN and reply.is_success:
        world.found("blocked pictures accepted", f"{what}: {reply.status}")
    is_refused = reply.code in _REFUSED
    if plan.kind is Kind.CLEAN and (takes or plan.is_fair) and is_refused:
        world.found("clean pictures refused as unsafe", f"{what}: {reply.json['msg']}")


def _is_proper(plan: Plan, reply: Reply) -> bool:
    if reply.is_picture or reply.status in _NO_BODY or isinstance(reply.json.get("msg"), str):
        return True
    if not reply.body and (reply.method == "HEAD" or reply.status in _EMPTY):
        return plan.road not in _TAKING
    if plan.road is Road.SPELLING and plan.spelling in IMPROPER:
        return reply.status == HTTPStatus.BAD_REQUEST
    return reply.json.keys() >= _DETAILS_KEYS and reply.status == HTTPStatus.OK
