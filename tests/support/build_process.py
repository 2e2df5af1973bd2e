"""Runs the build commands as a user does, in a process group of their own, and kills parts of them for real."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import lposekit
from lposekit.commands.flags import load
from lposekit.commands.registry import COMMANDS
from lposekit.errors import LposekitError
from lposekit.records import sample_key
from lposekit.shards.dataset import PoseSample
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.job.build_report import BuildReport
from pipelines.recipes import build_images, build_poses, build_videos
from tests.support.execute_here import execute_here
from tests.support.fixtures import REPOSITORY

STUB = ("--pose-model", "stub", "--detector", "stub")
TIMES = ("duration", "start_time", "end_time", "timings_s")
"""Fields of a commit marker that differ from run to run."""
IGNORED_SIGNALS: tuple[signal.Signals, ...] = ()
"""Signals that a build inherits as ignored."""
QUIET_FETCH = ("--fetch.no-robots", "--allow-private-addresses")


@dataclass
class BuildProcess(ABC):
    """One build over a list (or a folder), into a folder. ``extra``: further flags; ``environment``: variables."""

    list_path: Path
    output: Path
    rows_per_shard: int = field(default=10, kw_only=True)
    extra: tuple[str, ...] = field(default=(), kw_only=True)
    environment: dict[str, str] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def arguments(self) -> list[str]:
        """The command's name and its flags."""

    def _flags(self) -> list[str]:
        flags = ["--input", str(self.list_path), "--output", str(self.output)]
        return [*flags, "--rows-per-shard", str(self.rows_per_shard), *self.extra]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "lposekit.cli", *self.arguments()]

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
                preexec_fn=_ignore_signals if IGNORED_SIGNALS else None,
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

    def finish_here(self) -> BuildReport:
        """The same command, in this process and without Ray: seconds faster."""
        name, *flags = self.arguments()
        builds = {"build-laion-pose": build_images, "build-video-shards": build_videos, "pose": build_poses}
        command, build = COMMANDS[name], builds[name]
        return build(load(command, command.load_settings_class(), flags).settings, execute=execute_here)

    @property
    def layout(self) -> DatasetLayout:
        return DatasetLayout(self.output)


@dataclass
class Build(BuildProcess):
    """`lposekit build-laion-pose`."""

    models: tuple[str, ...] = STUB

    def arguments(self) -> list[str]:
        workers = ("--workers", "2", "--pose.actors", "1")
        return ["build-laion-pose", *self._flags(), *workers, *self.models, *QUIET_FETCH]


@dataclass
class VideoBuild(BuildProcess):
    """`lposekit build-video-shards`."""

    workers: int = 2

    def arguments(self) -> list[str]:
        return ["build-video-shards", *self._flags(), "--workers", str(self.workers)]

    def clips_in_work(self, video: int) -> int:
        """How many clips of a video its decoder has written, while it is at it; ``video``: its number in the list."""
        key = sample_key(*divmod(video, self.rows_per_shard))
        return len(list(self.layout.work.glob(f"*/worker-*/{key}-*/clips/0*.mp4")))


@dataclass
class PosesBuild(BuildProcess):
    """`lposekit pose` of a dataset of clips."""

    def arguments(self) -> list[str]:
        flags = ["--input", str(self.list_path), "--output", str(self.output), *self.extra]
        return ["pose", *flags, "--workers", "1", "--pose.actors", "1", *STUB]


def _ignore_signals() -> None:
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


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
    return _descendants(process.pid, f"ray::{class_name}")


def decoder_processes(pid: int) -> list[psutil.Process]:
    """The killable decoders below a process."""
    return _descendants(pid, "lposekit.sandbox.child")


def _descendants(pid: int, title: str) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if title in " ".join(child.cmdline()):
                    found.append(child)
    return found


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    """Wait for a condition; fails the test when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def wait_for_random_progress(
    build: BuildProcess, process: subprocess.Popen[str], rng: random.Random, *, shards: int, tar_bytes: int
) -> None:
    """Progress, not time, triggers a kill: the n-th commit marker, or a partial tar that grows past some size."""
    commits, size = rng.randrange(shards), rng.randrange(tar_bytes)

    def reached() -> bool:
        if len(build.layout.committed_shards()) > commits:
            return True
        partials = list(build.output.glob("*.tar.*.partial")) if build.output.exists() else []
        enough = len(build.layout.committed_shards()) == commits
        return enough and any(path.exists() and path.stat().st_size >= size for path in partials)

    wait_until(lambda: reached() or process.poll() is not None, "progress", 150)


def assert_readers_see_whole_shards_only(layout: DatasetLayout, check: Callable[[PoseSample], None]) -> None:
    """What a reader sees of a folder at any moment: nothing, or whole shards; ``check`` is called for each sample."""
    if not layout.committed_shards():
        with pytest.raises(LposekitError, match=r"no (committed shard|dataset card)"):
            lposekit.open_dataset(layout.root)
        return
    for sample in lposekit.open_dataset(layout.root):
        check(sample)
    committed = {f"{layout.tar(shard).name}" for shard in layout.committed_shards()}
    assert not [f for f in verify_dataset(layout.root) if f.where in committed]


def content_digest(layout: DatasetLayout) -> dict[str, str]:
    """sha256 of the files of a finished folder: tars, parquet, index and thumbnails, and the markers without times."""
    digests = {}
    for path in sorted(layout.root.rglob("*")):
        name = path.relative_to(layout.root).as_posix()
        if path.suffix not in (".tar", ".parquet") and not name.endswith("_stats.json"):
            continue
        data = path.read_bytes()
        if name.endswith("_stats.json"):
            timeless = {k: v for k, v in json.loads(data).items() if k not in TIMES}
            data = json.dumps(timeless, sort_keys=True).encode()
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests
