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
    origin's second connection, and is offered from the third on. It is offered to all of them, since who fetches needs
    not be hidden from the server, for whose sake RFC 8446, C.4 would have each ticket used once.
    """

    max_origins: int = 500
    """A session takes 6 KB, and up to 64 where a server wants it."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: OrderedDict[str, ssl.SSLSession | bool] = field(default_factory=OrderedDict, repr=False)
    """True: connected to once. False: no session for this one."""

    def find(self, origin: str) -> ssl.SSLSession | None:
        with self._lock:
            known = self._known.get(origin)
            if known is not None:
                self._known.move_to_end(origin)
            return known if isinstance(known, ssl.SSLSession) else None

    def keep(self, origin: str, sock: ssl.SSLSocket) -> None:
        """Take the session of a connection on which an answer has begun, if it is the one to take: under TLS 1.3 it
        arrives after the handshake, with the first bytes that are read."""
        with self._lock:
            if origin not in self._known:
                self._known[origin] = True
                if len(self._known) > self.max_origins:
                    self._known.popitem(last=False)
                return
            if self._known[origin] is not True:
                return
        try:
            session = sock.session or False  # a copy
        except ValueError:  # one that is too large for it
            session = False
        with self._lock:
            if self._known.get(origin) is True:
                self._known[origin] = session

    def drop(self, origin: str, session: ssl.SSLSession, *, for_good: bool) -> None:
        """Note that the server did not resume a session. `for_good`: it is offered none again, since with this one the
        connection failed."""
        with self._lock:
            if self._known.get(origin) is not session:
                return
            if for_good:
                self._known[origin] = False
            else:
                del self._known[origin]
