"""Ctrl-C and SIGTERM: the first lets the step end and a checkpoint be written, the second ends at once."""

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
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        log.warning("stopping after this step, with a checkpoint; once more to stop now")


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
