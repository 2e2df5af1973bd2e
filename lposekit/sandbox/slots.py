"""Places for one large array each, in a memory file that both processes map: the array is not copied on its way.

The file is sealed before the child gets it: nobody can shorten it, so no reader of it dies of pages that are gone
(SIGBUS). A child that its input has taken over can change an array after its answer; it could have lied in the answer
as well, and it reaches no other memory of its parent.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PAGE = mmap.PAGESIZE


class Slots:
    """The parent's side: `count` places of `num_bytes` each; each is taken as long as something holds its array."""

    def __init__(self, count: int, num_bytes: int) -> None:
        assert num_bytes % _PAGE == 0, "places begin with pages"
        self.fd = os.memfd_create("sandbox-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, count * num_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self.fd, count * num_bytes, prot=mmap.PROT_READ)
        self._num_bytes = num_bytes
        self._free = deque(range(count))

    def take(self) -> Slot | None:
        """A free place, the last one that became free; None where all hold arrays that are still in use."""
        try:
            return Slot(self._free.pop(), self._num_bytes, self._memory, self._free)
        except IndexError:
            return None


class Slot:
    """One place, for the answer to one call. It is free again when its array is gone, or by `unless_used`."""

    def __init__(self, number: int, num_bytes: int, memory: mmap.mmap, free: deque[int]) -> None:
        self.number = number
        self._num_bytes = num_bytes
        self._memory = memory
        self._free = free
        self._is_used = False

    def array(self, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
        """The array that the child says lies here, read-only.

        Raises:
            ValueError: it cannot, or the answer has a second one.
        """
        dtype, count = np.dtype(dtype), math.prod(shape)
        if self._is_used or not 0 <= count * dtype.itemsize <= self._num_bytes:
            raise ValueError(f"no array of {dtype}, shape {shape}, lies in a place of {self._num_bytes} bytes")
        flat = np.frombuffer(self._memory, dtype, count, self.number * self._num_bytes)
        self._is_used = True
        weakref.finalize(flat, self._free.append, self.number)  # views of it keep it
        return flat.reshape(shape)

    def unless_used(self) -> None:
        """Free the place, if the answer put nothing there."""
        if not self._is_used:
            self._free.append(self.number)


def mapped_by_child(fd: int, num_bytes: int) -> list[memoryview]:
    """The child's side: its places, to write to. Without any, `fd` is not open."""
    if not num_bytes:
        return []
    memory = memoryview(mmap.mmap(fd, 0))
    return [memory[start : start + num_bytes] for start in range(0, len(memory), num_bytes)]
