"""The work that the page asks for: the poses of an uploaded video, a clip. One job at a time, each in its folder."""

from __future__ import annotations

import re
import secrets
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lposekit.errors import LposekitError, UsageError
from lposekit.pose.tracks import SUFFIX
from lposekit.shards.files import write_bytes
from lposekit.words import counted
from trainer.demo.drawing import Artist, Pose, command_line
from trainer.demo.messages import DrawRequest, PoseRequest, Request
from trainer.inference.denoise import DenoisingStep

Tell = Callable[[int, int, str], None]
"""Takes how far a job is: done, of how many (0: not known), and what is being done. Raises `Cancelled`."""
MAX_SHOWN = 64
"""Poses and clips that are remembered; the oldest are forgotten, with their files."""


class Cancelled(LposekitError):
    """Nobody waits for the result any more."""


@dataclass(frozen=True, slots=True)
class FoundPoses:
    """The poses of an uploaded video. skeletons: a video that shows them. said: what was found, for people."""

    poses: Path
    skeletons: Path
    num_frames: int
    said: str


class FindPoses(Protocol):
    """Estimates the poses of a video of persons, as `lposekit pose` does."""

    def __call__(self, video: Path, folder: Path, style: str, on_frames: Callable[[int], None]) -> FoundPoses:
        """Write the poses, and a video of them in the style, into the folder.

        on_frames: is told how many frames are done; what it raises ends the work.

        Raises:
            LposekitError: no poses, in words for the person who uploaded the video.
        """
        ...


@dataclass(slots=True)
class Desk:
    """Does one job after the other.

    work: a folder for what is temporary; what the page may show lies in `shown` of it. kept: the folder for clips that
    stay; None: none do.
    """

    artist: Artist
    find_poses: FindPoses
    work: Path
    kept: Path | None
    poses: dict[str, Pose] = field(default_factory=dict)
    names: deque[str] = field(default_factory=deque)
    drawn: int = 0

    @property
    def uploads(self) -> Path:
        return self.work / "uploads"

    @property
    def shown(self) -> Path:
        return self.work / "shown"

    def do(self, request: Request, tell: Tell) -> dict[str, Any]:
        """Do a job; returns what the page shows.

        Raises:
            LposekitError: it cannot be done, in words for the person at the page. Cancelled: see `tell`.
        """
        return self.pose(request, tell) if isinstance(request, PoseRequest) else self.draw(request, tell)

    def pose(self, request: PoseRequest, tell: Tell) -> dict[str, Any]:
        name, folder = self._new_folder()
        try:
            tell(0, 0, "reading the video")
            found = self.find_poses(
                request.video,
                folder,
                self.artist.facts.pose_style,
                lambda frames: tell(frames, 0, f"estimating poses: frame {frames}"),
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            request.video.unlink(missing_ok=True)  # a stranger's video is kept no longer than it is needed
        self.poses[name] = Pose(found.poses, found.num_frames, request.video.name, "person")
        return {"pose": name, "skeletons": str(found.skeletons), "note": found.said}

    def draw(self, request: DrawRequest, tell: Tell) -> dict[str, Any]:
        pose = self.poses.get(request.pose) if request.pose else None
        if request.pose and pose is None:
            raise UsageError("The poses of this video are not there any more. Upload it again.")
        if pose is not None:  # used again: not the oldest any more
            self.names.remove(request.pose)
            self.names.append(request.pose)
        _, folder = self._new_folder()

        def on_step(step: DenoisingStep) -> None:
            tell(step.index + 1, request.steps, f"step {step.index + 1} of {request.steps}")

        try:
            tell(0, request.steps, "encoding prompt and pose")
            drawn = self.artist.draw(request, pose, folder / "clip.mp4", on_step)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        kept, pose = self._keep(folder / "clip.mp4", pose)
        self.drawn += 1
        note = f"{counted(drawn.settings.frames or 0, 'frame')}, seed {request.seed}, {drawn.sampled.seconds:.1f} s"
        command = command_line(drawn.settings, pose, kept)
        return {"clip": str(folder / "clip.mp4"), "note": note, "notes": drawn.notes, "command": command}

    def _new_folder(self) -> tuple[str, Path]:
        """A name that nobody guesses, and the folder of it, which the page may show; the oldest goes for it."""
        name = secrets.token_hex(8)
        (self.shown / name).mkdir(parents=True)
        self.names.append(name)
        while len(self.names) > MAX_SHOWN:
            oldest = self.names.popleft()
            self.poses.pop(oldest, None)
            shutil.rmtree(self.shown / oldest, ignore_errors=True)
        return name, self.shown / name

    def _keep(self, clip: Path, pose: Pose | None) -> tuple[Path | None, Pose | None]:
        """Copy a clip and its pose to where they stay, as the next `NNNN.mp4`; nowhere if nothing stays."""
        if self.kept is None:
            return None, pose
        used = [int(path.name[:4]) for path in self.kept.iterdir() if re.match(r"\d{4}\.", path.name, re.ASCII)]
        output = self.kept / f"{max(used, default=0) + 1:04d}.mp4"
        if pose is not None:
            poses = output.with_suffix(SUFFIX)
            write_bytes(poses, pose.path.read_bytes())
            pose = Pose(poses, pose.num_frames, str(poses), "auto")
        write_bytes(output, clip.read_bytes())
        return output, pose
