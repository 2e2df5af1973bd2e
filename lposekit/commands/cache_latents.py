"""`lposekit cache-latents DIR`: write the VAE latents of a dataset beside its shards."""

from __future__ import annotations

from collections.abc import Sequence

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.shards.card import read_card
from lposekit.shards.layout import DatasetLayout
from trainer.settings import CacheLatentsSettings


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["cache-latents"], CacheLatentsSettings, argv)
    assert loaded.settings.data is not None
    read_card(DatasetLayout(loaded.settings.data))  # before torch is loaded, which takes seconds
    from trainer import cache_latents

    report = cache_latents.run(loaded.settings, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)
