"""How long the images of one host may take to decode, so that one host's bombs do not stop the rest of a shard."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lposekit.errors import Outcome, Rejected


@dataclass(slots=True)
class DecodeBudget:
    """Seconds of decoding by host: `first_s`, and `each_s` for every image. Usual photos take a hundredth of that."""

    first_s: float = 30.0
    each_s: float = 0.5
    max_hosts: int = 10_000
    _left_s: OrderedDict[str, float] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def image_of(self, host: str) -> Iterator[None]:
        """Count the time of this block. Raises `Rejected(WORKER_CRASH)` if the host has used up its own."""
        with self._lock:
            left_s = self._left_s.get(host, self.first_s)
        if left_s < 0:
            raise Rejected(Outcome.WORKER_CRASH, f"decoder: images of {host} take too long, its time is used up")
        started_at = time.monotonic()
        try:
            yield
        finally:
            self._spend(host, time.monotonic() - started_at)

    def _spend(self, host: str, spent_s: float) -> None:
        with self._lock:
            left_s = self._left_s.pop(host, self.first_s) + self.each_s - spent_s
            self._left_s[host] = min(left_s, self.first_s)
            if len(self._left_s) > self.max_hosts:
                self._left_s.popitem(last=False)


def host_of(url: str | None) -> str:
    """The host that is asked first; empty for what is no address."""
    try:
        return (urlsplit(url or "").hostname or "").removesuffix(".")
    except ValueError:
        return ""
