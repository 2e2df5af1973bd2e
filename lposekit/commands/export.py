"""`lposekit export SOURCE --to NAME --output DIR`: a dataset or a run in the layout of another tool."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from pipelines.export.settings import ExportSettings

RUN_FILES = ("run.json", "model_index.json")
"""Either of them makes a folder one of trained weights."""


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["export"], ExportSettings, argv)
    if loaded.settings.to is None:
        raise UsageError("export: no target is named. Give --to NAME; `lposekit export --help` lists them.")
    settings = loaded.settings
    assert settings.source is not None
    assert settings.output is not None
    if any((settings.source / name).is_file() for name in RUN_FILES):
        from trainer.export import export_run

        report = export_run(
            settings.source,
            str(settings.to),
            settings.output,
            base=settings.base,
            step=settings.step,
            dry_run=loaded.dry_run,
        )
        return finish(report, as_json=loaded.json)
    from pipelines.export.run import export_dataset

    return finish(export_dataset(loaded.settings, dry_run=loaded.dry_run), as_json=loaded.json)
