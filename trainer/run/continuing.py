"""Going on with a run: which settings it keeps, which must be those of before, and which changes are told.

What a change means is marked at each setting (`MUST_STAY`, `LOGGED`, `MAY_CHANGE`). A checkpoint holds the values of
the first two kinds; of an older run, its `settings.toml` does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lposekit.errors import UsageError
from lposekit.setting_values import LOGGED, MUST_STAY, flatten, leaves, plain_leaves
from lposekit.shards.card import differing_fields
from lposekit.store import LocalStore
from lposekit.store_reads import read_whole
from trainer.run.build import choose_precision, is_compiled, is_winograd
from trainer.run.checkpoint import read_facts
from trainer.run.distributed import World
from trainer.run.folder import MAX_SETTINGS_BYTES, SETTINGS_NAME, SETTINGS_TABLE
from trainer.settings import TrainSettings, batch_size, default_micro_batch, largest_part

log = logging.getLogger(__name__)

Values = dict[str, Any]
CAME_LATER: Values = {"clip.start": "any", "compute.winograd": False}
"""What runs did before these settings were there."""

COMPARED_BY_CONTENT = ("stage", "seed", "image.size", "pose.", "model.", "loader.")
"""Beginnings of names of settings that must stay and are compared as what they amount to (`RunCard.fixed`): a model's
preset and its switches may say the same thing in two ways."""
PRECISION, MICRO_BATCH = "compute.precision", "optim.micro_batch"
COMPILE, WINOGRAD = "compute.compile", "compute.winograd"


def facts_of(checkpoint: Path | None) -> Mapping[str, Any]:
    """What a checkpoint says; nothing if there is none or it cannot be read, which whoever loads it will tell."""
    try:
        return {} if checkpoint is None else read_facts(checkpoint)
    except (OSError, ValueError):
        return {}


def as_begun(settings: TrainSettings, facts: Mapping[str, Any]) -> TrainSettings:
    """The settings of a run that holds nothing out, or repeats the last frame of a clip that is too short: as every run
    of an older version does, and goes on to do. So its order and its samples stay what they were. What was named
    otherwise is left as it is, to be refused."""
    default = TrainSettings()
    if not facts:
        return settings
    if settings.loader.held_out == default.loader.held_out and not facts.get("fixed", {}).get("held_out"):
        log.info("the run holds no sample out, as it was begun (--loader.held-out 0)")
        settings = dataclasses.replace(settings, loader=dataclasses.replace(settings.loader, held_out=0))
    repeats = facts.get("settings", {}).get("clip.short", "repeat") == "repeat"
    if settings.stage == 2 and settings.clip.short == default.clip.short and repeats:
        log.info("the run repeats the last frame of a clip that is too short, as it was begun (--clip.short repeat)")
    if repeats:
        settings = dataclasses.replace(settings, clip=dataclasses.replace(settings.clip, short="repeat"))
    return settings


def computed_as_begun(settings: TrainSettings, before: Values, device: torch.device) -> TrainSettings:
    """The settings of a run that goes on without torch.compile, or Winograd's convolutions, where it had none and
    nothing else is asked for: its numbers stay those of before. `before`: as `values_of_before` has them."""
    compute = settings.compute
    if is_compiled(settings, device) and compute.compile is None and not before.get(COMPILE):
        log.info("the run is not compiled, as it was begun (--compute.compile compiles it from here on)")
        compute = dataclasses.replace(compute, compile=False)
    if is_winograd(settings, device) and compute.winograd is None and not before.get(WINOGRAD):
        log.info("the run convolves directly, as before (--compute.winograd makes steps faster from here on)")
        compute = dataclasses.replace(compute, winograd=False)
    return dataclasses.replace(settings, compute=compute)


def with_batches(settings: TrainSettings, facts: Mapping[str, Any], world: World) -> TrainSettings:
    """Batch and micro-batch as the settings say, else as the run had them, else by default. `auto` stays where the run
    has not found its micro-batch yet.

    Raises:
        UsageError: `auto` without a GPU.
    """
    batch = settings.batch_size or facts.get("batch_size") or batch_size(settings)
    share = max(1, batch // world.size)
    had: int | None = facts.get("micro_batch")
    micro = settings.optim.micro_batch
    if micro == "auto":
        if world.device.type != "cuda":
            raise UsageError(
                f"--optim.micro-batch auto measures on a GPU what fits, and this run is on {world.device}: give a "
                "number, or leave it out."
            )
        if had and share % had == 0:
            micro = had
    elif micro is None and facts:
        # a run of an older version took its whole share in one pass
        micro = largest_part(share, had or share)
    elif micro is None:
        micro = default_micro_batch(settings, share)
    optim = dataclasses.replace(settings.optim, micro_batch=micro)
    return dataclasses.replace(settings, batch_size=batch, optim=optim)


def recorded_values(settings: TrainSettings, device: torch.device) -> Values:
    """The settings that a checkpoint holds, by dotted name, as JSON has them: those whose change means something."""
    known = leaves(type(settings))
    values = {
        name: value
        for name, value in plain_leaves(settings)
        if {MUST_STAY, LOGGED}.intersection(known[name].when_continued)
    }
    values[PRECISION] = choose_precision(settings, device)
    values[COMPILE], values[WINOGRAD] = is_compiled(settings, device), is_winograd(settings, device)
    return json.loads(json.dumps(values, default=str))


def values_of_before(facts: Mapping[str, Any], run_dir: Path) -> Values:
    """What `recorded_values` gave when the checkpoint was written. Of an older run: what its `settings.toml` says,
    where a setting is left out that is none by default."""
    if isinstance(facts.get("settings"), dict):
        return {**CAME_LATER, **facts["settings"]}
    try:
        text = read_whole(LocalStore(run_dir), SETTINGS_NAME, MAX_SETTINGS_BYTES).decode("utf-8")
        written = dict(flatten(tomllib.loads(text)[SETTINGS_TABLE]))
    except (OSError, ValueError, KeyError):
        return {}
    for former, group in TrainSettings.FORMER_GROUPS.items():
        written = {name.replace(f"{former}.", f"{group}.", 1): value for name, value in written.items()}
    none = {name: None for name, leaf in leaves(TrainSettings).items() if leaf.default is None}
    values = {**none, **CAME_LATER, **written}
    for name in (PRECISION, COMPILE, MICRO_BATCH):
        # none stood for what the device or the batch made of it
        if values.get(name) is None:
            values.pop(name, None)
    return values


def changes(before: Values, now: Values, mark: str) -> list[str]:
    """The settings of one kind that differ, as `name: old -> new`. What was not known before counts as the same."""
    known = leaves(TrainSettings)
    names = [name for name in now if name in before and mark in known[name].when_continued]
    compared = [name for name in names if not name.startswith(COMPARED_BY_CONTENT)]
    return differing_fields({n: before[n] for n in compared}, {n: now[n] for n in compared})


def refuse_changes(before: Values, now: Values, where: Path) -> None:
    """Raises UsageError if a setting that must stay is another than before."""
    changed = changes(before, now, MUST_STAY)
    if changed:
        raise UsageError(
            f"{where} cannot be resumed with other settings:\n  " + "\n  ".join(changed) + "\n"
            "Go back to those, or start a new run in another --output."
        )


def logged_changes(before: Values, now: Values) -> list[str]:
    """Settings that may change, and whose change is told."""
    return changes(before, now, LOGGED)
