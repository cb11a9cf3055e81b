"""Requests in forms that no browser sends, each of which pict-rs itself would take or refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.faults.forms import (
    API_TOKEN,
    BOUNDARY,
    BROWSER,
    PRIVATE,
    escaped,
    form,
    part,
    read,
    upload,
)
from tests.faults.wire import Request

_FILE: Final = 'form-data; name="images[]"; filename='


@dataclass(frozen=True, slots=True)
class Matter:
    """What a spelling is written around."""

    body: bytes
    address: str
    alias: str
    clean: bytes

    @property
    def url(self) -> str:
        return escaped(self.address)

    @property
    def after_scheme(self) -> str:
        return self.address.removeprefix("http://")


@dataclass(frozen=True, slots=True)
class Spelling:
    """A form of request, by its name."""

    name: str
    write: Callable[[Matter], Request]


def _get(name: str, target: str, method: str = "GET") -> Spelling:
    """Of a target with {url}, {address}, {after_scheme} or {alias} in it."""

    def write(matter: Matter) -> Request:
        return read(
            target.format(
                url=matter.url,
                address=matter.address,
                after_scheme=matter.after_scheme,
                alias=matter.alias,
                twice=escaped(matter.url),
            ),
            method,
        )

    return Spelling(name, write)


def _part(name: str, disposition: str, *lines: str) -> Spelling:
    return Spelling(name, lambda it: upload(form([part(it.body, disposition, *lines)])))


def _post(name: str, *lines: str, target: str = "/image", chunked: bool = False) -> Spelling:
    return Spelling(
        name,
        lambda it: upload(form([part(it.body)]), *lines, target=target, chunked=chunked),
    )


def _typed(name: str, content_type: str) -> Spelling:
    return Spelling(name, lambda it: upload(form([part(it.body)]), content_type=content_type))


def _of_body(name: str, write: Callable[[bytes], bytes]) -> Spelling:
    return Spelling(name, lambda it: upload(write(it.body)))


def _two_lengths(it: Matter) -> Request:
    body = form([part(it.body)])
    length = f"Content-Length: {len(body)}"
    return upload(body, length, chunked=True)


def _hidden_second(it: Matter) -> Request:
    """A request within the body of another, for whoever believes another length."""
    hidden = upload(form([part(it.body)])).encoded()
    body = form([part(it.clean)]) + b"".join(hidden)
    return upload(body)


def _padded(body: bytes) -> bytes:
    """Over the limit of the proxy under test."""
    return body.ljust(2_000_000, b"\0")


def _doubled(body: bytes) -> bytes:
    """Shows the same, and holds what looks like a boundary."""
    return body + f"\r\n--{BOUNDARY}-x\r\n".encode() + body


def written_anew(body: bytes) -> tuple[bytes, bytes]:
    """What two of the spellings make of a body: one that shows the same, one too large."""
    return _doubled(body), _padded(body)


SPELLINGS: Final = (
    _get("escaped download", "/image/downloa%64?url={url}"),
    _get("escaped original", "/image/%6Friginal?proxy={url}"),
    _get("escaped key", "/image/original?pro%78y={url}"),
    _get("empty pairs", "/image/original?&&proxy={url}&&"),
    _get("alias, then proxy", "/image/original?alias={alias}&proxy={url}"),
    _get("proxy, then alias", "/image/original?proxy={url}&alias={alias}"),
    _get("src twice, then proxy", "/image/process.xyz?src={alias}&src={alias}&proxy={url}"),
    _get("alias twice, then proxy", "/image/process.xyz?alias={alias}&alias=b&proxy={url}"),
    _get("proxy twice", "/image/original?proxy={url}&proxy={url}"),
    _get("url twice", "/image/download?url={url}&url={url}"),
    _get("escaped dot", "/image/process%2Exyz?proxy={url}"),
    _get("escaped slash in the extension", "/image/process.a%2Fb?proxy={url}"),
    _get("address as it is", "/image/original?proxy={address}"),
    _get("address as it is, thumbnail", "/image/process.xyz?proxy={address}&thumbnail=96"),
    _get("address as it is, alias in it", "/image/original?proxy={address}&alias={alias}"),
    _get("address beside a path", "/image/original/{alias}?proxy={url}"),
    _get("blurhash of two", "/image/blurhash?alias={alias}&proxy={url}"),
    _get("no UTF-8 beside it", "/image/original?proxy={url}&x=%ff"),
    _get("escaped twice", "/image/original?proxy={twice}"),
    _get("scheme in capitals", "/image/original?proxy=HTTP://{after_scheme}"),
    _get("login in the address", "/image/original?proxy=http%3A%2F%2Fu%3Ap%40{after_scheme}"),
    _get("space before it", "/image/original?proxy=%20{url}"),
    _get("fragment after it", "/image/original?proxy={url}%23part"),
    _get("backslash", "/image/original?proxy=http%3A%5C%5C127.0.0.2%2Fx"),
    _get("short inside address", "/image/original?proxy=http%3A%2F%2F127.2%2Fx"),
    _get("number as address", "/image/download?url=http%3A%2F%2F2130706434%2Fx"),
    _get("file address", "/image/download?url=file%3A%2F%2F%2Fetc%2Fhostname"),
    _get("key in capitals", "/image/original?PROXY={url}"),
    _get("path in capitals", "/IMAGE/original?proxy={url}"),
    _get("two slashes", "//image/download?url={url}"),
    _get("slash at the end", "/image/download/?url={url}"),
    _get("dot segment", "/image/./download?url={url}"),
    _get("two dots", "/image/x/../download?url={url}"),
    _get("escaped slash", "/image%2Fdownload?url={url}"),
    _get("matrix parameter", "/image/original;x?proxy={url}"),
    _get("another host in the target", "http://other/image/original?proxy={url}"),
    _get("HEAD of a download", "/image/download?url={url}", "HEAD"),
    _get("POST of a download", "/image/download?url={url}", "POST"),
    _get("bad value", "/image/download?url={url}&backgrounded=maybe"),
    _get("unknown key", "/image/download?url={url}&flip=1"),
    _get("no such route", "/image/original/a/b"),
    _get("admin route without the key", "/internal/hashes"),
    Spelling(
        "HTTP/1.0",
        lambda it: Request(f"/image/original?proxy={it.url}", lines=BROWSER, version="1.0"),
    ),
    _post("escaped image", target="/%69mage"),
    _post("chunked", chunked=True),
    _post("waits for 100", "Expect: 100-continue"),
    _post("says it is packed", "Content-Encoding: gzip"),
    _post("unknown key of an upload", target="/image?flip=1"),
    _post("resize", target="/image?resize=48"),
    _post("import without the key", target="/internal/import"),
    _post("wrong method", target="/image/original"),
    _typed("multipart/mixed", f"multipart/mixed; boundary={BOUNDARY}"),
    _typed("quoted boundary", f'MULTIPART/FORM-DATA; BOUNDARY="{BOUNDARY}"'),
    _typed("no boundary", "multipart/form-data"),
    _typed("no form", "image/png"),
    _part("odd brackets", f'form-data; name="images][]"; filename="{PRIVATE}-name"'),
    _part("name without quotes", f"form-data; name=images[]; filename={PRIVATE}-name.png"),
    _part("base64, it says", f'{_FILE}"{PRIVATE}-name"', "Content-Transfer-Encoding: base64"),
    _part("path as name", f'{_FILE}"../../{PRIVATE}-name.png"'),
    _part("any script as name", f'{_FILE}"«{PRIVATE}-name» \U0001f642.png"'),
    _part("long name", f'{_FILE}"{PRIVATE}-name-{"x" * 4000}"'),
    _part("very long name", f'{_FILE}"{PRIVATE}-name-{"x" * 60000}"'),
    _part("empty name", f'{_FILE}""'),
    _part("no name", 'form-data; name="images[]"'),
    _part("another field", f'form-data; name="avatar"; filename="{PRIVATE}-name"'),
    _of_body("text before it", lambda body: b"junk\r\nmore\r\n" + form([part(body)])),
    _of_body("text after it", lambda body: form([part(body)]) + b"junk" * 20),
    _of_body("no last boundary", lambda body: form([part(body)])[:-60]),
    _of_body("no part", lambda body: form([])),
    _of_body("an empty file", lambda body: form([part(b"")])),
    _of_body("empty file first", lambda body: form([part(b""), part(body)])),
    _of_body("too many", lambda body: form([part(body)] * 12)),
    _of_body("too large", lambda body: form([part(_padded(body))])),
    _of_body("field beside it", lambda body: form([part(body), part(b"1", 'form-data; name="x"')])),
    _of_body("boundary in the picture", lambda body: form([part(_doubled(body))])),
    Spelling("clean, then this", lambda it: upload(form([part(it.clean), part(it.body)]))),
    Spelling(
        "import with a path",
        lambda it: upload(
            form([part(it.body, f'{_FILE}"../x/y.png"')]), API_TOKEN, target="/internal/import"
        ),
    ),
    Spelling("two lengths", _two_lengths),
    Spelling("a request within the body", _hidden_second),
)

BY_NAME: Final = {spelling.name: spelling for spelling in SPELLINGS}

# No proper HTTP: the connection may end with any answer of the HTTP library, or with none.
IMPROPER: Final = frozenset({"two lengths"})
