"""One clock for one row: everything that may wait asks it how long."""

from __future__ import annotations

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
