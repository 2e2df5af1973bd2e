"""`lposekit export --source DATASET --to NAME --output DIR`: write a dataset in the layout of another tool."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from pipelines.export.settings import ExportSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["export"], ExportSettings, argv)
    if loaded.settings.to is None:
        raise UsageError("export: no target is named. Give --to NAME; `lposekit export --help` lists them.")
    from pipelines.export.run import export_dataset

    return finish(export_dataset(loaded.settings, dry_run=loaded.dry_run), as_json=loaded.json)
