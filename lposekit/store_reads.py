"""Reads from any `Store`: whole small files, hashes, streams, walks, with the caps that hold for all of its forms."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lposekit.store import Kind, LocalFile, Store, StoredFile

MAX_DEPTH = 8
"""Of folders in folders. Caches of latents, the deepest of ours, need four."""
_READ_AT_ONCE = 1 << 22


def kind_of(store: Store, name: str) -> Kind | None:
    """What a name stands for; None if nothing is there, the folders before it included."""
    try:
        return store.stat(name).kind
    except FileNotFoundError:
        return None


def walk(store: Store, folder: str = "", depth: int = 0) -> Iterator[tuple[str, Kind]]:
    """Every name below a folder and what it stands for, no deeper than `MAX_DEPTH` folders; links are not followed.

    In no order, and folder by folder: what is held is the names of folders alone.
    """
    folders = []
    for entry in store.scan(folder):
        path, kind = f"{folder}/{entry.name}" if folder else entry.name, entry.kind
        yield path, kind
        if kind == "folder" and depth < MAX_DEPTH:
            folders.append(path)
    for path in sorted(folders):
        yield from walk(store, path, depth + 1)


def read_whole(store: Store, name: str, max_bytes: int) -> bytes:
    """All bytes of a small file.

    Raises:
        OSError: there is none, or it is refused. ValueError: it is longer than `max_bytes`.
    """
    with contextlib.closing(store.open(name)) as file:
        data = file.read(0, max_bytes + 1)  # a growing file is no longer than its cap either
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes} bytes")
    return data


def sha256_of(store: Store, name: str) -> str:
    """SHA-256 of a file, as hexadecimal digits. Raises OSError: there is none, or it is refused."""
    sha, offset = hashlib.sha256(), 0
    with contextlib.closing(store.open(name)) as file:
        while chunk := file.read(offset, _READ_AT_ONCE):
            sha.update(chunk)
            offset += len(chunk)
    return sha.hexdigest()


def copy_to(store: Store, name: str, path: Path) -> None:
    """Copy a file to a new local one. Raises OSError: there is none, it is refused, or `path` cannot be written."""
    with contextlib.closing(store.open(name)) as file, path.open("xb") as copy:
        shutil.copyfileobj(_Raw(file), copy, _READ_AT_ONCE)


@contextlib.contextmanager
def stream_of(store: Store, name: str) -> Iterator[BinaryIO]:
    """A file as a stream, for libraries that read one. Raises OSError: there is none, or it is refused."""
    with contextlib.closing(store.open(name)) as file, io.BufferedReader(_Raw(file), _READ_AT_ONCE) as stream:
        yield stream


@contextlib.contextmanager
def local_path(store: Store, name: str) -> Iterator[Path]:
    """A path to the bytes of a file, for libraries that open one themselves.

    Raises:
        OSError: there is none, or it is refused.
    """
    with contextlib.closing(store.open(name)) as file:
        if isinstance(file, LocalFile):
            # Linux names what is open, so that nobody can put a link in its place meanwhile
            yield Path(f"/proc/self/fd/{file.descriptor}") if sys.platform == "linux" else file.path
            return
        with tempfile.NamedTemporaryFile() as spooled:
            shutil.copyfileobj(_Raw(file), spooled, _READ_AT_ONCE)
            spooled.flush()
            yield Path(spooled.name)


class _Raw(io.RawIOBase):
    """A stored file as Python's raw stream."""

    def __init__(self, file: StoredFile) -> None:
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._file.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place
