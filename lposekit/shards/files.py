"""Files that appear whole or not at all: written beside, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_error(error: OSError, path: Path, num_bytes: int | None = None) -> LposekitError:
    """An operating system's refusal to write, in words that say what to do."""
    if error.errno in {*DISK_FULL, errno.EFBIG}:
        need = f" ({num_bytes} bytes were to be written)" if num_bytes else ""
        return LposekitError(f"{path}: the disk is full{need}. Free space, then run the same command again to resume.")
    return LposekitError(f"{path}: {error.strerror or error}. Check the folder, then run the same command to resume.")


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


def write_json(path: Path, value: Any, *, suffix: str = "partial") -> None:
    """Replace ``path`` by ``value`` as JSON, atomically.

    Raises:
        LposekitError: the disk is full or the folder cannot be written.
    """
    partial = path.with_name(f"{path.name}.{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1, ensure_ascii=False, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(error, path) from error
