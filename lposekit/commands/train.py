"""`lposekit train`: stage 1 (pose encoder, on images) or stage 2 (temporal layers, on clips)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.shards.card import read_card
from lposekit.shards.layout import DatasetLayout
from trainer.settings import TrainSettings


def run(argv: Sequence[str]) -> int:
    main_process = os.environ.get("RANK", "0") == "0"
    if not main_process:
        # under torchrun all processes come here alike; one of them says it
        logging.getLogger("lposekit.commands").setLevel(logging.WARNING)
    loaded = load(COMMANDS["train"], TrainSettings, argv)
    for folder in loaded.settings.data:
        read_card(DatasetLayout(folder))  # a wrong one is named before torch is loaded, which takes seconds
    from trainer import train

    report = train.run(loaded.settings, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json) if main_process else report.exit_code
