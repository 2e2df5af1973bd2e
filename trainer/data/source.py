"""Parts of a store's files, which stay open."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lposekit.store import Store, StoredFile

MAX_OPEN_FILES = 64


@dataclass(slots=True)
class OpenFiles:
    """Reads parts of files that do not change. One object may serve many processes: it opens what it needs in each."""

    store: Store
    _open: dict[tuple[int, str], StoredFile] = field(default_factory=dict)

    def read(self, name: str, offset: int, size: int, file_bytes: int | None = None) -> bytes:
        """`size` bytes at `offset`; fewer if the file ends before. `file_bytes`: what the file's size must be.

        Raises:
            OSError: it cannot be read, is refused, or has another size.
        """
        # by process as well: a descriptor opened before a fork would be closed under the other's feet
        key = (os.getpid(), name)
        if key not in self._open:
            while len(self._open) >= MAX_OPEN_FILES:
                oldest = next(iter(self._open))
                self._open.pop(oldest).close()
            opened = self.store.open(name)
            if file_bytes not in (None, opened.size):
                opened.close()
                raise OSError(f"{name} has {opened.size} bytes, its commit says {file_bytes}")
            self._open[key] = opened
        return self._open[key].read(offset, size)

    def __getstate__(self) -> tuple[Store]:
        return (self.store,)

    def __setstate__(self, state: tuple[Store]) -> None:
        self.store, self._open = state[0], {}
