"""One attempt at one shard: only the newest one commits, and none whose driver is gone.

Ray may declare a worker dead that is not (a network cut in two, a machine that stood still), and give its shard to
another one. So every attempt writes files of its own name, and announces itself in a small file of its shard, which is
locked (flock) to announce and to commit: an older attempt finds another name there, and leaves the shard alone.

Whoever clears up after a driver that died may kill the decoders of a worker before the worker itself, and what the
worker makes of that must not be committed: the lock of the driver, which the kernel releases, tells that it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from lposekit.records import shard_name
from lposekit.shards.files import disk_error, open_own
from lposekit.shards.layout import DatasetLayout
from pipelines.job.lock import StaleRun, driver_lives

MAX_STATE_BYTES = 256
COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An announced attempt. `name`: of the run and of this attempt in it, part of the names of partial files.

    `is_done`: an earlier attempt of this run has committed the shard, and its report was lost.
    """

    layout: DatasetLayout
    run_id: str
    shard: int
    name: str
    is_done: bool

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Inside, no other attempt commits this shard.

        Raises:
            StaleRun: a newer attempt is at it, or the driver is gone.
        """
        with _locked_state(self.layout, self.run_id, self.shard) as descriptor:
            newest = _read(descriptor)[0]
            if newest != self.name:
                raise StaleRun(
                    f"shard {shard_name(self.shard)}: attempt {newest} has taken over from {self.name}, which was "
                    "given up for dead; nothing of it is committed."
                )
            if not driver_lives(self.layout, self.run_id):
                raise StaleRun(
                    f"shard {shard_name(self.shard)}: the driver of run {self.run_id} is gone; nothing is committed "
                    "without it. Run the same command again to resume."
                )
            yield
            _write(descriptor, f"{self.name} {COMMITTED}")


def begin_attempt(layout: DatasetLayout, run_id: str, shard: int) -> Attempt:
    """Announce an attempt; for a worker that holds `writer_lock`.

    Raises:
        LposekitError: the disk is full.
    """
    name = f"{run_id}-{secrets.token_hex(4)}"
    with _locked_state(layout, run_id, shard) as descriptor:
        is_done = _read(descriptor)[1:] == [COMMITTED]
        if not is_done:
            _write(descriptor, name)
    return Attempt(layout, run_id, shard, name, is_done)


@contextlib.contextmanager
def _locked_state(layout: DatasetLayout, run_id: str, shard: int) -> Iterator[int]:
    path = layout.work / run_id / f"attempt-{shard_name(shard)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, os.O_RDWR)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> list[str]:
    """Name of the newest attempt, and whether it committed; a state that was cut short names nobody."""
    return os.pread(descriptor, MAX_STATE_BYTES, 0).decode("ascii", "replace").split() or [""]


def _write(descriptor: int, state: str) -> None:
    """In place: a file that were replaced would carry another lock."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, state.encode("ascii"), 0)
