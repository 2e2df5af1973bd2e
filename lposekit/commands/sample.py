"""`lposekit sample`: draw a clip (or images) that follows a prompt and a pose."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.errors import LposekitError
from trainer.inference.settings import SampleSettings

if TYPE_CHECKING:
    from lposekit.pose.tracks import PoseTracks


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["sample"], SampleSettings, argv)
    from trainer import sample

    report = sample.run(loaded.settings, estimate=poses_of_video, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)


def poses_of_video(video: Path) -> PoseTracks:
    """The poses of a video of persons, by `lposekit pose` with its own settings: `[pose]` of a settings file.

    Raises LposekitError where the video cannot be read, or its weights cannot be had.
    """
    from lposekit.commands.pose import quiet_models
    from lposekit.pose.tracks import read_tracks
    from pipelines.video.poses.run import estimate_poses
    from pipelines.video.poses.settings import PosesSettings

    with tempfile.TemporaryDirectory(prefix="lposekit-pose-") as folder:
        loaded = load(COMMANDS["pose"], PosesSettings, ["--input", str(video), "--output", folder])
        quiet_models()
        [outcome] = estimate_poses(loaded.settings).videos
        if outcome.poses is None:
            raise LposekitError(f"--pose {video}: {outcome.outcome.value}: {outcome.detail}")
        return read_tracks(outcome.poses)
