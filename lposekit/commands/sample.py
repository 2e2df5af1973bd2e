"""`lposekit sample`: draw a clip (or images) that follows a prompt and a pose."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.errors import LposekitError, UsageError
from trainer.inference.settings import SampleSettings
from trainer.run.places import require_weights_folder

if TYPE_CHECKING:
    from lposekit.pose.tracks import PoseTracks


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["sample"], SampleSettings, argv)
    if loaded.settings.run is not None:
        require_weights_folder(loaded.settings.run)  # before torch is loaded, which takes seconds
    from trainer import sample

    estimate = refuse_estimate if loaded.dry_run else estimate_poses
    report = sample.run(loaded.settings, estimate=estimate, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)


def estimate_poses(video: Path) -> PoseTracks:
    """The poses of a video of persons, as `lposekit pose` estimates them: with the settings of that command, from the
    environment and the table [pose] of the settings file.

    Raises:
        LposekitError: the video cannot be read.
    """
    from lposekit.commands.pose import quiet_models
    from lposekit.pose.tracks import read_tracks
    from pipelines.video.poses.run import estimate_poses as estimate
    from pipelines.video.poses.settings import PosesSettings

    quiet_models()
    with tempfile.TemporaryDirectory(prefix="lposekit-sample-") as folder:
        # with an equals sign: the name of a video may begin with a dash
        argv = [f"--input={video}", f"--output={folder}"]
        settings = load(COMMANDS["pose"], PosesSettings, argv).settings
        try:
            [outcome] = estimate(settings).videos
        except LposekitError as error:
            raise type(error)(
                f"--pose {video}: {error}\nThe poses of a video are estimated with the settings of the table [pose] in "
                "lposekit.toml, or LPOSEKIT_POSE_MODEL and the like. Or run `lposekit pose` first, and name its file."
            ) from error
        if outcome.poses is None:
            raise LposekitError(f"--pose {outcome.line()}. Take another video.")
        return read_tracks(outcome.poses)


def refuse_estimate(video: Path) -> PoseTracks:
    """A dry run estimates nothing."""
    raise UsageError(
        f"--pose {video}: a video of persons, and a dry run estimates no poses. Estimate them first (`lposekit pose "
        f"--input {video} --output DIR`) and name the *.poses.json file that it writes."
    )
