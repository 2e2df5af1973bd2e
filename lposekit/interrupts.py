"""SIGINT (Ctrl-C) and SIGTERM (a scheduler): the first asks for a stop; a second Ctrl-C ends at once.

A second SIGTERM does not: a scheduler sends one to all processes, and a launcher such as torchrun, which got one as
well, hands it on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Interrupts:
    """What was asked for so far. `stop`: begin nothing more; `drop`: leave what is in work as well.

    first_message: logged at the first signal, to say what happens now. second_raises: a second Ctrl-C raises
    KeyboardInterrupt too, for work that does not look at `drop`; may change inside.
    """

    first_message: str = "interrupted: finishing the shards in work; press Ctrl-C again to drop them"
    second_raises: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    drop: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Listen for both signals while inside, also where they were inherited as ignored (nohup, a shell's `&`).

        Outside the main thread, where Python cannot listen, do nothing.
        """
        with handlers_restored():
            if _in_main_thread():
                for number in STOP_SIGNALS:
                    signal.signal(number, self._on_signal)
            yield self

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self._stopping:
            # a plain flag first: a signal that interrupts this handler must not wait for the event's lock
            self._stopping = True
            logger.warning(self.first_message)
            self.stop.set()
        elif number == signal.SIGINT:
            self.drop.set()
            if self.second_raises:
                raise KeyboardInterrupt


@contextlib.contextmanager
def handlers_restored() -> Iterator[None]:
    """Put the handlers of both signals back at the end, whatever was installed inside."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not installed from Python, so Python cannot put it back
                signal.signal(number, handler)


def reinstall_handlers() -> None:
    """Install both signals' handlers as Python knows them once more: native code may have put the system's default in
    their place, of which Python learns nothing. Outside the main thread, do nothing.
    """
    with handlers_restored():
        pass


def raise_on_stop_signals() -> None:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does, for a process that is wholly ours; and let Ctrl-C do so also
    where it was inherited as ignored (nohup, a shell's `&`, some CI).

    A child that was forked with this handler ends by SIGTERM as if it had none.
    """
    owner = os.getpid()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_sigterm(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, on_sigterm)


def ignore_stop_signals() -> None:
    """Once the exit code of an interrupted process stands, one more signal must not change it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
