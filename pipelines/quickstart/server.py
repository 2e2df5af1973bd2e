"""The sample's HTTP server: photos, and the misbehaviour that a list of real addresses meets. Local, for the quickstart
and the tests; the command that needs it starts and stops it."""

from __future__ import annotations

import contextlib
import http.server
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.quickstart.photos import Photo, photo_bytes, sample_rows, write_list

HOST = "127.0.0.1"
# The same port in every run, where it is free: then the rows of a sample dataset can be fetched again later. Above the
# ports that Ray uses for its workers, below those that the system hands out by itself.
PORTS = (28417, 28418, 28419, 28420, 0)
ROBOTS_TXT = b"User-agent: *\nDisallow: /private/\n"
SILENCE_S = 60.0
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_CAMERA = Photo("camera.png")


@dataclass(frozen=True, slots=True)
class SampleServer:
    """Where the sample's server listens."""

    host_and_port: str

    @property
    def base_url(self) -> str:
        return f"http://{self.host_and_port}"


@contextlib.contextmanager
def served_list() -> Iterator[tuple[Path, str]]:
    """The sample's list and its server's "host:port", while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="lposekit-sample-") as folder, serve() as server:
        path = Path(folder) / "sample.jsonl"
        write_list(path, server.base_url)
        yield path, server.host_and_port


@contextlib.contextmanager
def serve() -> Iterator[SampleServer]:
    """Starts the server, and stops it when the context ends."""
    server = _listen()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield SampleServer(f"{HOST}:{server.server_port}")
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        self.stopping = threading.Event()
        self.photos = {row.url: row.photo for row in sample_rows() if row.photo}
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of a client that went away, as the fetch does from addresses that misbehave."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


def _listen() -> _Server:
    for port in PORTS[:-1]:
        with contextlib.suppress(OSError):
            return _Server((HOST, port))
    return _Server((HOST, PORTS[-1]))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _sample_server(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def do_GET(self) -> None:
        photo = self._sample_server.photos.get(self.path)
        if photo is not None:
            self._send(photo_bytes(photo), _TYPES[photo.format])
        else:
            _ANSWERS.get(self.path, _Handler._missing)(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base's name)
        """Says nothing: the run's own account tells how each row ended."""

    def _send(self, body: bytes, kind: str = "image/jpeg", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _missing(self) -> None:
        self._send(b"not found", "text/plain", 404)

    def _cut_off(self) -> None:
        body = photo_bytes(_CAMERA)
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def _silent(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"\xff\xd8")
        self.wfile.flush()
        self._sample_server.stopping.wait(SILENCE_S)
        self.close_connection = True

    def _truncated(self) -> None:
        body = photo_bytes(Photo("astronaut.png"))
        self._send(body[: len(body) // 2])


def _huge_png() -> bytes:
    """A PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_ANSWERS: dict[str, Callable[[_Handler], None]] = {
    "/robots.txt": lambda handler: handler._send(ROBOTS_TXT, "text/plain"),
    "/moved/camera-flip.jpg": lambda handler: handler._send(b"", status=302, Location="/photos/camera-flip.jpg"),
    "/loop.jpg": lambda handler: handler._send(b"", status=302, Location="/loop.jpg"),
    "/page.jpg": lambda handler: handler._send(b"<!doctype html><title>gone</title><p>This photo moved.", "text/html"),
    "/private/camera.jpg": lambda handler: handler._send(photo_bytes(_CAMERA)),
    "/opt-out/camera.jpg": lambda handler: handler._send(photo_bytes(_CAMERA), X_Robots_Tag="noai, noimageai"),
    "/busy.jpg": lambda handler: handler._send(b"try later", "text/plain", 503, Retry_After="0"),
    "/huge.png": lambda handler: handler._send(_huge_png(), "image/png"),
    "/broken-gzip.jpg": lambda handler: handler._send(b"\x1f\x8b not gzip", Content_Encoding="gzip"),
    "/truncated/astronaut.jpg": _Handler._truncated,
    "/cut-off.jpg": _Handler._cut_off,
    "/silent.jpg": _Handler._silent,
}
