"""`lposekit train`: stage 1 (pose encoder, on images) or stage 2 (temporal layers, on clips)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from trainer.settings import TrainSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["train"], TrainSettings, argv)
    from trainer import train

    report = train.run(loaded.settings, dry_run=loaded.dry_run)
    # Under torchrun every process comes here with the same report; one of them says it.
    return finish(report, as_json=loaded.json) if os.environ.get("RANK", "0") == "0" else report.exit_code
