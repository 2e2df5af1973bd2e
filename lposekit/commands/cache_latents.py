"""`lposekit cache-latents DIR`: write the VAE latents of a dataset beside its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.shards.card import read_card
from lposekit.shards.layout import DatasetLayout
from trainer.settings import CacheLatentsSettings

NEXT = "train with it: lposekit train --loader.latents"


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["cache-latents"], CacheLatentsSettings, argv)
    assert loaded.settings.data is not None
    read_card(DatasetLayout(loaded.settings.data))  # before torch is loaded, which takes seconds
    from pipelines.build import build
    from pipelines.job.resend import ask
    from pipelines.job.shard import write_shard
    from trainer.cache_latents.recipe import latents_recipe

    report = build(latents_recipe(loaded.settings, write_shard, ask), dry_run=loaded.dry_run)
    if report.exit_code == 0 and not report.dry_run:
        report = replace(report, notes=(*report.notes, NEXT))
    return finish(report, as_json=loaded.json)
