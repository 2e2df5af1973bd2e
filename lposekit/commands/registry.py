"""The commands that `lposekit --help` lists, and the settings of each. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    main: tuple[str, ...] = ()
    """Settings that `--help` shows, in this order; `--help-all` shows the rest too. Without any, both show all."""
    needed: Mapping[str, str] = field(default_factory=dict)
    """Settings without a default that the command cannot do without, and what to say of them: `required`."""
    extras: tuple[str, ...] = ()
    """Extras of the package that it uses."""
    example: str = ""
    """Arguments of a typical call."""

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
            extras=("build",),
            settings="pipelines.image.settings:BuildImagesSettings",
            input_field="input",
            output_field="output",
            can_dry_run=True,
            main=(
                *("input", "output", "caption_column", "url_column", "min_detected", "person_rule", "detector"),
                *("pose_model", "weights_dir", "workers", "rows_per_shard", "max_rows"),
            ),
            needed={"output": "required with --input"},
            example="--input list.parquet --output laion-pose",
        ),
        Command(
            "build-video-shards",
            "build a dataset of short captioned clips from videos",
            extras=("build", "video"),
            settings="pipelines.video.settings:BuildVideoSettings",
            input_field="input",
            output_field="output",
            can_dry_run=True,
            main=(
                *("input", "output", "format", "captions", "video_root", "clips.length_s", "encode.size"),
                *("encode.format", "workers", "shard_mb", "allow_outside_paths"),
            ),
            needed={"output": "required with --input"},
            example="--input videos.csv --output clips",
        ),
        Command(
            "train",
            "train stage 1 (pose encoder, on images) or stage 2 (temporal layers, on clips)",
            extras=("train",),
            settings="trainer.settings:TrainSettings",
            input_field="data",
            output_field="output",
            variant=lambda settings: f"train-stage-{settings.stage}",
            variants=("train-stage-1", "train-stage-2"),
            can_dry_run=True,
            main=(
                *("stage", "data", "output", "base", "pose_encoder", "max_steps", "batch_size", "optim.lr", "resume"),
                *("image.size", "checkpoint.every_steps", "compute.gradient_checkpointing"),
            ),
            needed={"output": "required with --data", "base": "required with --data"},
            example="--stage 1 --data laion-pose --output stage1 --base sd-1.4",
        ),
        Command(
            "pose",
            "find the poses of every frame of a video, or of the clips of a dataset",
            extras=("build", "video"),
            settings="pipelines.video.poses.settings:PosesSettings",
            can_dry_run=True,
            main=(
                *("input", "output", "person", "skeleton_video", "style", "draw", "smooth", "reference", "detector"),
                *("pose_model", "weights_dir"),
            ),
            needed={"input": "required", "output": "required"},
            example="--input dance.mp4 --output poses --skeleton-video",
        ),
        Command(
            "sample",
            "draw a clip that follows a prompt and a pose, with a trained run",
            extras=("train",),
            settings="trainer.inference.settings:SampleSettings",
            can_dry_run=True,
            main=(
                *("run", "prompt", "pose", "output", "frames", "stride", "steps", "guidance", "seed", "fps", "base"),
            ),
            needed={
                "run": "required, or --official-weights",
                "prompt": "required, or --prompts",
                "output": "required",
            },
            example='--run stage2 --prompt "an astronaut dances" --pose dance.poses.json --output clip.mp4',
        ),
        Command(
            "demo",
            "open a local page that draws clips with a trained run",
            extras=("train", "build", "video"),
            settings="trainer.demo.settings:DemoSettings",
            folder_field="run",
            main=(
                *("run", "host", "port", "output", "max_upload_mb", "max_video_frames", "frames", "steps", "base"),
                "environment",
            ),
            example="stage2",
        ),
        Command(
            "evaluate",
            "score what a run, a ControlNet, a T2I-Adapter or another system draws for pairs of prompt and pose",
            extras=("train", "build", "evaluate"),
            settings="trainer.evaluate.settings:EvaluateSettings",
            can_dry_run=True,
            main=(
                *("run", "controlnet", "t2i_adapter", "base", "frames", "data", "output", "real", "protocol"),
                *("pairs", "clip", "pose_model"),
            ),
            needed={
                "run": "required, or --controlnet, --t2i-adapter, --frames",
                "output": "required",
                "data": "required, or --protocol",
            },
            example="--run stage2 --data clip-poses --real clips --clip clip-vit-large-patch14 --output evaluation",
        ),
        Command(
            "smallworld",
            "train both stages on a procedural world, and measure what they learn",
            extras=("train",),
            settings="trainer.smallworld.settings:SmallWorldSettings",
        ),
        Command(
            "refilter",
            "apply another keep rule to a dataset, without fetching or a GPU",
            extras=("build",),
            settings="lposekit.commands.refilter:RefilterSettings",
            folder_field="data",
            can_dry_run=True,
            needed={"output": "required"},
            example="laion-pose --output laion-pose-strict --min-detected 0.8",
        ),
        Command(
            "retry",
            "retry the rows of a dataset that failed on the network or crashed",
            extras=("build",),
            settings="lposekit.commands.retry:RetrySettings",
            folder_field="data",
            can_dry_run=True,
            main=("only", "workers", "weights_dir", "allow_private_addresses", "allow_outside_paths", "ray_address"),
            example="laion-pose --only dns,timeout",
        ),
        Command(
            "remove",
            "take images and clips out of a dataset, for good",
            settings="lposekit.commands.remove:RemoveSettings",
            folder_field="data",
            can_dry_run=True,
            needed={"list": "required"},
            example="laion-pose --list removals.txt --dry-run",
        ),
        Command(
            "cache-latents",
            "cache the VAE latents of a dataset, to train without the VAE",
            extras=("build", "train"),
            settings="trainer.settings:CacheLatentsSettings",
            folder_field="data",
            can_dry_run=True,
            main=("base", "size", "clip.frames", "clip.stride", "clip.start", "batch_size", "workers", "precision"),
            needed={"base": "required"},
            example="laion-pose --base sd-1.4",
        ),
        Command(
            "export",
            "write a dataset or a run in the layout of another trainer or tool",
            settings="pipelines.export.settings:ExportSettings",
            folder_field="source",
            output_field="output",
            can_dry_run=True,
            needed={"to": "required", "output": "required"},
            example="laion-pose --to diffusers-controlnet --output controlnet",
        ),
        Command(
            "push",
            "pass a dataset or the weights of a run on: to the hub, an object store, a folder",
            settings="pipelines.publish.settings:PushSettings",
            folder_field="source",
            can_dry_run=True,
            needed={"to": "required"},
            example="laion-pose --to hub:USER/NAME --dry-run",
        ),
        Command(
            "materialize",
            "fetch the images of an index without pixels again, without running a model",
            extras=("build",),
            settings="pipelines.image.index_settings:MaterializeSettings",
            folder_field="index",
            can_dry_run=True,
            main=("output", "again", "workers", "fetch.blocklist", "allow_private_addresses", "ray_address"),
            needed={"output": "required"},
            example="laion-pose-index --output laion-pose",
        ),
        Command(
            "view",
            "write an HTML report of a dataset or of a training run",
            settings="lposekit.commands.view:ViewSettings",
            folder_field="data",
            example="laion-pose",
        ),
        Command(
            "verify",
            "check every file of a dataset against its commit markers",
            settings="lposekit.commands.verify:VerifySettings",
            folder_field="data",
            example="laion-pose",
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
