"""TLS sessions by origin, so that a further connection to a host resumes one (RFC 8446, 2.2; RFC 5077).

That spares both sides the certificates and their check. It serves the hosts that close each connection, and those whose
connection was given up meanwhile (see `pool`).
"""

from __future__ import annotations

import ssl
import threading
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class TlsSessions:
    """One session for each of the origins asked last, for many threads.

    A connection that resumes a session shows no certificate. So a session is of one origin, name and port, and of a
    handshake that checked the certificate for that very name.

    To take a session costs nearly what it saves once, and most hosts of a list are connected to once: it is taken at an
    origin's second connection, and is offered from the third on. It is offered to all of them, since who fetches need
    not be hidden from the server, for whose sake RFC 8446, C.4 would have each ticket used once.
    """

    max_origins: int = 500
    """A session takes 6 KB, and up to 64 where a server wants it."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: OrderedDict[str, _Origin] = field(default_factory=OrderedDict, repr=False)

    def find(self, origin: str) -> ssl.SSLSession | None:
        with self._lock:
            known = self._known.get(origin)
            if known is None:
                return None
            self._known.move_to_end(origin)
            return known.session

    def answered(self, origin: str, sock: ssl.SSLSocket) -> None:
        """Note that an answer has begun on a new connection, and take its session if it is the one to take: under TLS
        1.3 it arrives after the handshake, with the first bytes that are read."""
        with self._lock:
            known = self._known.get(origin)
            if known is None:
                self._known[origin] = _Origin()
                if len(self._known) > self.max_origins:
                    self._known.popitem(last=False)
                return
            if known.session is not None:
                known.has_served = known.has_served or bool(sock.session_reused)
            if not known.is_wanted:
                return
            known.is_wanted = False
        known.session = _session_of(sock)

    def failed(self, origin: str, session: ssl.SSLSession) -> None:
        """Note that a connection to which a session was offered failed. If the session has never served, the origin is
        offered none again; else the failure has other reasons, as likely as not, and another session is taken."""
        with self._lock:
            known = self._known.get(origin)
            if known is not None and known.session is session:
                self._known[origin] = _Origin(is_wanted=known.has_served)

    def refused(self, origin: str, session: ssl.SSLSession) -> None:
        """Note that the server did not resume a session, as it does once that is too old: another one is taken."""
        with self._lock:
            known = self._known.get(origin)
            if known is not None and known.session is session:
                del self._known[origin]


@dataclass(slots=True)
class _Origin:
    """An origin that was connected to."""

    is_wanted: bool = True
    """The next connection's session is taken."""
    session: ssl.SSLSession | None = None
    has_served: bool = False
    """A connection that resumed the session has brought an answer."""


def _session_of(sock: ssl.SSLSocket) -> ssl.SSLSession | None:
    """A copy; None where the server gave none that can be resumed, or one that is too large for a copy."""
    try:
        session = sock.session
    except ValueError:
        return None
    return session if session is not None and session.id else None
