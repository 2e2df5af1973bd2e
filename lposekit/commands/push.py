"""`lposekit push SOURCE --to PLACE`: pass a dataset, or the weights of a run, on to others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lposekit.commands.export import RUN_FILES
from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from pipelines.publish.settings import PushSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["push"], PushSettings, argv)
    settings = loaded.settings
    assert settings.source is not None
    from pipelines.publish.push import push_dataset, push_folder

    if not any((settings.source / name).is_file() for name in RUN_FILES):
        return finish(push_dataset(settings, dry_run=loaded.dry_run), as_json=loaded.json)
    from trainer.export import export_run

    with tempfile.TemporaryDirectory(prefix="lposekit-push-") as folder:
        exported = Path(folder) / "run"
        export_run(settings.source, "diffusers", exported)
        return finish(push_folder(exported, settings, dry_run=loaded.dry_run), as_json=loaded.json)
