"""`lposekit pose`: the poses of every frame of a video, followed, smoothed, and drawn on request; or of a dataset's
clips, as a dataset of their own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS


def run(argv: Sequence[str]) -> int:
    from pipelines.video.poses.settings import PosesSettings

    loaded = load(COMMANDS["pose"], PosesSettings, argv)
    quiet_models()
    from pipelines.video.poses.clip_source import is_dataset

    if any(is_dataset(Path(name)) for name in loaded.settings.input):
        from pipelines.recipes import build_poses

        return finish(build_poses(loaded.settings, dry_run=loaded.dry_run), as_json=loaded.json)
    from pipelines.video.poses.run import estimate_poses

    return finish(estimate_poses(loaded.settings, dry_run=loaded.dry_run), as_json=loaded.json)


def quiet_models() -> None:
    """Hide what MMDet's code of 2023 is told by torch: nothing that the user of a command could change."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="mmdet")
    warnings.filterwarnings("ignore", message="torch.meshgrid")
