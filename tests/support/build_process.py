"""Runs `lposekit build-laion-pose` as a user does, in a process group of its own, and kills parts of it for real."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lposekit.shards.layout import DatasetLayout
from tests.support.fixtures import REPOSITORY

STUB = ("--pose-model", "stub", "--detector", "stub")
QUIET_FETCH = ("--fetch.no-robots", "--allow-private-addresses")


@dataclass
class Build:
    """One build over a list, into a folder. ``extra``: further flags; ``environment``: further variables."""

    list_path: Path
    output: Path
    models: tuple[str, ...] = STUB
    rows_per_shard: int = 10
    extra: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        flags = ["--input", str(self.list_path), "--output", str(self.output), "--workers", "2", "--pose.actors", "1"]
        flags += ["--rows-per-shard", str(self.rows_per_shard), *self.models, *QUIET_FETCH, *self.extra]
        return [sys.executable, "-m", "lposekit.cli", "build-laion-pose", *flags]

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """The build, under way; whatever is left of it is killed on leaving."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **self.environment}
        with self.log_path.open("a") as log:
            process = subprocess.Popen(
                self.command(),
                env=environment,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                cwd=self.output.parent,
            )
        try:
            yield process
        finally:
            kill_group(process)

    @property
    def log_path(self) -> Path:
        return self.output.with_suffix(".log")

    def finish(self, timeout_s: float = 150) -> int:
        """Run to the end; returns the exit code."""
        with self.started() as process:
            return process.wait(timeout_s)

    @property
    def layout(self) -> DatasetLayout:
        return DatasetLayout(self.output)


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a build and every process that came from it, Ray's daemons included."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def actor_processes(process: subprocess.Popen[str], class_name: str) -> list[psutil.Process]:
    """The processes of a build's Ray actors of one class, by the title that Ray gives them."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if f"ray::{class_name}" in " ".join(child.cmdline()):
                    found.append(child)
    return found


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    """Wait for a condition; fails the test when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def content_digest(layout: DatasetLayout) -> dict[str, str]:
    """sha256 of the files of a finished folder: tars, parquet, index and thumbnails, and the markers without times."""
    digests = {}
    for path in sorted(layout.root.rglob("*")):
        name = path.relative_to(layout.root).as_posix()
        if path.suffix not in (".tar", ".parquet") and not name.endswith("_stats.json"):
            continue
        data = path.read_bytes()
        if name.endswith("_stats.json"):
            timeless = {k: v for k, v in json.loads(data).items() if k not in ("duration", "start_time", "end_time")}
            data = json.dumps(timeless, sort_keys=True).encode()
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests
