"""A web server on loopback from which tests fetch: a package index, a hub, and its faults."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Item:
    """What one path answers."""

    body: bytes = b""
    content_type: str = "application/octet-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    takes_ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    """The n-th answer ends after so many bytes, though more were announced."""
    hold_after: int | None = None
    """Answers wait for `Shelf.go_on` after so many bytes."""


@dataclass
class Asked:
    path: str
    headers: dict[str, str]


class Shelf:
    """Items by path, and what was asked for."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.asked: list[Asked] = []
        self.held, self.go_on = threading.Event(), threading.Event()
        self.url = ""

    def asked_for(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]


@contextmanager
def open_shelf() -> Iterator[Shelf]:
    """Serve a new shelf for as long as the context lasts."""
    shelf = Shelf()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(shelf))
    server.daemon_threads = True
    shelf.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield shelf
    finally:
        shelf.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(shelf: Shelf) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shelf.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}))
            self._answer(shelf.items.get(self.path, Item(status=404)))

        def _answer(self, item: Item) -> None:
            start, status = self._start(item), item.status
            body = item.body[start or 0 :]
            if start is not None and start >= len(item.body):
                status, body = 416, b""
            elif start is not None:
                status = 206
            self.send_response(status)
            self.send_header("Content-Type", item.content_type)
            self.send_header("Content-Length", str(len(body)))
            if status == 416:
                self.send_header("Content-Range", f"bytes */{len(item.body)}")
            for name, value in item.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self._send(item, body)

        def _start(self, item: Item) -> int | None:
            wanted = self.headers.get("Range")
            if wanted is None or not item.takes_ranges:
                return None
            return int(wanted.removeprefix("bytes=").partition("-")[0])

        def _send(self, item: Item, body: bytes) -> None:
            if item.cut_after:
                body = body[: item.cut_after.pop(0)]
            if item.hold_after is None or shelf.held.is_set():
                self.wfile.write(body)
                return
            self.wfile.write(body[: item.hold_after])
            self.wfile.flush()
            shelf.held.set()
            shelf.go_on.wait(10)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
