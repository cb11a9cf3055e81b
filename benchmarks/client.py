"""A client with one kept connection, cheap beside the servers; and many of them at once."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from types import TracebackType
from typing import Self
from urllib.parse import quote

from benchmarks.pictures import CONTENT_TYPE

# pict-rs closes a connection after 5 s without a request; a new one is then opened.
_KEPT_SECONDS = 3.0


class Client:
    """Talks to one server; `with` closes the connection."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._used = time.monotonic()

    def upload(self, body: bytes) -> int:
        """The status of an upload of this form, after its whole answer."""
        return self._upload(body)[0]

    def store(self, body: bytes) -> str:
        """The alias under which pict-rs stored this form."""
        status, answer = self._upload(body)
        if status != HTTPStatus.CREATED:
            raise RuntimeError(f"an upload was answered {status}: {answer[:200]!r}")
        alias: str = json.loads(answer)["files"][0]["file"]
        return alias

    def read(self, alias: str) -> int:
        """The bytes of a stored picture, counted."""
        status, body = self._request("GET", f"/image/original/{alias}")
        if status != HTTPStatus.OK:
            raise RuntimeError(f"a read was answered {status}")
        return len(body)

    def show(self, address: str) -> int:
        """The bytes of the picture at a foreign address, counted."""
        status, body = self._request("GET", f"/image/original?proxy={quote(address, safe='')}")
        if status != HTTPStatus.OK:
            raise RuntimeError(f"a proxied picture was answered {status}: {body[:200]!r}")
        return len(body)

    def _upload(self, body: bytes) -> tuple[int, bytes]:
        return self._request("POST", "/image", body)

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        if time.monotonic() - self._used > _KEPT_SECONDS:
            self._connection.close()
        headers = {} if body is None else {"Content-Type": CONTENT_TYPE}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        self._used = time.monotonic()
        return response.status, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()


@dataclass(slots=True)
class Load:
    """What many clients did: answers by status, over `seconds`."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def stored(self) -> int:
        return self.statuses[HTTPStatus.CREATED]

    @property
    def not_stored(self) -> int:
        return self.statuses.total() - self.stored

    @property
    def rate(self) -> float:
        """Pictures stored a second."""
        return self.stored / self.seconds


def load(port: int, clients: int, seconds: float, next_body: Callable[[], bytes]) -> Load:
    """`clients` at once, each uploading one picture after the other.

    After `seconds` no more is begun; what is under way counts, and so does its time.
    """
    result = Load()
    start = time.perf_counter()

    def run() -> None:
        with Client(port) as client:
            while time.perf_counter() - start < seconds:
                status = client.upload(next_body())
                result.statuses[status] += 1

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds = time.perf_counter() - start
    return result
