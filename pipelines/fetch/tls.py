"""TLS connections of a process: one set of certificates, and a shorter handshake with a host that was met before.

A server gives tickets for that (RFC 8446, 2.2): it need not show its certificates again, nor the client check them,
which takes a third of what a new connection costs. Each ticket is used once, as RFC 8446 advises (C.4), and only for
the scheme, host and port that gave it, so the name that was checked is the name that is asked.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import certifi

from lposekit.errors import UsageError

MAX_TICKETS = 1024
"""Of all origins; some kB each."""


def make_tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """The TLS settings for all connections of a process: made once, because reading the certificates takes 20 ms.

    `ca_file` replaces the system's certificates, which are found as Python does it (`SSL_CERT_FILE` included); a
    machine that has none gets certifi's. Raises `UsageError` if `ca_file` is unusable.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as problem:
        raise UsageError(f"ca_file {ca_file} cannot be used: {problem}. Give a PEM file of certificates.") from problem
    if ca_file is None and not _has_certificates(context):
        context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _has_certificates(context: ssl.SSLContext) -> bool:
    folder = ssl.get_default_verify_paths().capath  # its certificates are loaded when they are needed
    return context.cert_store_stats()["x509_ca"] > 0 or bool(folder and any(Path(folder).iterdir()))


@dataclass(slots=True)
class TlsClient:
    """Shakes hands, for many threads."""

    context: ssl.SSLContext
    _tickets: OrderedDict[str, ssl.SSLSession] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take_ticket(self, origin: str) -> ssl.SSLSession | None:
        """The last ticket of an origin, which nobody else gets."""
        with self._lock:
            return self._tickets.pop(origin, None)

    def keep_ticket(self, origin: str, connection: ssl.SSLSocket) -> None:
        """Keep the ticket that a connection has brought, if it has; it comes with the first bytes of an answer."""
        session = connection.session
        if session is None or not session.has_ticket:
            return
        with self._lock:
            self._tickets[origin] = session
            if len(self._tickets) > MAX_TICKETS:
                self._tickets.popitem(last=False)

    def shake_hands(self, sock: socket.socket, host: str, ticket: ssl.SSLSession | None) -> ssl.SSLSocket:
        """Start TLS with a host.

        Raises:
            OSError: `ssl.SSLError` and what else ends a handshake.
        """
        return self.context.wrap_socket(sock, server_hostname=host, session=ticket)
