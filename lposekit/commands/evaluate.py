"""`lposekit evaluate`: score what a run, or another system, draws for pairs of prompt and pose."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.pose import quiet_models
from lposekit.commands.registry import COMMANDS
from trainer.evaluate.settings import EvaluateSettings
from trainer.run.places import require_weights_folder


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["evaluate"], EvaluateSettings, argv)
    if loaded.settings.run is not None:
        require_weights_folder(loaded.settings.run)  # before torch is loaded, which takes seconds
    from trainer.evaluate import run as evaluation

    quiet_models()
    return finish(evaluation.run(loaded.settings, dry_run=loaded.dry_run), as_json=loaded.json)
