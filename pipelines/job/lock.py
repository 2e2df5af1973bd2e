"""One driver a folder, and no writer left over from an older one.

Two advisory locks (flock: released by the kernel when their holder dies, however it dies). `driver.lock` belongs to
the one driver. `writers.lock` is shared by every shard that is being written; a new driver takes it alone once, which
waits until the writers of a killed driver are gone (they were seen writing for seconds), and puts its own run id into
`run_id`; a writer of another run finds a foreign id there and stops before it writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.files import disk_error, open_own, refuse_links, write_json
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.writer import finish_replacements, remove_partials
from lposekit.store_reads import read_whole

ORPHAN_WAIT_S = 120.0
BEAT_S, BEAT_WAIT_S = 2.0, 20.0
BEAT_NAME = "driver-beat"
PROBED_S = 1.0
"""How long a lock may be held by those who only ask whether its owner lives."""
MAX_RUN_ID_BYTES = 4096


class StaleRun(LposekitError):
    """A writer found that its run no longer owns the folder."""


@contextlib.contextmanager
def driver_lock(layout: DatasetLayout, run_id: str) -> Iterator[None]:
    """Own the folder for one run.

    Raises:
        UsageError: another driver owns it, or the folder cannot be written.
        LposekitError: writers of an older run did not end in time.
    """
    try:
        refuse_links(layout.root)
        layout.meta.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(layout.meta / "driver.lock", os.O_RDWR)
    except OSError as error:
        raise UsageError(
            f"{layout.root} cannot be written: {error.strerror}. Name another folder with --output."
        ) from error
    try:
        _take_driver_lock(layout, descriptor)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_identity(run_id)).encode(), 0)
        _wait_for_orphans(layout, run_id)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def owned_folder(layout: DatasetLayout) -> Iterator[str]:
    """Own the folder for a new run, and clear up what killed runs left; yields the run's id.

    Raises:
        UsageError, LposekitError: as `driver_lock`.
    """
    run_id = secrets.token_hex(4)
    with driver_lock(layout, run_id):
        finish_replacements(layout)
        remove_partials(layout)
        shutil.rmtree(layout.work, ignore_errors=True)
        try:
            yield run_id
        finally:
            shutil.rmtree(layout.work, ignore_errors=True)


@contextlib.contextmanager
def work_folder(layout: DatasetLayout, run_id: str, name: str) -> Iterator[Path]:
    """An empty folder on the dataset's disk for the files of one piece of work, removed with them at its end.

    It lies in the folder of this process, `WORK/RUN/worker-.../NAME-...`, which decoders may be given as a whole: what
    drivers and workers tell each other (`attempt`, `activity`, `beat`) lies outside.

    It is not the system's temporary folder: that is often memory, and nobody clears it up after a kill. Here the next
    try of the same piece does, or the next run (`owned_folder`).

    Args:
        name: the piece of work; one process at a time works on it.

    Raises:
        LposekitError: the disk is full.
    """
    own_folder = worker_folder(layout, run_id)
    try:
        for leftover in own_folder.parent.glob(f"worker-*/{name}-*"):  # of other processes too
            shutil.rmtree(leftover, ignore_errors=True)
        own_folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=own_folder))
    except OSError as error:
        raise disk_error(error, own_folder) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def worker_folder(layout: DatasetLayout, run_id: str) -> Path:
    """The folder of this process in a run's work, whether it is there or not."""
    return layout.work / run_id / f"worker-{_name_of_process(os.getpid())}"


@cache
def _name_of_process(pid: int) -> str:
    """Unlike on any other machine, where the same number may be in use."""
    return f"{pid}-{secrets.token_hex(4)}"


def _identity(run_id: str) -> dict[str, object]:
    return {"run_id": run_id, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}


def driver_lives(layout: DatasetLayout, run_id: str) -> bool:
    """Whether the run's driver still owns the folder; asked by writers, who hold `writer_lock`.

    Not every file system carries locks from machine to machine. So a driver on another machine lives also if its beat
    goes on; to see that takes a few seconds.
    """
    with _open_lock(layout, "driver.lock") as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        owner = _owner(descriptor)
    return owner.get("host") != socket.gethostname() and _beats(layout, run_id)


def beat(layout: DatasetLayout, run_id: str) -> None:
    """A sign of life of the driver, for `driver_lives`: to be given every `BEAT_S`."""
    path = layout.work / run_id / BEAT_NAME
    with contextlib.suppress(OSError):  # a disk that is full, say: the lock is there still
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, secrets.token_bytes(8), 0)
        finally:
            os.close(descriptor)


def _beats(layout: DatasetLayout, run_id: str) -> bool:
    first, deadline = _read_beat(layout, run_id), time.monotonic() + BEAT_WAIT_S
    while time.monotonic() < deadline:
        time.sleep(BEAT_S / 10)
        if _read_beat(layout, run_id) != first:
            return True
    return False


def _read_beat(layout: DatasetLayout, run_id: str) -> bytes:
    try:
        return read_whole(layout.store, layout.relative(layout.work / run_id / BEAT_NAME), MAX_RUN_ID_BYTES)
    except (OSError, ValueError):
        return b""


def _take_driver_lock(layout: DatasetLayout, descriptor: int) -> None:
    deadline = time.monotonic() + PROBED_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
    owner, who = _owner(descriptor), "another process"
    with contextlib.suppress(KeyError, TypeError, ValueError):
        age_s = max(0.0, time.time() - owner["since"])  # the clock may have been set back since
        who = f"process {owner['pid']} on {owner['host']}, since {age_s:.0f} s"
    raise UsageError(f"{layout.root} is being built by {who}. Wait for it, stop it, or name another --output.")


def _owner(descriptor: int) -> dict[str, Any]:
    """What the driver's lock says of its owner; nothing, if that is damaged."""
    try:
        owner = json.loads(os.pread(descriptor, MAX_RUN_ID_BYTES, 0))
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _wait_for_orphans(layout: DatasetLayout, run_id: str) -> None:
    deadline = time.monotonic() + ORPHAN_WAIT_S
    with _open_lock(layout, "writers.lock") as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LposekitError(
                        f"{layout.root}: writers of an older run are still at work after {ORPHAN_WAIT_S:.0f} s. "
                        "Stop that run's Ray processes, then run the same command again."
                    ) from None
                time.sleep(0.1)
        write_json(layout.meta / "run_id", run_id)


@contextlib.contextmanager
def _open_lock(layout: DatasetLayout, name: str) -> Iterator[int]:
    try:
        descriptor = open_own(layout.meta / name, os.O_RDWR)
    except OSError as error:
        raise disk_error(error, layout.meta / name) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writer_lock(layout: DatasetLayout, run_id: str) -> Iterator[None]:
    """Held while a shard is written.

    Raises:
        StaleRun: the folder belongs to a newer run by now.
        LposekitError: it cannot be told whose it is.
    """
    with _open_lock(layout, "writers.lock") as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        owner = _read_run_id(layout)
        if owner != run_id:
            raise StaleRun(f"{layout.root} belongs to run {owner} now; run {run_id} stops writing there.")
        yield


def _read_run_id(layout: DatasetLayout) -> str | None:
    path = layout.meta / "run_id"
    try:
        return json.loads(read_whole(layout.store, layout.relative(path), MAX_RUN_ID_BYTES))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise disk_error(error, path) from error
