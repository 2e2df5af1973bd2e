"""Carries payloads of plain values and large buffers between two processes that do not trust each other.

A payload is made of dict (string keys), list, tuple (arrives as list), str, int, float, bool, None, bytes and numpy
arrays of numbers. Its buffers lie one after the other in a memory file that both processes hold, its shape behind them
as JSON. Nothing is pickled, and this file is not mapped (a mapped file that the other side shortens is a SIGBUS):
buffers are read by `pread` into memory of the reader's own. One large array may go another way, through a place of
`slots`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lposekit.sandbox.slots import Slot

_MAX_JSON_BYTES = 16 * 2**20
_KEEP_BYTES = 64 * 2**20
_LARGE_BYTES = 64 * 2**10
_NUMBERS = "biufc"


@dataclass(frozen=True, slots=True)
class Arena:
    """A memory file of one writer at a time. `limit_bytes` bounds what `read` allocates for one payload."""

    fd: int
    limit_bytes: int = 2**31

    def write(self, payload: object, slot: memoryview | None = None) -> tuple[int, int]:
        """Put `payload` into the file, and its first large array into `slot`; returns place and length of its JSON."""
        packing = _Packing(slot)
        text = json.dumps(packing.packed(payload)).encode()
        place = 0
        for buffer in (*packing.buffers, memoryview(text)):
            place = _write_all(self.fd, buffer, place)
        return place - len(text), len(text)

    def read(self, place: int, length: int, slot: Slot | None = None) -> Any:
        """The payload whose JSON lies at `place`; `slot`: where one of its arrays may be.

        Raises:
            ValueError: it is none.
        """
        if length > _MAX_JSON_BYTES:
            raise ValueError(f"{length} bytes of JSON")
        try:
            packed = json.loads(_read_bytes(self.fd, length, place))
            return _unpacked(packed, _Buffers(self.fd, min(place, self.limit_bytes), slot))
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as err:
            raise ValueError(f"malformed payload: {err!r}") from err

    def empty_if_large(self) -> None:
        """Give the memory of an unusually large payload back."""
        if os.fstat(self.fd).st_size > _KEEP_BYTES:
            os.ftruncate(self.fd, 0)


@dataclass(slots=True)
class _Buffers:
    """Reads the buffers in the order in which they were written; `left` bytes at most, all together."""

    fd: int
    left: int
    slot: Slot | None
    place: int = 0

    def take(self, length: int) -> int:
        if not 0 <= length <= self.left:
            raise ValueError(f"a buffer of {length} bytes where {self.left} are left")
        place = self.place
        self.left -= length
        self.place += length
        return place


@dataclass(slots=True)
class _Packing:
    """Turns a payload into JSON types: each container and buffer becomes a one-item dict that names its kind."""

    slot: memoryview | None
    buffers: list[memoryview] = field(default_factory=list)

    def packed(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, dict):
            return {"dict": {key: self.packed(item) for key, item in value.items()}}
        if isinstance(value, list | tuple):
            return {"list": [self.packed(item) for item in value]}
        if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS:
            return {self._kind_of(value): [value.dtype.str, list(value.shape)]}
        if isinstance(value, bytes | bytearray | memoryview):
            self.buffers.append(memoryview(value).cast("B"))
            return {"bytes": self.buffers[-1].nbytes}
        raise TypeError(f"a {type(value).__name__} cannot travel between processes: use plain values, bytes, arrays")

    def _kind_of(self, array: np.ndarray) -> str:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if self.slot is not None and _LARGE_BYTES <= flat.nbytes <= self.slot.nbytes:
            place = np.frombuffer(self.slot, np.uint8)[: flat.nbytes]
            if not _is_the_same(place, flat):
                place[:] = flat
            self.slot = None
            return "slot"
        self.buffers.append(flat.data)
        return "array"


def _is_the_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two flat arrays of one length and type are the same memory."""
    return one.__array_interface__["data"][0] == other.__array_interface__["data"][0]


def _unpacked(value: Any, buffers: _Buffers) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _unpacked(item, buffers) for key, item in content.items()}
    if kind == "list":
        return [_unpacked(item, buffers) for item in content]
    if kind == "bytes":
        return _read_bytes(buffers.fd, content, buffers.take(content))
    if kind == "array":
        dtype_text, shape = content
        return _read_array(dtype_text, shape, buffers)
    if kind == "slot" and buffers.slot is not None:
        dtype_text, shape = content
        return buffers.slot.array(_checked(dtype_text, shape), shape)
    raise ValueError(f"unknown kind {kind!r}")


def _read_array(dtype_text: str, shape: list[int], buffers: _Buffers) -> np.ndarray:
    dtype = _checked(dtype_text, shape)
    length = dtype.itemsize * math.prod(shape)
    place = buffers.take(length)
    array = np.empty(shape, dtype)
    if length:
        _read_into(buffers.fd, array.reshape(-1).view(np.uint8).data, place)
    return array


def _checked(dtype_text: str, shape: list[int]) -> np.dtype[Any]:
    dtype = np.dtype(dtype_text)
    if dtype.kind not in _NUMBERS or any(side < 0 for side in shape):
        raise ValueError(f"array of {dtype_text}, shape {shape}")
    return dtype


def _read_bytes(fd: int, length: int, place: int) -> bytes:
    data = os.pread(fd, length, place)
    if len(data) != length:  # pread ends at 2 GiB and at the end of the file
        raise ValueError(f"{len(data)} of {length} bytes")
    return data


def _read_into(fd: int, view: memoryview, place: int) -> None:
    for chunk in _chunks(view):
        if os.preadv(fd, [chunk], place) != len(chunk):
            raise ValueError("the memory file ends within a buffer")
        place += len(chunk)


def _write_all(fd: int, view: memoryview, place: int) -> int:
    for chunk in _chunks(view):
        written = os.pwrite(fd, chunk, place)
        if written != len(chunk):
            raise OSError(f"{written} of {len(chunk)} bytes fitted into the memory file")
        place += written
    return place


def _chunks(view: memoryview, size: int = 2**30) -> Iterator[memoryview]:
    """Parts that one system call takes whole (Linux moves less than 2 GiB at a time)."""
    return (view[start : start + size] for start in range(0, len(view), size))
