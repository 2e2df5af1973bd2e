"""`lposekit materialize INDEX --output DIR`: fetch images of an index, and write the dataset of which it was made."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from pipelines.image.index_settings import MaterializeSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["materialize"], MaterializeSettings, argv)
    from pipelines.recipes import materialize

    return finish(materialize(loaded.settings, dry_run=loaded.dry_run), as_json=loaded.json)
