"""`lposekit build-video-shards`: build a dataset of short captioned clips from videos."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from pipelines.video.settings import BuildVideoSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["build-video-shards"], BuildVideoSettings, argv)
    from pipelines.recipes import build_videos

    report = build_videos(loaded.settings, quickstart=loaded.quickstart, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)
