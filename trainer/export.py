"""Trained weights in the layouts that other code reads: diffusers, the release, stock T2I-Adapter pipelines."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lposekit.errors import UsageError
from lposekit.json_values import parse_json_object
from lposekit.shards.files import disk_error, replacing, write_bytes, write_json
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.settings import SampleSettings
from trainer.model.official_weights import pose_encoder_part, write_official_unet
from trainer.model.pose_encoder import PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.model.tensor_files import load_strictly, write_weights
from trainer.model.unet import VideoUNet
from trainer.run.sampler import WeightsFacts, load_pipeline, read_facts
from trainer.standalone import standalone_source

log = logging.getLogger(__name__)

TARGETS = {
    "diffusers": "`lposekit sample --run FOLDER`; FollowYourPosePipeline.from_pretrained(FOLDER), with this package",
    "diffusers-standalone": "DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True), with diffusers alone",
    "official": "the official sampler; `lposekit sample --official-weights FOLDER --base BASE`",
    "t2i-adapter": "diffusers' StableDiffusionAdapterPipeline: T2IAdapter.from_pretrained(FOLDER), over the run's base",
}
"""Layout -> how it is read."""
COMPUTED = {1: ("pose_at",), 2: ("temporal_layers", "cross_frame", "pose_at", "joint_group_norm")}
"""Stage -> switches that decide what its weights compute, once they are trained."""
PIPELINES = ("diffusers", "diffusers-standalone")
"""Layouts that hold the whole pipeline, with its switches."""
PIPELINE_MODULE, UNET_MODULE = "pipeline", "followyourpose_unet"
FROM = "_name_or_path"
"""Where a part was loaded from: a folder of this machine."""
SKELETONS = "skeletons.json"
"""In an exported adapter's folder: the style and the line width (in pixels of an image of `size`; null: the style's)
that it was trained with."""
UNET_FOLDER, UNET_FILE = "followyourpose_checkpoint-1000", "pytorch_model.bin"
"""As in the release; its sampler is configured for this folder."""


@dataclass(frozen=True, slots=True)
class RunExport:
    """What was written. `files`: relative to the folder."""

    output: Path
    target: str
    files: tuple[str, ...]
    dry_run: bool = False
    exit_code = 0

    def as_json(self) -> Mapping[str, object]:
        return {"output": str(self.output), "to": self.target, "files": list(self.files), "dry_run": self.dry_run}

    def summary_lines(self) -> list[str]:
        verb = "would export" if self.dry_run else "exported"
        return [f"{verb} the weights to {self.output} for {self.target}", f"how to read it: {TARGETS[self.target]}"]


def export_run(
    source: Path, target: str, output: Path, *, base: str | None = None, step: int | None = None, dry_run: bool = False
) -> RunExport:
    """Export the weights of a run (or of a saved pipeline): the moving average of the newest checkpoint, if it has one.

    Args:
        base: the base model, if it is not where the run found it.
        step: of the checkpoint; default: the newest whole one.

    Raises:
        UsageError: the layout cannot hold these weights; the output holds other files.
        LposekitError: the run is damaged; the disk is full.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: is there and is not empty. Name a new --output.")
    settings = SampleSettings(run=source, base=base, step=step)
    facts = read_facts(settings)
    _check(facts, source, target, step)
    if dry_run:
        return RunExport(output, target, (), dry_run=True)
    pipeline = load_pipeline(settings, facts)
    _check_switches(pipeline.unet, facts, source, target)
    if target not in PIPELINES and pipeline.pose_encoder is None:
        raise UsageError(f"--to {target}: {source} has no pose encoder, which is what this layout is for.")
    try:
        WRITERS[target](pipeline, facts, output)
    except OSError as error:
        raise disk_error(error, output) from error
    write_bytes(output / "README.md", card_text(facts, target).encode())
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    return RunExport(output, target, tuple(files))


def _check(facts: WeightsFacts, source: Path, target: str, step: int | None) -> None:
    if target not in TARGETS:
        raise UsageError(f"--to {target}: {source} holds trained weights. For these: {', '.join(TARGETS)}.")
    if step is not None and facts.card is None:
        raise UsageError(f"--step: {source} is a saved pipeline, which has one state only. Drop it.")
    if target == "t2i-adapter" and facts.stage != 1:
        raise UsageError(
            f"--to t2i-adapter: for weights of stage 1, and {source} is of stage {facts.stage}, whose temporal layers "
            "no stock pipeline has. Export the stage-1 run that it began with, or take --to diffusers."
        )


def _check_switches(unet: VideoUNet, facts: WeightsFacts, source: Path, target: str) -> None:
    """Raises UsageError if the weights compute otherwise than the release's, which who reads the layout expects."""
    differing = [name for name in COMPUTED[facts.stage] if getattr(unet.switches, name) != getattr(OFFICIAL, name)]
    if target not in PIPELINES and differing:
        raise UsageError(
            f"--to {target}: {source} was trained with another {', '.join(differing)} than the release, which who "
            "reads it would not know. Take --to diffusers."
        )


def _write_diffusers(pipeline: FollowYourPosePipeline, facts: WeightsFacts, output: Path) -> None:
    pipeline.save_pretrained(output)
    for path in output.rglob("*.json"):
        values = json.loads(path.read_bytes())
        if isinstance(values, dict) and values.pop(FROM, None) is not None:
            write_json(path, values)


def _write_standalone(pipeline: FollowYourPosePipeline, facts: WeightsFacts, output: Path) -> None:
    """As `_write_diffusers`, with the source code of both classes of ours, where diffusers looks for it."""
    _write_diffusers(pipeline, facts, output)
    for module, kind, path in (
        (FollowYourPosePipeline.__module__, "FollowYourPosePipeline", f"{PIPELINE_MODULE}.py"),
        (VideoUNet.__module__, "VideoUNet", f"unet/{UNET_MODULE}.py"),
    ):
        write_bytes(output / path, standalone_source(module, kind).encode())
    path = output / "model_index.json"
    index = parse_json_object(path.read_bytes())
    named = {"_class_name": [PIPELINE_MODULE, "FollowYourPosePipeline"], "unet": [UNET_MODULE, "VideoUNet"]}
    write_json(path, {**index, **named})


def _write_official(pipeline: FollowYourPosePipeline, facts: WeightsFacts, output: Path) -> None:
    """`pose_encoder.pth`, and of stage 2 the UNet with the pose encoder in it."""
    encoder = _pose_encoder(pipeline)
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "pose_encoder.pth", "partial-pose_encoder.pth") as partial:
        write_weights(encoder.state_dict(), partial)
    if facts.stage == 2:
        with replacing(output / UNET_FOLDER / UNET_FILE, f"partial-{UNET_FILE}") as partial:
            write_official_unet(pipeline.unet, encoder, partial)


def _write_adapter(pipeline: FollowYourPosePipeline, facts: WeightsFacts, output: Path) -> None:
    assert pipeline.pose_encoder is not None
    pipeline.pose_encoder.save_pretrained(output)
    skeletons = {"style": facts.pose_style, "line_width_px": facts.pose_line_width, "size": facts.size}
    write_json(output / SKELETONS, skeletons)


WRITERS = {
    "diffusers": _write_diffusers,
    "diffusers-standalone": _write_standalone,
    "official": _write_official,
    "t2i-adapter": _write_adapter,
}


def _pose_encoder(pipeline: FollowYourPosePipeline) -> PoseEncoder:
    """The pipeline's adapter under the names of the release."""
    assert pipeline.pose_encoder is not None
    encoder = build_pose_encoder(pipeline.unet.config["block_out_channels"], OFFICIAL)
    weights = {name: value.to(torch.float32) for name, value in pipeline.pose_encoder.state_dict().items()}
    load_strictly(encoder, pose_encoder_part(weights), "pose encoder of the pipeline")
    return encoder


def card_text(facts: WeightsFacts, target: str) -> str:
    """README.md, with the header that model hubs read."""
    base = facts.card.base.name if facts.card and facts.card.base else None
    width = "as the style says" if facts.pose_line_width is None else f"{facts.pose_line_width:g} px"
    lines = [
        "---",
        "license: other",
        "library_name: diffusers",
        *([f"base_model: {base}"] if base and "/" in base and not base.startswith(("/", ".")) else []),
        "tags: [follow-your-pose, pose-guided]",
        "---",
        "",
        f"# Follow-Your-Pose weights, stage {facts.stage}",
        "",
        f"How it is read: {TARGETS[target]}.",
        "",
        "| | |",
        "|---|---|",
        f"| trained at | {facts.size} px" + (f", {facts.frames} frames |" if facts.stage == 2 else " |"),
        f"| skeletons | style {facts.pose_style}, limbs {width} |",
        "",
        "The base model's licence holds for these weights too. Do not depict real people without their consent, and",
        "say of what is drawn that it is AI-generated.",
    ]
    return "\n".join(lines) + "\n"
