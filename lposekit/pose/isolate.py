"""Run a batch so that one bad item fails alone.

An error in a batch is narrowed down by halving until the item that causes it stands alone; the others get their
results. Running out of GPU memory is such an error: the halves take less, and an item that does not fit by itself
fails.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2

from lposekit.records import PoseFailure

_LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

ITEM_ERRORS = (RuntimeError, ArithmeticError, ValueError, MemoryError, cv2.error)
"""What a bad image can cause in OpenCV, torch and our own checks. Others (TypeError, AssertionError) are bugs."""


def run_isolated(run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result | PoseFailure]:
    """`run(items)`; if it raises one of `ITEM_ERRORS`, the halves apart, down to single items.

    Raises:
        torch.AcceleratorError: the GPU is gone (illegal access, lost device): nothing can run in this process any more.
    """
    try:
        return list(run(items))
    except ITEM_ERRORS as error:
        torch = sys.modules.get("torch")  # not imported for this: an engine does without
        if torch is not None and isinstance(error, torch.AcceleratorError):
            raise
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        if len(items) == 1:
            return [PoseFailure(_describe(error))]
        _LOG.warning("a batch of %d failed (%s): halving it", len(items), _describe(error))
    # Outside the except block, which keeps the failed batch's tensors alive through the traceback.
    middle = len(items) // 2
    return run_isolated(run, items[:middle]) + run_isolated(run, items[middle:])


def _describe(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:300]
