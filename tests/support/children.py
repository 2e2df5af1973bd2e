"""Processes of a test's own that start at once: children of a fork server that has the heavy modules imported already.

They share no thread, no random state and no open file with the tests.
"""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = ("trainer.train", "tests.support.train_runs", "tests.support.dataset_folder")


@functools.cache
def children() -> ForkServerContext:
    """The context to make processes with; its server starts with the first of them and imports `PRELOADED`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
