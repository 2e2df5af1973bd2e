"""Which row is fetched next, so that no thread waits for a host that has enough requests already."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from pipelines.image.decode_budget import host_of

_POLL_S = 0.1


class RowTurns:
    """Hands out rows in order, passing over those whose host is busy until it is free.

    A host has room for `per_host` requests, and for one only while `is_doubtful`: else a row would begin as often as
    one of a host that hangs ends.

    At most `look_ahead` rows beyond the oldest that has not ended are begun: what ends early waits, decoded, for its
    neighbours (see `pose_batches.in_runs`).
    """

    def __init__(
        self, urls: Sequence[str | None], per_host: int, look_ahead: int, is_doubtful: Callable[[str], bool]
    ) -> None:
        self.hosts = [host_of(url) for url in urls]
        self._per_host = per_host
        self._look_ahead = look_ahead
        self._is_doubtful = is_doubtful
        self._busy: Counter[str] = Counter()
        self._passed_over: list[int] = []
        self._next = 0
        self._ended = bytearray(len(urls))
        self._oldest = 0
        self._changed = threading.Condition()

    def take(self, stopped: threading.Event) -> int | None:
        """The next row whose host has room, as soon as there is one; None once `stopped` is set."""
        with self._changed:
            while not stopped.is_set():
                index = self._find()
                if index is not None:
                    self._busy[self.hosts[index]] += 1
                    self._changed.notify()  # one thread wakes the next, as long as there are rows for them
                    return index
                self._changed.wait(_POLL_S)
        return None

    def end(self, index: int) -> None:
        """The row's fetch is over."""
        with self._changed:
            host = self.hosts[index]
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]
            self._ended[index] = True
            while self._oldest < len(self._ended) and self._ended[self._oldest]:
                self._oldest += 1
            self._changed.notify()

    def _find(self) -> int | None:
        for place, index in enumerate(self._passed_over):
            if self._has_room(index):
                return self._passed_over.pop(place)
        while self._next < min(len(self.hosts), self._oldest + self._look_ahead):
            index = self._next
            self._next += 1
            if self._has_room(index):
                return index
            self._passed_over.append(index)
        return None

    def _has_room(self, index: int) -> bool:
        host = self.hosts[index]
        num_busy = self._busy[host] if host else 0
        return num_busy < self._per_host and not (num_busy and self._is_doubtful(host))
