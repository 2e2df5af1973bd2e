"""A cache written by this process alone, one shard after the other: for small datasets, and without Ray."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from lposekit.json_values import JsonObject
from lposekit.recipe import Claim, ShardReport, dataset_card
from lposekit.records import Columns
from lposekit.shards.card import claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult, ShardKind, commit_marker, outcome_counts, rows_table
from lposekit.shards.writer import ShardWriter, finish_replacements, remove_partials
from lposekit.stage_times import StageTimes
from trainer.cache_latents.recipe import latents_recipe
from trainer.run.folder import own_folder
from trainer.settings import CacheLatentsSettings

DRIVER_LOCK = "_dataset/driver.lock"
"""What the builds of a cache and `lposekit remove` hold: so that none of them works on a folder that this one fills."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What a run did: `new_shards` that it encoded, with their `samples`."""

    output: Path
    new_shards: int
    samples: int


def run(settings: CacheLatentsSettings) -> CacheReport:
    """Encode every shard of a dataset that its cache lacks.

    Raises:
        UsageError: wrong settings, or the folder holds a cache of other settings.
        LposekitError: the dataset is damaged, or the disk is full.
    """
    recipe = latents_recipe(settings, write_here)
    layout = recipe.layout
    recipe.preflight(dry_run=True)
    recipe.refuse_links()
    with own_folder(layout.root, DRIVER_LOCK):
        claim_folder(layout, dataset_card(recipe, []))
        finish_replacements(layout)
        remove_partials(layout)
        worker = recipe.worker(Claim(layout.root, f"run{os.getpid()}"))
        done = [worker.build(plan) for plan in recipe.plans(set(layout.committed_shards()))]
        update_card(layout)
    return CacheReport(layout.root, len(done), sum(report.num_samples for report in done))


def write_here(
    claim: Claim,
    shard: int,
    rows: Generator[RowResult, None, None],
    kind: ShardKind,
    times: StageTimes,
    *,
    stats: JsonObject | None = None,
) -> ShardReport:
    """Commit a shard of a folder that this process alone writes to; see `lposekit.recipe.WriteShard`."""
    layout, start, written = DatasetLayout(claim.root), time.time(), list[Columns]()
    writer = ShardWriter(layout, shard, claim.run_id)
    try:
        with contextlib.closing(rows):
            for row in rows:
                for key, members in row.samples:
                    writer.add(key, members)
                written.append(row.columns)
        marker = commit_marker(written, start, time.time()).with_facts(stats or {})
        writer.commit(rows_table(written, kind.columns), marker, times)
    except BaseException:
        writer.discard()
        raise
    return ShardReport(shard, len(written), writer.num_samples, outcome_counts(written), times.as_dict())
