"""What kind of folder a command was given: a wrong one is wrong usage, with the same exit code everywhere."""

from __future__ import annotations

from pathlib import Path

from lposekit.errors import UsageError
from lposekit.store import LocalStore, RefusedFile
from lposekit.store_reads import kind_of

DATASET_CARD = "_dataset/dataset.json"


def holds(folder: Path, name: str) -> bool:
    """Whether something of that name is there. What it is, the reader says."""
    try:
        return kind_of(LocalStore(folder), name) is not None
    except RefusedFile:
        return True
    except NotADirectoryError:
        return False


def require_dataset(folder: Path) -> None:
    """Checks that the folder is one of a dataset.

    Raises:
        UsageError: it is none.
    """
    if not holds(folder, DATASET_CARD):
        raise UsageError(
            f"{folder}: no dataset card ({DATASET_CARD}). Name the folder that was given as --output to a build."
        )
