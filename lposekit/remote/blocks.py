"""Blocks of remote files on the local disk, shared by all processes of a user, with a cap on their bytes.

A block appears whole, by rename, under a name made of what the file was when it was opened. Of several readers that
miss the same block one fetches it. What was used longest ago goes first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import platformdirs

from lposekit.errors import UsageError

FOLDER_VARIABLE, SIZE_VARIABLE = "LPOSEKIT_REMOTE_CACHE", "LPOSEKIT_REMOTE_CACHE_GB"
DEFAULT_GB = 20.0
BLOCK_BYTES = 1 << 22
_USED_AGAIN_S = 60.0
_ROOM = 0.8
"""Share of the cap that is left filled when something had to go."""


@dataclass(slots=True)
class BlockCache:
    """A folder of blocks. `max_bytes`: of all of them, kept within a few blocks for each process that writes."""

    folder: Path
    max_bytes: int
    block_bytes: int = BLOCK_BYTES
    _written: dict[int, int] = field(default_factory=dict)
    """By process: bytes written since the cap was looked at."""

    def read(self, name: str, offset: int, size: int, file_bytes: int, fetch: Callable[[int, int], bytes]) -> bytes:
        """`size` bytes at `offset` of a file, all of which lie in it.

        Args:
            name: stands for the file as it is now: hexadecimal digits.
            fetch: (start, stop) -> those bytes of the file.
        """
        parts = []
        first, last = offset // self.block_bytes, (offset + size - 1) // self.block_bytes
        for number in range(first, last + 1):
            start = number * self.block_bytes
            stop = min(start + self.block_bytes, file_bytes)
            low, high = max(offset, start) - start, min(offset + size, stop) - start
            parts.append(self._part(name, number, (start, stop), (low, high), fetch))
        return b"".join(parts)

    def _part(
        self, name: str, number: int, whole: tuple[int, int], part: tuple[int, int], fetch: Callable[[int, int], bytes]
    ) -> bytes:
        path, num_bytes = self.folder / name[:2] / f"{name}-{number}", whole[1] - whole[0]
        found = _read_part(path, num_bytes, part)
        if found is not None:
            return found
        with self._locked(f"{int(name[-2:], 16) ^ number & 0xFF:02x}"):
            found = _read_part(path, num_bytes, part)
            if found is not None:
                return found
            data = fetch(*whole)
            with contextlib.suppress(OSError):  # a full disk makes it slower, not wrong
                self._write(path, data)
        return data[part[0] : part[1]]

    def _write(self, path: Path, data: bytes) -> None:
        self._make_room(len(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        try:
            with partial.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fdatasync(stream.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _make_room(self, num_bytes: int) -> None:
        """Every now and then: removes what was used longest ago, if all is more than the cap."""
        process = os.getpid()
        written = self._written.get(process)
        self._written[process] = (written or 0) + num_bytes
        if written is not None and self._written[process] <= self.max_bytes // 64:
            return
        self._written[process] = 0
        found = sorted(_blocks(self.folder))
        total = sum(size for _, size, _ in found) + num_bytes
        if total <= self.max_bytes:
            return
        for _, size, path in found:
            if total <= _ROOM * self.max_bytes:
                break
            with contextlib.suppress(OSError):  # another process was faster
                os.unlink(path)
            total -= size

    @contextlib.contextmanager
    def _locked(self, which: str) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder / f"lock-{which}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            yield  # nothing can be kept, so nothing needs to be waited for
            return
        try:
            with contextlib.suppress(OSError):  # a file system without locks: fetched twice, that is all
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _read_part(path: Path, num_bytes: int, part: tuple[int, int]) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if found.st_size != num_bytes:
            return None
        if time.time() - found.st_mtime > _USED_AGAIN_S:
            os.utime(descriptor)
        data = os.pread(descriptor, part[1] - part[0], part[0])
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data if len(data) == part[1] - part[0] else None


def _blocks(folder: Path) -> Iterator[tuple[float, int, str]]:
    """Time of last use, size and path of every block."""
    for below in [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]:
        with os.scandir(below) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    yield facts.st_mtime, facts.st_size, entry.path


def user_cache() -> BlockCache:
    """The cache of this user: in `LPOSEKIT_REMOTE_CACHE`, of at most `LPOSEKIT_REMOTE_CACHE_GB` gigabytes (default 20,
    and half of what is free).

    Raises:
        UsageError: the size is no number.
    """
    return _user_cache(os.environ.get(FOLDER_VARIABLE), os.environ.get(SIZE_VARIABLE))


@lru_cache(4)
def _user_cache(folder: str | None, size: str | None) -> BlockCache:
    root = Path(folder) if folder else platformdirs.user_cache_path("lposekit") / "blocks"
    try:
        max_bytes = int(float(size or DEFAULT_GB) * 1e9)
    except (ValueError, OverflowError):
        raise UsageError(f"{SIZE_VARIABLE}={size}: not a number of gigabytes, such as 20 or 0.5") from None
    if not size:
        with contextlib.suppress(OSError):
            above = next(path for path in [root, *root.parents] if path.exists())
            max_bytes = min(max_bytes, shutil.disk_usage(above).free // 2)
    return BlockCache(root, max_bytes)
