"""A server that answers every request with the bytes given: for answers that no library would send."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def raw_server(answer: bytes, endless: bytes = b"") -> Iterator[str]:
    """Yields its URL. After `answer` it sends `endless` until the client goes; without it, it closes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = b""
            with contextlib.suppress(OSError):
                while b"\r\n\r\n" not in asked:
                    asked += self.request.recv(65536)
                self.request.sendall(answer)
                while endless:
                    self.request.sendall(endless)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
