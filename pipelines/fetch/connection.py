"""One HTTP connection to one checked address.

Python's own http.client speaks the protocol. Ours are the two places where a client can be led astray: which address
is dialled, and how long a read may last. (urllib3's pools resolve and time out inside, where neither can be reached
without replacing private parts; its URL parser and Retry-After rules are used as they are.)
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from pathlib import Path

import certifi

from lposekit.errors import Outcome, Rejected, UsageError
from pipelines.fetch.addresses import AddressGuard
from pipelines.fetch.deadline import Deadline, Pace, limit_wait
from pipelines.fetch.response import GuardedResponse
from pipelines.fetch.retry import TryAgain
from pipelines.fetch.tls_sessions import TlsSessions
from pipelines.fetch.urls import DEFAULT_PORTS, WebUrl

MAX_DIALLED_ADDRESSES = 4


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


class GuardedConnection(http.client.HTTPConnection):
    """A connection that dials only what the guard checked, and whose every wait ends with `deadline`.

    `url`: any URL of the origin to connect to. `tls` is None for plain http. Set `deadline` before each request;
    a kept connection serves many.
    """

    auto_open = 0  # http.client must not connect by itself

    def __init__(
        self,
        url: WebUrl,
        guard: AddressGuard,
        tls: ssl.SSLContext | None,
        sessions: TlsSessions,
        connect_timeout_s: float,
        min_bytes_per_s: float,
    ) -> None:
        super().__init__(url.host, url.port)
        self.url = url
        self.guard = guard
        self.tls = tls
        self.sessions = sessions
        self.connect_timeout_s = connect_timeout_s
        self.min_bytes_per_s = min_bytes_per_s
        self.deadline: Deadline
        self.idle_since = 0.0
        self._resumed: ssl.SSLSession | None = None
        self.default_port = DEFAULT_PORTS[url.scheme]  # http.client leaves it out of the Host header

    def connect(self) -> None:
        """Resolve, check and dial. The name stays in SNI and Host; nobody looks it up a second time."""
        addresses = self.guard.addresses(self.url)[:MAX_DIALLED_ADDRESSES]
        dial_end = time.monotonic() + min(self.connect_timeout_s, self.deadline.remaining_s())
        sock = _dial(addresses, self.url.port, dial_end)
        self.sock = sock if self.tls is None else self._resume_or_start_tls(self.tls, sock, addresses, dial_end)

    def send_get(self, target: str, headers: dict[str, str]) -> GuardedResponse:
        """Send one GET and read the answer's header. Raises `OSError` or `http.client.HTTPException`."""
        if self.sock is not None:
            limit_wait(self.sock, self.deadline.next_wait_s())
            return self._exchange(target, headers)
        self.connect()
        sock = self.sock  # the answer's own from `getresponse` on, where the server closes
        try:
            response = self._exchange(target, headers)
        except (http.client.HTTPException, OSError):
            if self._resumed is not None:  # the next try is to differ from this one
                self.sessions.failed(self.url.origin, self._resumed)
            raise
        if isinstance(sock, ssl.SSLSocket):
            self.sessions.answered(self.url.origin, sock)
        return response

    def _exchange(self, target: str, headers: dict[str, str]) -> GuardedResponse:
        self.request("GET", target, headers=headers)
        response = self.getresponse()
        assert isinstance(response, GuardedResponse)
        return response

    def _resume_or_start_tls(
        self, tls: ssl.SSLContext, sock: socket.socket, addresses: list[str], dial_end: float
    ) -> ssl.SSLSocket:
        session = self.sessions.find(self.url.origin)
        if session is None:
            return self._start_tls(tls, sock, None)
        try:
            secured = self._start_tls(tls, sock, session)
        except (Rejected, OSError) as problem:
            self.sessions.failed(self.url.origin, session)
            if _is_timeout(problem):
                raise
            # a server, or one of several behind a name, that cannot resume is no reason to turn the row down
            return self._start_tls(tls, _dial(addresses, self.url.port, dial_end), None)
        if secured.session_reused:
            self._resumed = session
        else:
            self.sessions.refused(self.url.origin, session)
        return secured

    def _start_tls(self, tls: ssl.SSLContext, sock: socket.socket, session: ssl.SSLSession | None) -> ssl.SSLSocket:
        try:
            return tls.wrap_socket(sock, server_hostname=self.url.host, session=session)
        except TimeoutError as problem:
            raise Rejected(Outcome.TIMEOUT, f"{self.url.authority}: TLS handshake took too long") from problem
        except ssl.SSLCertVerificationError as problem:
            raise Rejected(Outcome.TLS, f"{self.url.authority}: {problem.verify_message}") from problem
        except ssl.SSLError as problem:
            raise Rejected(Outcome.TLS, f"{self.url.authority}: {problem.reason or problem}") from problem
        finally:
            sock.close()  # the wrapped one goes on

    def response_class(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, sock: socket.socket, *args: object, **kwargs: object
    ) -> GuardedResponse:
        """What http.client calls to read an answer."""
        return GuardedResponse(
            sock, self.deadline, Pace(self.min_bytes_per_s, self.deadline.idle_timeout_s), *args, **kwargs
        )


def _is_timeout(problem: Exception) -> bool:
    return isinstance(problem, Rejected) and problem.outcome is Outcome.TIMEOUT


def _dial(addresses: list[str], port: int, dial_end: float) -> socket.socket:
    """Connect to the first address that answers; the time is shared out, so that a dead one leaves some to the next."""
    problem: OSError | None = None
    for position, address in enumerate(addresses):
        left_s = dial_end - time.monotonic()
        if left_s <= 0:
            break
        is_last = position == len(addresses) - 1
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(left_s if is_last else left_s / 2)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((address, port))
        except OSError as failure:
            sock.close()
            problem = failure
        else:
            limit_wait(sock, max(0.001, dial_end - time.monotonic()))
            return sock
    where = f"{', '.join(addresses)} port {port}"
    if problem is None or isinstance(problem, TimeoutError):
        raise Rejected(Outcome.TIMEOUT, f"no connection to {where} in time") from problem
    raise TryAgain(Outcome.CONNECT, f"{where}: {problem.strerror or problem}") from problem
