"""A foreign server on loopback with pictures to fetch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count


class Origin(ThreadingHTTPServer):
    """Serves each picture at an address of its own, as often as it is asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pictures: dict[str, bytes] = {}
        self._numbers = count()

    def put(self, picture: bytes) -> str:
        """The address at which this picture lies from now on."""
        path = f"/{next(self._numbers)}.jpg"
        self.pictures[path] = picture
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Origin
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.pictures[self.path]
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Nothing: the tables are the output."""


@contextmanager
def origin() -> Iterator[Origin]:
    """A running origin."""
    with Origin() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
