"""How a foreign web server may behave, written byte by byte: most of it no library would send."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.pictures import Kind, Ledger

# An address whose picture changes does so this long after it was asked for first: long enough to
# be stored, and longer than `proxied.revalidate_seconds` of the proxy under test.
TURN_SECONDS: Final = 1.2

# Apart from all numbers that clients take.
_OTHER_NUMBERS: Final = 10_000_000

HUGE_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the origin, and where its answer goes."""

    path: str
    headers: dict[str, str]
    kind: Kind
    number: int
    ledger: Ledger
    port: int
    age: float
    writer: asyncio.StreamWriter

    def body(self) -> bytes:
        return self.ledger.take(self.kind, self.number)

    def head(self, status: str, *lines: str) -> None:
        fields = "".join(f"{line}\r\n" for line in (*lines, "Connection: close"))
        self.writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())

    def whole(self, body: bytes, *lines: str, status: str = "200 OK") -> None:
        self.head(status, f"Content-Length: {len(body)}", *lines)
        self.writer.write(body)

    def part(self, part: bytes) -> bytes:
        """Bytes that arrive and are not the whole picture: they must not be stored."""
        self.ledger.note(part, Kind.UNREADABLE)
        return part

    def redirect(self, to: str) -> None:
        self.whole(b"", f"Location: {to}", status="302 Found")

    async def flush(self, seconds: float = 0.0) -> None:
        await self.writer.drain()
        await asyncio.sleep(seconds)


Behavior = Callable[[Call], Coroutine[Any, Any, None]]


async def _plain(call: Call) -> None:
    call.whole(call.body(), "Content-Type: image/png")


async def _typeless(call: Call) -> None:
    call.whole(call.body(), "Content-Type: application/json", "X-Odd: \xe9")


async def _chunked(call: Call) -> None:
    body = call.body()
    call.head("200 OK", "Transfer-Encoding: chunked")
    for start in range(0, len(body), 700):
        chunk = body[start : start + 700]
        call.writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await call.flush()
    call.writer.write(b"0\r\n\r\n")


async def _until_close(call: Call) -> None:
    call.head("200 OK", "Content-Type: image/png")
    call.writer.write(call.body())


async def _slow(call: Call) -> None:
    body = call.body()
    call.head("200 OK", f"Content-Length: {len(body)}")
    for start in range(0, len(body), len(body) // 4 + 1):
        call.writer.write(body[start : start + len(body) // 4 + 1])
        await call.flush(0.1)


async def _tagged(call: Call) -> None:
    tag = f'"{call.kind}-{call.number}"'
    if call.headers.get("if-none-match") == tag:
        call.head("304 Not Modified", f"ETag: {tag}")
    else:
        call.whole(call.body(), f"ETag: {tag}")


async def _moved(call: Call) -> None:
    call.redirect(f"/plain/{call.kind}/{call.number}/there.png")


async def _cut(call: Call) -> None:
    body = call.body()
    call.head("200 OK", f"Content-Length: {len(body)}")
    call.writer.write(call.part(body[: len(body) // 2]))


async def _reset(call: Call) -> None:
    await _cut(call)
    await call.flush(0.02)
    call.writer.transport.abort()


async def _cut_chunked(call: Call) -> None:
    part = call.part(call.body()[:1500])
    call.head("200 OK", "Transfer-Encoding: chunked")
    call.writer.write(b"%x\r\n%s\r\n" % (len(part), part))


async def _says_more(call: Call) -> None:
    body = call.body()
    call.head("200 OK", f"Content-Length: {len(body) + 100}")
    call.writer.write(body)


async def _says_less(call: Call) -> None:
    body = call.body()
    length = 37  # nothing of the pixels: what is cut later can be seen in part, and is judged
    call.part(body[:length])
    call.head("200 OK", f"Content-Length: {length}")
    call.writer.write(body)


async def _drip(call: Call) -> None:
    body = call.body()
    call.head("200 OK", f"Content-Length: {len(body)}")
    for start in range(0, len(body), 20):
        call.writer.write(call.part(body[start : start + 20]))
        await call.flush(0.2)


async def _hang(call: Call) -> None:
    await call.flush(60)


async def _hang_in_body(call: Call) -> None:
    await _cut(call)
    await call.flush(60)


async def _missing(call: Call) -> None:
    call.whole(b"none", status="404 Not Found")


async def _gone(call: Call) -> None:
    call.whole(b"none", status="410 Gone")


async def _broken(call: Call) -> None:
    call.whole(call.body(), status="500 Internal Server Error")


async def _forbidden(call: Call) -> None:
    call.whole(b"go away", status="403 Forbidden")


async def _empty(call: Call) -> None:
    call.whole(b"")


async def _packed(call: Call) -> None:
    call.whole(call.body(), "Content-Encoding: gzip")


async def _partial(call: Call) -> None:
    body = call.body()
    part = call.part(body[: len(body) // 3])
    call.whole(part, f"Content-Range: bytes 0-1/{len(body)}", status="206 Partial Content")


async def _huge(call: Call) -> None:
    body = call.body()
    call.head("200 OK", "Transfer-Encoding: chunked")
    whole = body.ljust(HUGE_BYTES, b"\0")
    call.ledger.note(whole, Kind.UNREADABLE)
    for start in range(0, HUGE_BYTES, 65536):
        call.writer.write(b"10000\r\n" + whole[start : start + 65536] + b"\r\n")
        await call.flush()
    call.writer.write(b"0\r\n\r\n")


async def _nonsense(call: Call) -> None:
    call.writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" + b"\0" * 200)


async def _long_head(call: Call) -> None:
    call.whole(call.body(), *(f"X-{n}: {'y' * 4000}" for n in range(200)))


async def _loop(call: Call) -> None:
    call.redirect(call.path)


async def _to_inside(call: Call) -> None:
    call.redirect(f"http://127.0.0.2:{call.port}/{call.number}")


async def _to_inside_name(call: Call) -> None:
    call.redirect(f"http://inside.test:{call.port}/{call.number}")


async def _to_inside_six(call: Call) -> None:
    call.redirect(f"http://[::ffff:127.0.0.2]:{call.port}/{call.number}")


async def _to_odd_number(call: Call) -> None:
    call.redirect(f"http://2130706434:{call.port}/{call.number}")


async def _to_file(call: Call) -> None:
    call.redirect("file:///etc/hostname")


async def _turns_blocked(call: Call) -> None:
    kind = call.kind if call.age < TURN_SECONDS else Kind.BLOCKED
    call.whole(call.ledger.take(kind, call.number))


async def _turns_other(call: Call) -> None:
    shift = _OTHER_NUMBERS * int(call.age / TURN_SECONDS)
    call.whole(call.ledger.take(call.kind, call.number + shift))


async def _turns_missing(call: Call) -> None:
    await (_plain(call) if call.age < TURN_SECONDS else _gone(call))


async def _turns_clean(call: Call) -> None:
    kind = Kind.BLOCKED if call.age < TURN_SECONDS else Kind.CLEAN
    call.whole(call.ledger.take(kind, call.number))


async def _turns_inside(call: Call) -> None:
    await (_plain(call) if call.age < TURN_SECONDS else _to_inside(call))


# Behaviors that give the picture of the address, whole.
FAIR: Final[dict[str, Behavior]] = {
    "plain": _plain,
    "typeless": _typeless,
    "chunked": _chunked,
    "until-close": _until_close,
    "slow": _slow,
    "tagged": _tagged,
    "moved": _moved,
}

# Whose picture is another one later.
TURNING: Final[dict[str, Behavior]] = {
    "turns-blocked": _turns_blocked,
    "turns-other": _turns_other,
    "turns-missing": _turns_missing,
    "turns-clean": _turns_clean,
    "turns-inside": _turns_inside,
}

UNFAIR: Final[dict[str, Behavior]] = {
    "cut": _cut,
    "reset": _reset,
    "cut-chunked": _cut_chunked,
    "says-more": _says_more,
    "says-less": _says_less,
    "drip": _drip,
    "hang": _hang,
    "hang-in-body": _hang_in_body,
    "missing": _missing,
    "gone": _gone,
    "broken": _broken,
    "forbidden": _forbidden,
    "empty": _empty,
    "packed": _packed,
    "partial": _partial,
    "huge": _huge,
    "nonsense": _nonsense,
    "long-head": _long_head,
    "loop": _loop,
    "to-inside": _to_inside,
    "to-inside-name": _to_inside_name,
    "to-inside-six": _to_inside_six,
    "to-odd-number": _to_odd_number,
    "to-file": _to_file,
}

BEHAVIORS: Final = FAIR | TURNING | UNFAIR
