"""Carries payloads of plain values and large buffers between two processes that do not trust each other.

A payload is made of dict (string keys), list, tuple (arrives as list), str, int, float, bool, None, bytes and numpy
arrays of numbers. Its buffers lie one after the other in a memory file that both processes hold, its shape behind them
as JSON. Nothing is pickled, and nothing is mapped (a mapped file that the other side shortens is a SIGBUS): buffers are
read by `pread` into memory of the reader's own, 1 MB in 0.1 ms.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_MAX_JSON_BYTES = 16 * 2**20
_KEEP_BYTES = 64 * 2**20
_NUMBERS = "biufc"


@dataclass(frozen=True, slots=True)
class Arena:
    """A memory file of one writer at a time. `limit_bytes` bounds what `read` allocates for one payload."""

    fd: int
    limit_bytes: int = 2**31

    def write(self, payload: object) -> tuple[int, int]:
        """Put `payload` into the file; returns place and length of its JSON."""
        buffers: list[memoryview] = []
        text = json.dumps(_packed(payload, buffers)).encode()
        place = 0
        for buffer in (*buffers, memoryview(text)):
            place = _write_all(self.fd, buffer, place)
        return place - len(text), len(text)

    def read(self, place: int, length: int) -> Any:
        """The payload whose JSON lies at `place`.

        Raises:
            ValueError: it is none.
        """
        if length > _MAX_JSON_BYTES:
            raise ValueError(f"{length} bytes of JSON")
        try:
            packed = json.loads(_read_bytes(self.fd, length, place))
            return _unpacked(packed, _Buffers(self.fd, min(place, self.limit_bytes)))
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
    place: int = 0

    def take(self, length: int) -> int:
        if not 0 <= length <= self.left:
            raise ValueError(f"a buffer of {length} bytes where {self.left} are left")
        place = self.place
        self.left -= length
        self.place += length
        return place


def _packed(value: object, buffers: list[memoryview]) -> object:
    """`value` as JSON types: each container and buffer becomes a one-item dict that names its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": {key: _packed(item, buffers) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [_packed(item, buffers) for item in value]}
    if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS:
        buffers.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return {"array": [value.dtype.str, list(value.shape)]}
    if isinstance(value, bytes | bytearray | memoryview):
        buffers.append(memoryview(value).cast("B"))
        return {"bytes": buffers[-1].nbytes}
    raise TypeError(f"a {type(value).__name__} cannot travel between processes: use plain values, bytes, arrays")


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
    raise ValueError(f"unknown kind {kind!r}")


def _read_array(dtype_text: str, shape: list[int], buffers: _Buffers) -> np.ndarray:
    dtype = np.dtype(dtype_text)
    if dtype.kind not in _NUMBERS or any(side < 0 for side in shape):
        raise ValueError(f"array of {dtype_text}, shape {shape}")
    length = dtype.itemsize * math.prod(shape)
    place = buffers.take(length)
    array = np.empty(shape, dtype)
    if length:
        _read_into(buffers.fd, array.reshape(-1).view(np.uint8).data, place)
    return array


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
