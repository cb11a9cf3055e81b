"""Requests as Lemmy and browsers send them, with secrets planted wherever they carry any."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from tests.e2e.harness import PICTRS_API_KEY
from tests.faults.wire import Request

# What nobody should find in a log; a suffix tells in which place it was planted.
PRIVATE: Final = "planted-private"

BOUNDARY: Final = "----geckoformboundary6c1f"
API_TOKEN: Final = f"X-Api-Token: {PICTRS_API_KEY}"

# What Lemmy copies from the browser.
BROWSER: Final = (
    f"Authorization: Bearer {PRIVATE}-authorization",
    f"Cookie: jwt={PRIVATE}-cookie; theme={PRIVATE}-cookie",
    f"Referer: https://lemmy.test/post/{PRIVATE}-referer",
    "User-Agent: Mozilla/5.0",
    "X-Forwarded-For: 203.0.113.9",
)


def address_of(host: str, port: int, behavior: str, kind: str, number: int) -> str:
    """The address of a picture at the origin, as a link in a post."""
    path = f"{behavior}/{kind}/{number}/{PRIVATE}-path.png"
    return f"http://{host}.test:{port}/{path}?key={PRIVATE}-query"


def escaped(address: str) -> str:
    return quote(address, safe="")


def part(body: bytes, disposition: str | None = None, *lines: str) -> bytes:
    """A part of a form, up to the next boundary."""
    head = disposition or f'form-data; name="images[]"; filename="{PRIVATE}-name.png"'
    fields = "".join(f"{line}\r\n" for line in (f"Content-Disposition: {head}", *lines))
    return f"{fields}\r\n".encode() + body + b"\r\n"


def form(parts: Sequence[bytes], boundary: str = BOUNDARY) -> bytes:
    """A whole multipart body."""
    begin, end = f"--{boundary}\r\n".encode(), f"--{boundary}--\r\n".encode()
    return b"".join(begin + it for it in parts) + end


def upload(
    body: bytes,
    *lines: str,
    target: str = "/image",
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    chunked: bool = False,
) -> Request:
    """A multipart upload with this body."""
    return Request(
        target, "POST", (*BROWSER, f"Content-Type: {content_type}", *lines), body, chunked=chunked
    )


def read(target: str, method: str = "GET", *lines: str) -> Request:
    """A request without a body."""
    return Request(target, method, (*BROWSER, *lines))
