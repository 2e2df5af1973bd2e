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

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; fewer if the file ends before.

        Raises:
            OSError: it cannot be read, or is refused.
        """
        # by process as well: a descriptor opened before a fork would be closed under the other's feet
        key = (os.getpid(), name)
        if key not in self._open:
            while len(self._open) >= MAX_OPEN_FILES:
                oldest = next(iter(self._open))
                self._open.pop(oldest).close()
            self._open[key] = self.store.open(name)
        return self._open[key].read(offset, size)

    def __getstate__(self) -> tuple[Store]:
        return (self.store,)

    def __setstate__(self, state: tuple[Store]) -> None:
        self.store, self._open = state[0], {}
