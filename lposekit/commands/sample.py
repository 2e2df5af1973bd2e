"""`lposekit sample`: draw a clip (or images) that follows a prompt and a pose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from trainer.inference.settings import SampleSettings

if TYPE_CHECKING:
    from lposekit.pose.tracks import PoseTracks


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["sample"], SampleSettings, argv)
    from trainer import sample

    report = sample.run(loaded.settings, estimate=estimate_poses, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)


def estimate_poses(video: Path) -> PoseTracks:
    """The poses of a video of persons, as `lposekit pose` estimates them."""
    raise UsageError(
        f"--pose {video}: a video of persons. Estimate its poses first (`lposekit pose --input {video} --output DIR`) "
        "and name the *.poses.json file that it writes."
    )
