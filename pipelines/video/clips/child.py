"""Builds clips in a killable child, and turns what happens to the child into the video's outcome."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.confinement import Places, folder_of
from lposekit.sandbox.killed import again_if_killed
from lposekit.sandbox.sandbox import Sandbox, SandboxCrashed, SandboxKilled, SandboxMemory, SandboxTimeout
from lposekit.shards.files import disk_error
from pipelines.video.clips.answer import unpacked
from pipelines.video.clips.records import VideoResult, VideoRow
from pipelines.video.clips.settings import BuildClipsSettings

TARGET = "pipelines.video.clips.build:build_clips_payload"


def build_in_child(
    sandbox: Sandbox,
    path: Path,
    row: VideoRow,
    settings: BuildClipsSettings,
    out_dir: Path,
    *,
    timeout_s: float | None,
    heartbeat_timeout_s: float,
    on_beat: Callable[[], None] | None = None,
    work_root: Path | None = None,
) -> VideoResult:
    """`build_clips` in a sandbox whose target is `TARGET`.

    Never raises for what a file does: a hang ends as `decode_hang`, a crash or too much memory as `corrupt`; a child
    that is killed from outside, again and again, as `worker_crash`. `out_dir`, an empty folder, holds the clips of the
    result and nothing else afterwards. `on_beat` is called as frames are decoded and written. `work_root`: a folder
    above `out_dir` that is the same for many videos, so that one child, which may write below it, serves them all;
    default: the next.

    Raises:
        LposekitError: the disk is full.
    """
    payload = {"path": str(path), "row": row.to_plain(), "settings": settings.to_plain(), "out_dir": str(out_dir)}

    def attempt() -> Any:
        _empty(out_dir)  # of what an attempt before this one has left
        return sandbox.call(payload, timeout_s=timeout_s, heartbeat_timeout_s=heartbeat_timeout_s, on_beat=on_beat)

    sandbox.open_to(_places(path, row, work_root or out_dir.parent))
    try:
        answer = again_if_killed(attempt)
        if (full := answer.get("disk_full")) is not None:
            raise disk_error(OSError(full, os.strerror(full)), out_dir)
        return unpacked(answer)
    except Rejected as rejected:
        failure = VideoResult(rejected.outcome, rejected.detail)
    except SandboxTimeout as error:
        failure = VideoResult(Outcome.DECODE_HANG, str(error))
    except SandboxKilled as error:
        failure = VideoResult(Outcome.WORKER_CRASH, f"the decoder was killed from outside each time: {error}")
    except (SandboxCrashed, SandboxMemory) as error:
        failure = VideoResult(Outcome.CORRUPT, f"the decoder died on it: {error}")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        failure = VideoResult(Outcome.CORRUPT, f"the decoder's answer cannot be read: {error!r}")
    _empty(out_dir)
    return failure


def _empty(folder: Path) -> None:
    for leftover in folder.iterdir():
        leftover.unlink()


def _places(path: Path, row: VideoRow, work_root: Path) -> Places:
    """The folder of the row's own file, and where clips are made; fetched files lie there too."""
    reads = (folder_of(path, row.root),) if row.path is not None else ()
    return Places(reads, (os.path.realpath(work_root),))
