"""Where bytes come from. Local folders today; an object store needs one more class with these two methods."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MAX_OPEN_FILES = 64


class ByteSource(Protocol):
    """Reads parts of files that do not change. One object may serve many processes: it opens what it needs in each."""

    def size(self, name: str) -> int | None:
        """Bytes of the file, None if there is none."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; fewer if the file ends before.

        Raises:
            OSError: it cannot be read.
        """
        ...


@dataclass(slots=True)
class LocalFiles:
    """Files of a folder, kept open, read with one system call each."""

    root: Path
    _open: dict[tuple[int, str], int] = field(default_factory=dict)

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor(name), size, offset)

    def _descriptor(self, name: str) -> int:
        # by process as well: a descriptor opened before a fork would be closed under the other's feet
        key = (os.getpid(), name)
        if key not in self._open:
            while len(self._open) >= MAX_OPEN_FILES:
                oldest = next(iter(self._open))
                os.close(self._open.pop(oldest))
            self._open[key] = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[key]

    def __getstate__(self) -> tuple[Path]:
        return (self.root,)

    def __setstate__(self, state: tuple[Path]) -> None:
        self.root, self._open = state[0], {}
