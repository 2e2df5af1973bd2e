"""Where the files of a list may lie. A list is written by strangers: it names videos, not any file of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.lists.columns import CAPTION_ALIASES


@dataclass(frozen=True, slots=True)
class ListPlace:
    """How a list or folder is read.

    folder: where relative paths count from: the list's own folder, or `--video-root`. caption: the column that
    `--caption-column` names. confined: whether a path that leads out of `folder` is refused.
    """

    folder: Path
    caption: str | None = None
    confined: bool = True

    @property
    def root(self) -> str | None:
        """The folder that no file of a row may lie outside of; None: any."""
        return str(self.folder) if self.confined else None

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def existing(self, *names: str) -> str | None:
        """The first of these names that is one of a file here."""
        return next((name for name in names if self.holds(self.folder / name)), None)

    def holds(self, path: Path) -> bool:
        """Whether it is a file that a row may name."""
        return os.path.isfile(path) and lies_within(str(path), self.root)  # pathlib's raises for impossible names

    def captions(self, aliases: tuple[str, ...] = CAPTION_ALIASES) -> tuple[str, ...]:
        """The aliases of the caption's column."""
        return aliases if self.caption is None else (self.caption.lower(),)


def lies_within(path: str, root: str | None) -> bool:
    """Whether a path, its links followed, stays below `root`; None: any path does."""
    return root is None or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
