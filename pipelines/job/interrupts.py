"""Ctrl-C: once, hand out nothing more and finish what is in work; twice, drop it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interrupts:
    """What the user asked for so far."""

    stop: threading.Event = field(default_factory=threading.Event)
    drop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Take over SIGINT; outside the main thread, where Python cannot, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, old)

    def _on_signal(self, *_: object) -> None:
        if self.stop.is_set():
            self.drop.set()
            return
        self.stop.set()
        logger.warning("interrupted: finishing the shards in work; press Ctrl-C again to drop them")
