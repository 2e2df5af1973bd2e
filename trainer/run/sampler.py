"""From a run, a saved pipeline or the published weights to a pipeline that can sample."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import BaseImageProcessor

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import JsonObject, JsonValue, read_json_object
from lposekit.skeleton_styles import STYLES
from lposekit.store import LocalStore
from lposekit.store_reads import sha256_of
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.schedulers import make_scheduler
from trainer.inference.settings import SampleSettings
from trainer.model.base import Base, base_folder, load_base
from trainer.model.official_weights import (
    FOLDER_FILES,
    load_official_unet,
    load_pose_encoder,
    pose_encoder_part,
    read_weights,
)
from trainer.model.pose_encoder import POSE_PREFIX, PoseEncoder, build_pose_encoder, to_t2i_adapter
from trainer.model.switches import OFFICIAL, ModelSwitches
from trainer.model.tensor_files import first_line, load_strictly
from trainer.model.tiny import TINY, quiet_progress_bars
from trainer.model.unet import VideoUNet, inflate
from trainer.run.checkpoint import EMA, WEIGHTS, copy_weights, load_checkpoint, newest_whole, step_folder
from trainer.run.folder import fingerprint
from trainer.run.places import MODEL_INDEX, require_weights_folder
from trainer.run.pose_weights import COPY_NAME, own_copy
from trainer.run.run_card import BaseFacts, RunCard, read_run_card
from trainer.stages import build_stage

log = logging.getLogger(__name__)

MAX_INDEX_BYTES = 2**20
MAX_SIZE = 8192
ALLOWED = {"stage": range(1, 3), "size": range(8, MAX_SIZE + 1, 8), "frames": range(1, 2**16)}
"""Other numbers in a run's or a pipeline's own files are damage: they would take all memory."""
SAFETY_FILES = (
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/*",
)


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """What weights need around them, known before any of them is loaded.

    name: for the user. stage, size, frames, pose_style, pose_line_width: see `FollowYourPosePipeline`. card: `run.json`
    of a run, None otherwise.
    """

    name: str
    card: RunCard | None = None
    stage: int = 2
    size: int = 512
    frames: int = 8
    pose_style: str = "followyourpose"
    pose_line_width: float | None = None


def read_facts(settings: SampleSettings) -> WeightsFacts:
    """The facts of the weights that the settings name.

    Raises:
        UsageError, LposekitError: they lead nowhere.
    """
    if settings.official_weights is not None:
        official_files(settings.official_weights)
        return WeightsFacts(f"published weights {settings.official_weights}")
    assert settings.run is not None
    require_weights_folder(settings.run)
    if (settings.run / MODEL_INDEX).is_file():
        index = _index(settings.run)
        if index.get("_class_name") != FollowYourPosePipeline.__name__:
            raise UsageError(f"--run {settings.run}: a pipeline of another kind ({index.get('_class_name')}).")
        return read_stated(f"pipeline {settings.run}", None, index)
    card = read_run_card(settings.run)
    return read_stated(f"run {settings.run}", card, card.as_json())


def read_stated(name: str, card: RunCard | None, found: JsonObject) -> WeightsFacts:
    """The facts that a run card, the index of a pipeline or an exported adapter states; what it leaves out is as usual.

    Raises:
        UsageError: a style that is not known. LposekitError: values that cannot be used.
    """
    scalars = ("stage", "size", "frames", "pose_style", "pose_line_width")
    stated: dict[str, Any] = {key: found[key] for key in scalars if found.get(key) is not None}  # checked below
    facts = WeightsFacts(name, card, **stated)
    kinds = {"stage": int, "size": int, "frames": int, "pose_style": str}
    wrong = [key for key, kind in kinds.items() if not isinstance(getattr(facts, key), kind)]
    wrong = wrong or [key for key, allowed in ALLOWED.items() if getattr(facts, key) not in allowed]
    width = facts.pose_line_width
    if width is not None and not (isinstance(width, int | float) and 0 < width <= MAX_SIZE):
        wrong.append("pose_line_width")
    if wrong:
        raise LposekitError(f"{name}: its {wrong[0]} ({getattr(facts, wrong[0])}) cannot be used. Save it again.")
    if facts.pose_style not in STYLES:
        raise UsageError(f"{name}: it draws skeletons in the style {facts.pose_style!r}, which is not known here.")
    return facts


def load_pipeline(settings: SampleSettings, facts: WeightsFacts) -> FollowYourPosePipeline:
    """The pipeline in float32 on the CPU, with the scheduler of the settings.

    Raises:
        UsageError: base and weights do not belong together. LposekitError: a file is damaged or missing.
    """
    quiet_progress_bars()
    if settings.official_weights is not None:
        assert settings.base is not None
        pipeline = from_official(settings.official_weights, load_base(settings.base), facts)
        base_name: str | None = settings.base
    elif facts.card is None:
        assert settings.run is not None
        pipeline, base_name = from_saved(settings.run), None
    else:
        assert settings.run is not None
        base_name = settings.base or where_base_is(facts)
        pipeline = from_run(settings.run, load_base(base_name), facts, settings.step)
    if base_name == TINY:
        log.warning("the base tiny has random weights: what it draws is noise, and shows only that sampling works")
    if base_name is not None and settings.safety_checker:
        pipeline.register_modules(**safety_modules(base_name))
    if not settings.safety_checker:
        pipeline.register_modules(safety_checker=None, feature_extractor=None)
    pipeline.register_modules(scheduler=make_scheduler(settings.scheduler, pipeline.scheduler.config))
    return pipeline


def from_run(run_dir: Path, base: Base, facts: WeightsFacts, step: int | None) -> FollowYourPosePipeline:
    """The weights of a run's checkpoint (their moving average, if it keeps one) over its base."""
    card, known = facts.card, base_facts(facts)
    assert card is not None
    if fingerprint(base.unet) != known.unet:
        raise UsageError(
            f"--base {base.source}: another UNet than the one that {run_dir} was trained on ({known.name}). Name that "
            "one with --base."
        )
    folder = newest_whole(run_dir) if step is None else step_folder(run_dir, step)
    if folder is None:
        raise LposekitError(f"{run_dir}: it has no whole checkpoint. Train it further, or name another run.")
    checkpoint = load_checkpoint(folder)
    switches = read_switches(card, run_dir)
    encoder = kept_encoder(run_dir, base, card) if facts.stage == 2 else None
    number = 1 if facts.stage == 1 else 2
    stage = build_stage(number, base.unet, base.scheduler, switches, encoder)
    copy_weights(stage.trainable(), checkpoint.tensors.get(EMA) or checkpoint.tensors[WEIGHTS], f"checkpoint {folder}")
    log.info("weights of step %d from %s", checkpoint.step, folder)
    return assemble(base, stage.unet, stage.pose_encoder, facts)


def kept_encoder(run_dir: Path, base: Base, card: RunCard) -> PoseEncoder | None:
    """The pose encoder that a stage-2 run has copied into its folder, if it has one.

    Raises LposekitError if it is another one than the run's: the result would only look a little worse.
    """
    path = own_copy(run_dir)
    if card.pose_encoder is not None and (
        path is None or sha256_of(LocalStore(run_dir), COPY_NAME) != card.pose_encoder.sha256
    ):
        raise LposekitError(f"{run_dir / COPY_NAME}: missing, or not as the run wrote it. Restore it from a copy.")
    return None if path is None else load_pose_encoder(path, base.unet.config["block_out_channels"])


def from_official(path: Path, base: Base, facts: WeightsFacts) -> FollowYourPosePipeline:
    """The published UNet over its base; its own pose encoder, or `pose_encoder.pth` if it has none."""
    unet_file, encoder_file = official_files(path)
    unet = inflate(base.unet, OFFICIAL)
    encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL)
    own = any(name.startswith(POSE_PREFIX) for name in read_weights(unet_file))
    if not own and encoder_file is None:
        raise UsageError(f"--official-weights {path}: no pose encoder, neither in {unet_file} nor as pose_encoder.pth.")
    load_official_unet(unet_file, unet, encoder if own else None)
    if not own:
        assert encoder_file is not None
        load_strictly(encoder, pose_encoder_part(read_weights(encoder_file)), f"pose encoder {encoder_file}")
    return assemble(base, unet, encoder, facts)


def official_files(path: Path) -> tuple[Path, Path | None]:
    """The UNet (a file, or a folder with one) and the pose encoder file of the published weights."""
    encoder = path / "pose_encoder.pth"
    found_encoder = encoder if encoder.is_file() else None
    if path.is_file():
        return path, None
    folders = [path, *sorted(path.glob("followyourpose_checkpoint-*"))] if path.is_dir() else []
    unet_files = [name for name in FOLDER_FILES if not name.startswith("pose_encoder")]
    for folder in reversed(folders):
        if any((folder / name).is_file() for name in unet_files):
            return folder, found_encoder
    raise UsageError(
        f"--official-weights {path}: no UNet there. Name the folder that holds `followyourpose_checkpoint-1000` "
        f"(with {unet_files[-1]}), that folder, or the file."
    )


def from_saved(folder: Path) -> FollowYourPosePipeline:
    """A pipeline that `save_pretrained` wrote."""
    try:
        return FollowYourPosePipeline.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LposekitError(f"--run {folder}: the pipeline cannot be loaded ({error}). Save it again.") from error


def assemble(base: Base, unet: VideoUNet, encoder: PoseEncoder | None, facts: WeightsFacts) -> FollowYourPosePipeline:
    """The pipeline of these parts."""
    return FollowYourPosePipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=unet,
        scheduler=make_scheduler("ddim", base.scheduler.config),
        pose_encoder=None if encoder is None else to_t2i_adapter(encoder),
        stage=facts.stage,
        size=facts.size,
        frames=facts.frames,
        pose_style=facts.pose_style,
        pose_line_width=facts.pose_line_width,
    )


def read_switches(card: RunCard, run_dir: Path) -> ModelSwitches:
    """The switches that a run was trained with.

    Raises:
        LposekitError: this version does not know one.
    """
    try:
        return ModelSwitches(**card.switches)  # pyright: ignore
    except TypeError as error:
        raise LposekitError(f"{run_dir}: its model switches are not those of this version ({error}).") from error


def base_facts(facts: WeightsFacts) -> BaseFacts:
    """What a run says of its base.

    Raises:
        LposekitError: it says nothing.
    """
    if facts.card is None or facts.card.base is None:
        raise LposekitError(f"{facts.name}: its run.json says nothing of the base. Restore it from a copy.")
    return facts.card.base


def where_base_is(facts: WeightsFacts) -> str:
    """The base's name, or the folder that it once was read from, if there is nothing by that name any more."""
    base = base_facts(facts)
    gone = base.name is None or ("/" in base.name and not Path(base.name).is_dir())
    if gone and base.source is not None and Path(base.source).is_dir():
        return base.source
    if base.name is None:
        raise UsageError(f"{facts.name}: its base is not known. Name it with --base.")
    return base.name


def safety_modules(base_name: str) -> dict[str, ModelMixin | BaseImageProcessor | None]:
    """The base's safety checker and its feature extractor; none if the base has none.

    Raises:
        UsageError: it has one that cannot be read.
    """
    folder = base_folder(base_name, SAFETY_FILES)
    listed = _index(folder).get("safety_checker") if (folder / MODEL_INDEX).is_file() else None
    there = (folder / "safety_checker" / "config.json").is_file()
    if not there and not (isinstance(listed, list) and listed and listed[0]):
        log.info("the base %s has no safety checker", base_name)
        return {"safety_checker": None, "feature_extractor": None}
    # without torchvision its import warns, also those who have no checker
    from transformers import CLIPImageProcessor

    try:
        return {
            "safety_checker": StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker"),  # pyright: ignore
            "feature_extractor": CLIPImageProcessor.from_pretrained(folder / "feature_extractor"),
        }
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the base {base_name} has a safety checker that cannot be read ({first_line(error)}). Complete the base, "
            "or go without it: --no-safety-checker."
        ) from error


def _index(folder: Path) -> dict[str, JsonValue]:
    path = folder / MODEL_INDEX
    try:
        # the hub's cache, where a base may lie, is made of links: the file itself is what the user named
        file = path.resolve()
        return read_json_object(LocalStore(file.parent), file.name, MAX_INDEX_BYTES)
    except (OSError, ValueError) as error:
        raise LposekitError(f"{path}: cannot be read ({error}). Save the pipeline again.") from error
