"""A web server that misbehaves on request: one path per misbehaviour, a hit log, a count of connections.

It also serves a plain table of pages (or a folder), fast enough to be the image server of other tests and benchmarks:

    with BadServer(pages={"/a.jpg": Page(body, "image/jpeg")}) as server:
        fetch(f"{server.url}/a.jpg"); server.hits

A server over https needs an identity, `CertificateAuthority.create(folder).server_context("sample.test", "127.0.0.1")`.
Benchmarks run it as a process of its own, so that its CPU time stays apart: `separate_server(folder, https=True)`, or

    python -m tests.support.bad_server --root DIR --https --port 0

which prints its URL, then the file of the certificate authority, one a line.
"""

from __future__ import annotations

import argparse
import http.server
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.certificates import CertificateAuthority
from tests.support.misbehaviours import BEHAVIOURS
from tests.support.pages import Page, pages_of_folder

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Hit:
    """One request as it arrived. ``at_s`` counts from the server's start; ``connection`` numbers its connection."""

    path: str
    host: str
    headers: Mapping[str, str]
    at_s: float
    connection: int


@dataclass(slots=True)
class BadServer:
    """Starts on entering, stops on leaving. ``tls``: a server context for https. ``address`` must be on loopback."""

    pages: dict[str, Page] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    address: str = HOST
    port: int = 0
    _server: _Server | None = None

    def __enter__(self) -> BadServer:
        self._server = _Server((self.address, self.port), _Handler, bind_and_activate=True)
        self._server.pages = self.pages
        self._server.tls = self.tls
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="bad server", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running.stopping.set()
        self.running.shutdown()
        self.running.server_close()

    @property
    def running(self) -> _Server:
        assert self._server is not None, "enter the server first"
        return self._server

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def authority(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}"

    def url_as(self, name: str) -> str:
        """The server's URL under a host name, for tests that inject a resolver."""
        return f"{self.scheme}://{name}:{self.port}"

    @property
    def hits(self) -> list[Hit]:
        return list(self.running.hits)

    def hits_of(self, path: str) -> list[Hit]:
        return [hit for hit in self.hits if hit.path == path]

    @property
    def num_connections(self) -> int:
        return self.running.num_connections

    @property
    def most_at_once(self) -> int:
        """The largest number of requests that were in work at the same time."""
        return self.running.most_at_once


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pages: dict[str, Page] = {}
        self.tls: ssl.SSLContext | None = None
        self.hits: list[Hit] = []
        self.num_connections = 0
        self.num_at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.started_at = time.monotonic()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.num_connections += 1
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's own thread, so a slow or failing handshake holds up nobody."""
        request.settimeout(30)
        try:
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass  # the client went away, which is what most of these tests are about
        finally:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def setup(self) -> None:
        super().setup()
        self.number = self.server.num_connections

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        headers = {name.lower(): value for name, value in self.headers.items()}
        at_s = time.monotonic() - server.started_at
        with server.lock:
            server.hits.append(Hit(self.path, headers.get("host", ""), headers, at_s, self.number))
            server.num_at_once += 1
            server.most_at_once = max(server.most_at_once, server.num_at_once)
        try:
            self._answer()
        finally:
            with server.lock:
                server.num_at_once -= 1

    def _answer(self) -> None:
        page = self.server.pages.get(self.path)
        if page is not None:
            self.page(page)
            return
        name, *arguments = self.path.partition("?")[0].strip("/").split("/")
        behaviour = BEHAVIOURS.get(name)
        if behaviour is None:
            self.page(Page(b"nothing here", "text/plain", status=404))
        else:
            behaviour(self, arguments)

    def page(self, page: Page) -> None:
        self.header(
            page.status,
            ("Content-Type", page.content_type),
            *page.headers,
            ("Content-Length", str(len(page.body))),
            body=page.body,
        )

    def header(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.write("\r\n".join(lines).encode("utf-8") + body)

    def write(self, data: bytes) -> None:
        self.wfile.write(data)

    def request_headers(self) -> dict[str, str]:
        return dict(self.headers.items())

    def count(self) -> int:
        return sum(hit.path == self.path for hit in self.server.hits)

    def pause(self, seconds: float) -> None:
        if self.server.stopping.wait(seconds):
            raise ConnectionAbortedError("the server is stopping")

    def hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionAbortedError("reset on purpose")


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose queue of connections is full: a further connect gets no answer at all."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex((HOST, port))
        try:
            yield port
        finally:
            for caller in callers:
                caller.close()


@contextmanager
def mute_port() -> Iterator[int]:
    """A port that takes connections (the system does) behind which nobody ever says a word."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def separate_server(root: Path, *, https: bool = False) -> Iterator[tuple[str, Path | None]]:
    """The server as a process of its own over the files of ``root``. Yields its URL and its authority's file."""
    command = [sys.executable, "-m", "tests.support.bad_server", "--root", str(root), *(["--https"] if https else [])]
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as process:
        assert process.stdout is not None
        url, ca_file = process.stdout.readline().strip(), process.stdout.readline().strip()
        try:
            yield url, Path(ca_file) if ca_file else None
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of files to serve")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--https", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        authority = CertificateAuthority.create(Path(folder)) if options.https else None
        tls = authority.server_context(HOST, "localhost") if authority else None
        with BadServer(pages_of_folder(options.root.resolve()), tls, port=options.port) as server:
            sys.stdout.write(f"{server.url}\n{authority.ca_file if authority else ''}\n")
            sys.stdout.flush()
            threading.Event().wait()


if __name__ == "__main__":
    main()
