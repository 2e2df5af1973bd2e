"""The file of a video: where it lies, or fetched, and the rules of user and list on its address and its bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import Outcome, Rejected
from lposekit.shards.files import DISK_FULL, disk_error
from lposekit.shards.layout import sha256_file
from pipelines.fetch.hashes import listed_hash
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.retry import describe
from pipelines.fetch.urls import parse_web_url
from pipelines.video.clips.records import VideoRow
from pipelines.video.places import lies_within

Fetch = Callable[[str, Path], None]
"""Fetches a URL into a file that does not exist yet; raises `Rejected`."""
_CLOSED_TO_US = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)


@dataclass(frozen=True, slots=True)
class VideoSource:
    """Finds the files of rows. `verify_hash`: a row's own hash column has to fit."""

    fetch: Fetch
    blocklist: Blocklist
    verify_hash: bool

    def file(self, row: VideoRow, work_dir: Path) -> Path:
        """The row's file, where it lies or fetched into `work_dir`.

        Raises:
            Rejected: `bad_url`, `blocked`, or what the fetch ends in.
            LposekitError: the disk is full.
        """
        if row.path is None:
            return self._fetched(row, work_dir / "source")
        if not lies_within(row.path, row.root):
            raise Rejected(
                Outcome.BAD_URL,
                f"{row.source} leads outside of the folder that it counts from: name the right one with --video-root, "
                "or permit such paths with --allow-outside-paths",
            )
        if not os.path.isfile(row.path):  # pathlib's raises for names that no file can have
            raise Rejected(Outcome.BAD_URL, f"no file at {row.source}")
        self._check_origin(row)
        return Path(row.path)

    def sha256(self, row: VideoRow, path: Path) -> str:
        """sha256 (hex) of the row's file.

        Raises:
            Rejected: `blocked`, or a file that cannot be read.
        """
        try:
            digest = sha256_file(path)
        except OSError as error:
            raise _unreadable(error, row) from error
        self.blocklist.check_sha256(digest)
        return digest

    def check_hash(self, row: VideoRow, path: Path) -> None:
        """Raises `Rejected(HASH_MISMATCH)` if the list names another hash of the row's file."""
        listed = listed_hash(row.extra) if self.verify_hash else None
        if listed is not None:
            try:
                listed.check_file(path)
            except OSError as error:
                raise _unreadable(error, row) from error

    def _fetched(self, row: VideoRow, path: Path) -> Path:
        if row.url is None:
            raise Rejected(Outcome.BAD_URL, "the row names neither a path nor a URL")
        try:
            self.fetch(row.url, path)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise disk_error(error, path) from error
            raise Rejected(Outcome.WORKER_CRASH, f"the file could not be kept: {error.strerror or error}") from error
        except Rejected:
            raise
        except Exception as error:  # an answer that nobody thought of must not cost the rows beside it
            raise Rejected(Outcome.WORKER_CRASH, f"unexpected {describe(error)}") from error
        return path

    def _check_origin(self, row: VideoRow) -> None:
        """A local copy of a blocked address is blocked too."""
        try:
            url = parse_web_url(row.url)
        except Rejected:
            return
        self.blocklist.check_url(url)


def _unreadable(error: OSError, row: VideoRow) -> Rejected:
    """The row's fault (no permission, no such name), or that of the disk, which another try may find in order."""
    if error.errno in _CLOSED_TO_US:
        return Rejected(Outcome.BAD_URL, f"{row.source} cannot be opened: {error.strerror}")
    return Rejected(Outcome.SHORT_READ, f"{row.source} cannot be read to its end: {error.strerror or error}")
