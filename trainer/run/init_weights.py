"""`--init`: what a new run starts from: weights of the official release, of a run, or a T2I-Adapter.

Only trained weights are taken. Those that stay frozen have to be the base's, for a run holds none of them: sampling
takes them from the base.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lposekit.errors import LposekitError, UsageError
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of
from trainer.model.official_weights import pose_encoder_part, read_weights
from trainer.model.pose_encoder import POSE_PREFIX
from trainer.model.tensor_files import LISTED_DIFFERENCES, differences
from trainer.run.checkpoint import EMA, WEIGHTS, load_checkpoint, newest_whole
from trainer.run.run_card import RUN_NAME, read_run_card
from trainer.settings import TrainSettings
from trainer.stages import StageModel

log = logging.getLogger(__name__)

RELATIVE, ABSOLUTE = 1e-2, 1e-3
"""By how much a frozen weight may differ from the base's: a file in half precision does by less."""
Weights = Mapping[str, Tensor]


def with_its_pose_encoder(settings: TrainSettings) -> TrainSettings:
    """Stage 2 takes the pose encoder from where it takes its weights, if none is named and there is one."""
    if settings.stage == 1 or not settings.init or settings.pose_encoder:
        return settings
    path = _existing(settings.init)
    if _is_run(path) or any(name.startswith(POSE_PREFIX) for name in read_weights(path)):
        return dataclasses.replace(settings, pose_encoder=settings.init)
    return settings


def start_from(name: str, stage: StageModel, base_unet: str = "") -> None:
    """Copies the weights that `name` leads to into those that the stage trains. `base_unet`: fingerprint of the base's.

    Raises:
        UsageError: nothing there, weights of another kind, size or base; names the tensors that differ.
        LposekitError: a run without a whole checkpoint.
    """
    path = _existing(name)
    trained = stage.trainable()
    if _is_run(path):
        weights, what = _of_run(path)
        if stage.number == 2 and base_unet:
            _refuse_other_base(path, base_unet)
    else:
        weights, what = read_weights(path), f"the weights in {path}"
        if stage.number == 1:
            weights = {POSE_PREFIX + key: value for key, value in pose_encoder_part(weights).items()}
        else:
            weights = _trained_part(weights, stage, what)
    # of a pose encoder some of whose maps are not used, all weights are in a file, and not all are trained
    known = trained if stage.number == 2 else {POSE_PREFIX + k: v for k, v in _pose_encoder(stage).items()}
    expected = known if len(weights) > len(trained) else trained
    _refuse_differences(differences(expected, weights), len(expected), what, stage.number)
    with torch.no_grad():
        for key, parameter in expected.items():
            parameter.copy_(weights[key])
    log.info("starting from %s: %d tensors", what, len(expected))


def _refuse_other_base(run_dir: Path, base_unet: str) -> None:
    """The clip model's trained parts stand beside frozen ones of the base, which a run's weights do not hold."""
    base = read_run_card(run_dir).base
    if base is not None and base.unet != base_unet:
        raise UsageError(f"--init {run_dir}: it was trained on another base ({base.name}). Name that one with --base.")


def _pose_encoder(stage: StageModel) -> Weights:
    return {} if stage.pose_encoder is None else stage.pose_encoder.state_dict()


def _trained_part(weights: Weights, stage: StageModel, what: str) -> Weights:
    """Of a whole UNet's weights, those that stage 2 trains; the others have to be the base's."""
    unet = {key: value for key, value in weights.items() if not key.startswith(POSE_PREFIX)}
    expected = stage.unet.state_dict()
    _refuse_differences(differences(expected, unet), len(expected), what, stage.number)
    trained = stage.trainable()
    other = [
        f"{key} has other values"
        for key, value in expected.items()
        if key not in trained and not torch.allclose(unet[key].float(), value.float(), RELATIVE, ABSOLUTE)
    ]
    if other:
        raise UsageError(
            f"--init: {what} belong to another base, or to a model with other parts trained: {len(other)} weights that "
            f"stay frozen are not the base's: {_listed(other)}. Name the --base that they were trained on, and the "
            "--model switches."
        )
    return {key: value for key, value in unet.items() if key in trained}


def _refuse_differences(found: list[str], count: int, what: str, stage: int) -> None:
    if found:
        wanted = {1: "a pose encoder", 2: "a video UNet (a pose encoder goes to --pose-encoder)"}[stage]
        raise UsageError(
            f"--init: {what} do not fit: stage {stage} starts from {wanted} of the base's size, and {len(found)} of "
            f"{count} tensors differ: {_listed(found)}."
        )


def _listed(found: list[str]) -> str:
    return "; ".join(found[:LISTED_DIFFERENCES]) + ("; ..." if len(found) > LISTED_DIFFERENCES else "")


def _of_run(run_dir: Path) -> tuple[Weights, str]:
    folder = newest_whole(run_dir)
    if folder is None:
        raise LposekitError(f"--init {run_dir}: it has no whole checkpoint. Train it further, or name another.")
    tensors = load_checkpoint(folder).tensors
    kind = "moving average" if tensors.get(EMA) else "trained weights"
    return tensors.get(EMA) or tensors[WEIGHTS], f"the {kind} in {folder}"


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise UsageError(f"--init {name}: nothing there. Name a run, or a file or folder with weights.")
    return path


def _is_run(path: Path) -> bool:
    return path.is_dir() and kind_of(LocalStore(path), RUN_NAME) is not None
