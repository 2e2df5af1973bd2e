"""Ctrl-C and SIGTERM let the step end and a checkpoint be written; a second Ctrl-C ends at once.

A second SIGTERM does not: a scheduler sends one to all processes, and torchrun, which got one as well, hands it on.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StopRequest:
    """Whether the user asked to stop."""

    wanted: bool = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.wanted and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.wanted:
            log.warning("stopping after this step, with a checkpoint; Ctrl-C to stop now")
        self.wanted = True


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listens for the signals while inside; in a thread other than the main one there is nothing to listen to."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
