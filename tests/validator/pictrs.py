"""The requests of pict-rs' `external_validation`, as a raw listener got them from the programs."""

from collections.abc import Iterable

PATH = "/api/v1/scan/the-id"
BOUNDARY = "53e6ba92bed3feab-65f722a724471274-97118ffb14c1042e-27bbdb1cb3185c73"
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"

_PART_HEAD = (
    "Content-Disposition: form-data; name*=utf-8''"
    "01%2Fa2%2F13%2F9e%2F12%2F05%2F71%2F57%2Fa5%2F7c%2F0547230d180d.png"
)


def form(picture: bytes) -> list[bytes]:
    """The multipart body of pict-rs 0.6.0-rc.6, in the chunks that it comes in."""
    return [
        f"--{BOUNDARY}\r\n".encode(),
        f"{_PART_HEAD}\r\n\r\n".encode(),
        picture,
        b"\r\n",
        f"--{BOUNDARY}--\r\n".encode(),
    ]


def chunked(chunks: Iterable[bytes]) -> bytes:
    """A body with the transfer encoding `chunked`."""
    framed = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]
    return b"".join(framed) + b"0\r\n\r\n"


def head(*lines: str, method: str = "POST", path: str = PATH) -> bytes:
    """A request line and headers; `Host` comes by itself."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "host: x", "", ""]).encode()


def request_of(version: str, picture: bytes, *, path: str = PATH) -> bytes:
    """The whole request of this version, "0.5.25" or "0.6.0-rc.6"."""
    types = ["content-type: image/png"]
    chunks = [picture[start : start + 65536] for start in range(0, len(picture), 65536)]
    if version.startswith("0.6."):
        types.append(f"content-type: {FORM_TYPE}")
        chunks = form(picture)
    agent = f"user-agent: pict-rs {version}"
    return head(*types, "accept: */*", agent, "transfer-encoding: chunked", path=path) + chunked(
        chunks
    )
