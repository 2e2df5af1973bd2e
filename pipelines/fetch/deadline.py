"""One clock for one row: everything that may wait asks it how long."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from lposekit.errors import Outcome, Rejected


@dataclass(slots=True)
class Deadline:
    """The end of one row's time, in seconds of `time.monotonic`.

    A server that sends one byte a second keeps every single wait short; only an end that is asked for before each
    wait holds against it.
    """

    ends_at: float
    idle_timeout_s: float
    patience_s: float
    """What is left for waiting until one of the host's connections is free. That wait is our own doing, so it does not
    count against the server's time; it is bounded by the same number of seconds."""

    @classmethod
    def start(cls, total_timeout_s: float, idle_timeout_s: float) -> Deadline:
        return cls(time.monotonic() + total_timeout_s, idle_timeout_s, patience_s=total_timeout_s)

    def remaining_s(self) -> float:
        return self.ends_at - time.monotonic()

    def next_wait_s(self) -> float:
        """How long the next single wait may last. Raises `Rejected(TIMEOUT)` once the time is over."""
        remaining_s = self.remaining_s()
        if remaining_s <= 0:
            raise Rejected(Outcome.TIMEOUT, "total time is over")
        return min(self.idle_timeout_s, remaining_s)

    def forgive(self, waited_s: float) -> None:
        """Give back time that was spent waiting for our own queue."""
        self.patience_s -= waited_s
        self.ends_at += waited_s


@dataclass(slots=True)
class Pace:
    """How fast one answer comes. A server that drips keeps every wait short, and a connection busy to the row's end."""

    min_bytes_per_s: float
    window_s: float
    """Seconds over which the rate is taken; after the first byte, so that a slow start is no drip."""
    _since: float | None = None
    _num_bytes: int = 0

    def note(self, num_bytes: int) -> None:
        """Count bytes that came. Raises `Rejected(TIMEOUT)` if too few came within a window."""
        now = time.monotonic()
        self._num_bytes += num_bytes
        if self._since is None:
            self._since = now
        passed_s = now - self._since
        if passed_s < self.window_s:
            return
        if self._num_bytes < self.min_bytes_per_s * passed_s:
            raise Rejected(Outcome.TIMEOUT, f"{self._num_bytes} bytes in {passed_s:.1f} s")
        self._since, self._num_bytes = now, 0


_NEARLY = 0.02


def limit_wait(sock: socket.socket, wait_s: float) -> None:
    """Let a wait on the socket last `wait_s`, give or take 2 %: setting a timeout is a system call, at which threads
    change places, and between two reads it is mostly the same."""
    present_s = sock.gettimeout()
    if present_s is None or abs(present_s - wait_s) > _NEARLY * wait_s:
        sock.settimeout(wait_s)
