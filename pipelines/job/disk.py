"""Is there room for a dataset? Looked at before anything starts; a disk that fills up later fails the shard."""

from __future__ import annotations

import shutil
from pathlib import Path

from lposekit.errors import UsageError

MIN_FREE_BYTES = 512 * 2**20
"""Several workers' shards of the default sizes, uncommitted, with their scratch files."""


def require_free_space(folder: Path) -> None:
    """Raises UsageError if the disk that holds `folder`, or will hold it, is nearly full."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise UsageError(
            f"--output {folder}: {free / 2**20:.0f} MB are free on its disk, and a build needs at least "
            f"{MIN_FREE_BYTES / 2**20:.0f} MB. Free space, or name a folder on another disk."
        )
