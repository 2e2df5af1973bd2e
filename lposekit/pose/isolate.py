"""Run a batch so that one bad item fails alone.

An error in a batch is narrowed down by halving until the item that causes it stands alone; the others get their
results. Running out of GPU memory is such an error: the halves take less. A single item that does not fit waits for the
batches of other threads and processes to end, and fails after `MEMORY_TRIES`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2

from lposekit.records import PoseFailure

_LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

ITEM_ERRORS = (RuntimeError, ArithmeticError, ValueError, MemoryError, cv2.error)
"""What a bad image can cause in OpenCV, torch and our own checks. Others (TypeError, AssertionError) are bugs."""
MEMORY_TRIES = 5
"""Of a single item on a GPU whose memory others may hold."""
MEMORY_WAIT_S = 1.0


def run_isolated(
    run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], tries: int = MEMORY_TRIES
) -> list[Result | PoseFailure]:
    """`run(items)`; if it raises one of `ITEM_ERRORS`, the halves apart, down to single items.

    Args:
        tries: left to a single item that the GPU has no memory for.

    Raises:
        torch.AcceleratorError: see `is_device_lost`.
    """
    try:
        return list(run(items))
    except ITEM_ERRORS as error:
        if is_device_lost(error):
            raise
        no_memory = _is_out_of_memory(error)
        waits = no_memory and len(items) == 1 and tries > 1
        if len(items) == 1 and not waits:
            return [PoseFailure(_describe(error))]
        what = "waiting for memory" if waits else "halving it"
        _LOG.warning("a batch of %d failed (%s): %s", len(items), _describe(error), what)
    # Outside the except block, which keeps the failed batch's tensors alive through the traceback.
    if no_memory:
        sys.modules["torch"].cuda.empty_cache()
    if waits:
        time.sleep(MEMORY_WAIT_S)
        return run_isolated(run, items, tries - 1)
    middle = len(items) // 2
    return run_isolated(run, items[:middle]) + run_isolated(run, items[middle:])


def is_device_lost(error: BaseException) -> bool:
    """Whether the GPU is gone (illegal access, lost device): then nothing can run on it in this process any more."""
    torch = sys.modules.get("torch")  # not imported for this: an engine does without
    return torch is not None and isinstance(error, torch.AcceleratorError) and not _is_out_of_memory(error)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU has no memory left, be it torch's allocator or the driver that says so."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    by_driver = isinstance(error, torch.AcceleratorError) and "out of memory" in str(error)
    return by_driver or isinstance(error, torch.OutOfMemoryError)


def _describe(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:300]
