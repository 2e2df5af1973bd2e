"""A store that is no folder: what a form for object stores would be, with the same three calls."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lposekit.store import Entry, Facts, Kind, Store, StoredFile


@dataclass(frozen=True)
class MemoryFile:
    name: str
    data: bytes
    read_bytes: Counter[str]

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        stream = io.BytesIO(self.data)
        stream.seek(offset)
        chunk = stream.read(size)
        self.read_bytes[self.name] += len(chunk)
        return chunk

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class MemoryEntry:
    name: str
    kind: Kind
    size: int

    def facts(self) -> Facts:
        return Facts(self.kind, self.size)


@dataclass(frozen=True)
class MemoryStore:
    """Counts what is read of each file."""

    files: dict[str, bytes]
    read_bytes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return "memory"

    def list(self, folder: str = "") -> Mapping[str, Kind]:
        start = f"{folder}/" if folder else ""
        below = [name.removeprefix(start) for name in self.files if name.startswith(start)]
        return {name.partition("/")[0]: "folder" if "/" in name else "file" for name in sorted(below)}

    def scan(self, folder: str = "") -> Iterator[Entry]:
        start = f"{folder}/" if folder else ""
        for name, kind in self.list(folder).items():
            yield MemoryEntry(name, kind, len(self.files.get(start + name, b"")))

    def stat(self, name: str) -> Facts:
        return Facts("file", self._open(name).size)

    def open(self, name: str) -> StoredFile:
        return self._open(name)

    def _open(self, name: str) -> MemoryFile:
        if name not in self.files:
            raise FileNotFoundError(name)
        return MemoryFile(name, self.files[name], self.read_bytes)


_FITS: type[Store] = MemoryStore
