"""The one way in which a dataset, run or weights folder is read: list (or scan), stat, ranged open.

What lies in such a folder may come from a stranger: a name may be a link to a private file, or a pipe that never ends.
A `Store` gives out regular files below its root and follows no links; the root itself is the user's own word, so it may
be one. The form for object stores (`lposekit.remote.store`) has the same calls. Caps on sizes and depth stand above
them (`lposekit.store_reads`), once for all forms.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Kind = Literal["file", "folder", "link", "other"]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# not blocking: a pipe of this name would let the reader wait for ever
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REFUSALS: Mapping[Kind, str] = {
    "folder": "a folder, not a file",
    "link": "a link, and links are not followed",
    "other": "no regular file",
}
"""Why something is not opened."""


class RefusedFile(OSError):
    """A name that is there, and is not opened: a link, a pipe, a device, or outside the root."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a name stands for; `size` in bytes, of a file.

    changed_ns: when its bytes last changed, in ns since 1970; 0 where that is not known. md5: of its bytes, where the
    store knows it without reading them; object stores do.
    """

    kind: Kind
    size: int
    changed_ns: int = field(default=0, compare=False)
    md5: bytes | None = field(default=None, compare=False)


class Entry(Protocol):
    """One name of a folder that is scanned. Ask for `facts` before the next entry."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    def facts(self) -> Facts:
        """Raises FileNotFoundError: it is gone since."""
        ...


class StoredFile(Protocol):
    """A file opened for reading; it goes on meaning the same file, whatever becomes of its name."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; fewer if the file ends before. Raises OSError: it cannot be read."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """The files below one root, by names relative to it with `/` between folders. `str()` says where it is.

    All calls raise `RefusedFile` for what is not opened, FileNotFoundError if nothing is there, and other OSErrors for
    the rest.
    """

    def list(self, folder: str = "") -> Mapping[str, Kind]:
        """What lies directly in a folder, sorted by name."""
        ...

    def scan(self, folder: str = "") -> Iterator[Entry]:
        """As `list`, in no order, one entry at a time: for folders of a million names. Close it, or go to its end."""
        ...

    def stat(self, name: str) -> Facts:
        """What a name stands for, links not followed."""
        ...

    def open(self, name: str) -> StoredFile:
        """Open a regular file, for reads at any place."""
        ...


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Files of a local folder. Objects are cheap, and hold nothing open."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def list(self, folder: str = "") -> Mapping[str, Kind]:
        return dict(sorted((entry.name, entry.kind) for entry in self.scan(folder)))

    def scan(self, folder: str = "") -> Iterator[Entry]:
        descriptor = self._folder(relative_parts(folder) if folder else ())
        try:
            with os.scandir(descriptor) as found:
                yield from map(LocalEntry, found)
        finally:
            os.close(descriptor)

    def stat(self, name: str) -> Facts:
        *folders, last = relative_parts(name)
        parent = self._folder(folders)
        try:
            found = os.stat(last, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        return _facts(found)

    def open(self, name: str) -> LocalFile:
        *folders, last = relative_parts(name)
        parent = self._folder(folders)
        try:
            # looked at before it is opened: to open a device may have effects
            _refuse_other(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode, name)
            descriptor = os.open(last, _FILE, dir_fd=parent)
        finally:
            os.close(parent)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise RefusedFile(errno.ELOOP, REFUSALS["other"], name)
        return LocalFile(descriptor, found.st_size, self.root / name)

    def _folder(self, parts: tuple[str, ...] | list[str]) -> int:
        """A descriptor of a folder, each step of the way to it a real folder."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for i, part in enumerate(parts):
            try:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                is_link = stat.S_ISLNK(os.stat(part, dir_fd=descriptor, follow_symlinks=False).st_mode)
                why = REFUSALS["link"] if is_link else "a file, not a folder"
                raise RefusedFile(errno.ELOOP, why, "/".join(parts[: i + 1])) from error
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor


@dataclass(slots=True)
class LocalEntry:
    """A name in a local folder that is scanned."""

    found: os.DirEntry[str]

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def kind(self) -> Kind:
        return _kind_of(self.found)

    def facts(self) -> Facts:
        return _facts(self.found.stat(follow_symlinks=False))


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file, open; one system call a read."""

    descriptor: int
    size: int
    path: Path

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def close(self) -> None:
        os.close(self.descriptor)


def relative_parts(name: str) -> tuple[str, ...]:
    """The steps of a name below a root. Raises RefusedFile: it leads elsewhere."""
    parts = tuple(name.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RefusedFile(errno.EPERM, "it lies outside the folder", name)
    return parts


def _facts(found: os.stat_result) -> Facts:
    return Facts(_kind(found.st_mode), found.st_size, found.st_mtime_ns)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def _kind_of(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    if entry.is_file(follow_symlinks=False):
        return "file"
    return "folder" if entry.is_dir(follow_symlinks=False) else "other"


def _refuse_other(mode: int, name: str) -> None:
    if (kind := _kind(mode)) != "file":
        raise RefusedFile(errno.ELOOP, REFUSALS[kind], name)
