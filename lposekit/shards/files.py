"""Files that appear whole or not at all: written beside, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.faults import fault_point
from lposekit.json_values import JsonValue, strict_json
from lposekit.remote.places import is_remote, place_of
from lposekit.store import REFUSALS, LocalStore, RefusedFile
from lposekit.store_reads import walk

_OWN = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MIN_OPEN_FILES = 1024
"""Of one process: a driver with its Ray, or a worker with its connections."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_error(error: OSError, path: Path, num_bytes: int | None = None) -> LposekitError:
    """An operating system's refusal to write, in words that say what to do."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LposekitError(f"{path}: {too_few_files()}")
    if error.errno in {*DISK_FULL, errno.EFBIG}:
        need = f" ({num_bytes} bytes were to be written)" if num_bytes else ""
        return LposekitError(f"{path}: the disk is full{need}. Free space, then run the same command again to resume.")
    return LposekitError(f"{path}: {error.strerror or error}. Check the folder, then run the same command to resume.")


def too_few_files() -> str:
    """In words, that this process may open too few files at a time, and what to do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    who = "" if _enough(hard) else " (the administrator has to permit it)"
    return (
        f"a process may have {soft} files open, and a build needs {MIN_OPEN_FILES}. Raise the limit{who}: "
        f"`ulimit -n {MIN_OPEN_FILES}`, then run the same command again."
    )


def allow_open_files() -> None:
    """Raise the limit of open files of this process, and of those that it starts, as far as a build needs.

    Raises:
        UsageError: the system does not permit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft):
        return
    if not _enough(hard):
        raise UsageError(too_few_files())
    resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_OPEN_FILES, hard))


def _enough(limit: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= MIN_OPEN_FILES


def refuse_links(root: Path) -> None:
    """Make sure that whoever writes below a folder writes into that folder alone.

    Raises:
        UsageError: there is a link, or something that is neither a file nor a folder; names the first ones. Or it is an
            address: nothing is written to object stores.
    """
    refuse_address(root)
    try:
        strange = sorted(name for name, kind in walk(LocalStore(root)) if kind in ("link", "other"))
    except FileNotFoundError:
        return
    if strange:
        names = ", ".join(strange[:3]) + (", ..." if strange[3:] else "")
        raise UsageError(
            f"{root}: holds links, pipes or devices ({names}), and nothing is written through them. Remove them, or "
            "put the files themselves in their place."
        )


def refuse_address(root: Path) -> None:
    """Raises UsageError: what would be written to lies in an object store."""
    if is_remote(root):
        raise UsageError(
            f"{place_of(root)}: datasets in object stores are read, never written to. Name a local folder, and copy it "
            "there when it is done."
        )


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file that is kept open to write to, such as a lock or a log; it is made if need be.

    Raises:
        OSError: it cannot be written, or is a link, a pipe or a device.
    """
    try:
        descriptor = os.open(path, flags | _OWN, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RefusedFile(errno.ELOOP, REFUSALS["link"], str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RefusedFile(errno.ELOOP, REFUSALS["other"], str(path))
    return descriptor


def sync_file(path: Path) -> None:
    """Have the file's bytes on the disk before a name points to them."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Have the folder's names on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, partial_name: str | None = None) -> Iterator[Path]:
    """Yields a path beside `path` to write to; at the end of the block it is synced and takes the place of `path`.

    After an error in the block, what was written is removed and `path` is as before; the error passes on.

    Args:
        partial_name: default `NAME.partial`; give one of its own to each process where several may write at once.
    """
    partial = path.with_name(partial_name or f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.unlink(missing_ok=True)  # a link of that name would lead the write elsewhere
        yield partial
        sync_file(partial)
        fault_point(f"file:{path.name}")
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that stopped the write is the one to report
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by these bytes, atomically.

    Raises:
        LposekitError: the disk is full or the folder cannot be written; what was there before stays.
    """
    try:
        with replacing(path) as partial, partial.open("xb") as stream:
            stream.write(data)
    except OSError as error:
        raise disk_error(error, path, len(data)) from error


def write_json(path: Path, value: JsonValue) -> None:
    """Replace `path` by `value` as JSON, atomically. Raises as `write_bytes`."""
    text = strict_json(value, indent=1, ensure_ascii=False, sort_keys=True)
    write_bytes(path, f"{text}\n".encode())
