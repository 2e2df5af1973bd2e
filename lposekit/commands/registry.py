"""The commands that `lposekit --help` lists, and the settings of each. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `settings` is the `module:class` of its settings, the class being a dataclass."""

    name: str
    summary: str
    settings: str
    input_field: str | None = None
    """Setting that names the input; without it, the command runs the preset `quickstart`."""
    output_field: str | None = None
    """Setting that is required once the input is named."""
    folder_field: str | None = None
    """Setting that names the folder to work on: required; its flag may be omitted."""
    variant: Callable[[Any], str] | None = None
    """Name of an additional settings table, computed from the settings: `train-stage-1`."""
    variants: tuple[str, ...] = ()
    can_dry_run: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.name, *self.variants)

    @property
    def module(self) -> str:
        return "lposekit.commands." + self.name.replace("-", "_")

    def load_settings_class(self) -> type[DataclassInstance]:
        module, _, name = self.settings.partition(":")
        return getattr(importlib.import_module(module), name)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "build-laion-pose",
            "build an image-text-pose dataset from a list of URLs and captions",
            settings="pipelines.image.settings:BuildImagesSettings",
            input_field="input",
            output_field="output",
            can_dry_run=True,
        ),
        Command(
            "build-video-shards",
            "build a dataset of short captioned clips from videos",
            settings="pipelines.video.settings:BuildVideoSettings",
            input_field="input",
            output_field="output",
            can_dry_run=True,
        ),
        Command(
            "train",
            "train stage 1 (pose encoder, on images) or stage 2 (temporal layers, on clips)",
            settings="trainer.settings:TrainSettings",
            input_field="data",
            output_field="output",
            variant=lambda settings: f"train-stage-{settings.stage}",
            variants=("train-stage-1", "train-stage-2"),
            can_dry_run=True,
        ),
        Command(
            "pose",
            "find the poses of every frame of a video, or of the clips of a dataset",
            settings="pipelines.video.poses.settings:PosesSettings",
            can_dry_run=True,
        ),
        Command(
            "sample",
            "draw a clip that follows a prompt and a pose, with a trained run",
            settings="trainer.inference.settings:SampleSettings",
            can_dry_run=True,
        ),
        Command(
            "smallworld",
            "train both stages on a procedural world, and measure what they learn",
            settings="trainer.smallworld.settings:SmallWorldSettings",
        ),
        Command(
            "refilter",
            "apply another keep rule to a dataset, without fetching or a GPU",
            settings="lposekit.commands.refilter:RefilterSettings",
            folder_field="data",
            can_dry_run=True,
        ),
        Command(
            "retry",
            "retry the rows of a dataset that failed on the network or crashed",
            settings="lposekit.commands.retry:RetrySettings",
            folder_field="data",
            can_dry_run=True,
        ),
        Command(
            "remove",
            "take images and clips out of a dataset, for good",
            settings="lposekit.commands.remove:RemoveSettings",
            folder_field="data",
            can_dry_run=True,
        ),
        Command(
            "cache-latents",
            "cache the VAE latents of a dataset, to train without the VAE",
            settings="trainer.settings:CacheLatentsSettings",
            folder_field="data",
            can_dry_run=True,
        ),
        Command(
            "export",
            "write a dataset or a run in the layout of another trainer or tool",
            settings="pipelines.export.settings:ExportSettings",
            folder_field="source",
            output_field="output",
            can_dry_run=True,
        ),
        Command(
            "view",
            "write an HTML report of a dataset or of a training run",
            settings="lposekit.commands.view:ViewSettings",
            folder_field="data",
        ),
        Command(
            "verify",
            "check every file of a dataset against its commit markers",
            settings="lposekit.commands.verify:VerifySettings",
            folder_field="data",
        ),
        Command(
            "weights",
            "list, check and fetch the weights of detectors and pose models",
            settings="lposekit.commands.weights:WeightsSettings",
        ),
        Command(
            "doctor",
            "check this machine: one line per check, with the fix",
            settings="lposekit.commands.doctor:DoctorSettings",
        ),
        Command(
            "init",
            "write a commented lposekit.toml for a real project",
            settings="lposekit.commands.init:InitSettings",
        ),
    )
}

TABLES = tuple(table for command in COMMANDS.values() for table in command.tables)
"""Every table name that a settings file may contain."""
