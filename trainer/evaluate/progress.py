"""How far an evaluation is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

LINE_EVERY_S = 15.0


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each of the `total` pairs."""
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    hidden = not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"
    bar = Progress(*columns, console=Console(stderr=True), disable=hidden)
    last, done = time.monotonic(), 0
    with bar:
        task = bar.add_task(what, total=total)

        def advance() -> None:
            nonlocal last, done
            done += 1
            bar.update(task, completed=done)
            if hidden and time.monotonic() - last > LINE_EVERY_S:
                last = time.monotonic()
                log.info("%s: %d of %d pairs", what, done, total)

        yield advance
