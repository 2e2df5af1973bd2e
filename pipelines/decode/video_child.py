"""Builds clips in a killable child, and turns what happens to the child into the video's outcome."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from lposekit.errors import Outcome, Rejected
from pipelines.decode.sandbox import Sandbox, SandboxCrashed, SandboxMemory, SandboxTimeout
from pipelines.decode.video_records import VideoResult, VideoRow
from pipelines.decode.video_settings import BuildClipsSettings

TARGET = "pipelines.decode.video_build:build_clips_payload"


class ClipBuilder:
    """One child process that builds videos one after the other; a new one replaces it when it has to be killed.

    with ClipBuilder(settings) as builder:
        result = builder.build(path, row, out_dir)
    """

    def __init__(self, settings: BuildClipsSettings, target: str = TARGET) -> None:
        self._settings = settings
        self._sandbox = Sandbox(target, memory_limit_bytes=settings.video.decode_memory_bytes)

    def build(self, path: Path, row: VideoRow, out_dir: Path) -> VideoResult:
        """`build_clips` on one video. Never raises for what a file does: a hang ends as `decode_hang`, a crash as
        `corrupt`. `out_dir`, an empty folder, holds the clips of the result and nothing else afterwards."""
        payload: dict[str, Any] = {
            "path": str(path),
            "row": row.to_tree(),
            "settings": self._settings.to_tree(),
            "out_dir": str(out_dir),
        }
        limits = self._settings.video
        try:
            answer = self._sandbox.call(
                payload, timeout_s=limits.timeout_s, heartbeat_timeout_s=limits.heartbeat_timeout_s
            )
            return VideoResult.from_tree(answer)
        except Rejected as rejected:
            failure = VideoResult(rejected.outcome, rejected.detail)
        except SandboxTimeout as err:
            failure = VideoResult(Outcome.DECODE_HANG, str(err))
        except (SandboxCrashed, SandboxMemory) as err:
            failure = VideoResult(Outcome.CORRUPT, str(err))
        except (KeyError, TypeError, ValueError) as err:
            failure = VideoResult(Outcome.CORRUPT, f"the child's answer cannot be read: {err!r}")
        for leftover in out_dir.iterdir():
            leftover.unlink()
        return failure

    @property
    def pid(self) -> int | None:
        """Process id of the child, once there is one."""
        return self._sandbox.pid

    def close(self) -> None:
        """End the child."""
        self._sandbox.close()

    def __enter__(self) -> ClipBuilder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
