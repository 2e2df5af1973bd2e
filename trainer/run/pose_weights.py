"""Where a run's pose encoder comes from, and its copy in the run folder, so that sampling needs one folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.files import disk_error
from lposekit.shards.layout import sha256_file
from trainer.model.official_weights import load_pose_encoder, load_strictly, pose_encoder_part, write_pose_encoder
from trainer.model.pose_encoder import POSE_PREFIX, PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.run.checkpoint import EMA, WEIGHTS, checkpoints_folder, load_checkpoint, newest_whole

log = logging.getLogger(__name__)

COPY_NAME = "pose_encoder.safetensors"
NO_POSE_ENCODER = "none"


def find_pose_encoder(source: str | None, stage: int, widths: Sequence[int], run_dir: Path) -> PoseEncoder | None:
    """The pose encoder that `--pose-encoder` names, for a UNet of these widths; None for `none`, and in stage 1 for no
    name at all (it starts a new one).

    A run that is resumed takes its own copy. Raises UsageError if the name is missing, leads nowhere or does not fit.
    """
    own = run_dir / COPY_NAME
    if stage == 2 and own.exists():
        return load_pose_encoder(own, widths)
    if source is None and stage == 2:
        raise UsageError(
            "stage 2 takes a trained pose encoder along: name a stage-1 run or a weights file with "
            "--pose-encoder, or say "
            "`--pose-encoder none`"
        )
    if source is None or source == NO_POSE_ENCODER:
        return None
    path = Path(source)
    if checkpoints_folder(path).is_dir() and not (path / COPY_NAME).exists():
        return _from_run(path, widths)
    return load_pose_encoder(path, widths)


def _from_run(run_dir: Path, widths: Sequence[int]) -> PoseEncoder:
    """The pose encoder of a stage-1 run: its moving average if it keeps one."""
    folder = newest_whole(run_dir)
    if folder is None:
        raise LposekitError(
            f"{run_dir}: none of its checkpoints is whole. Name another run or file with --pose-encoder."
        )
    tensors = load_checkpoint(folder).tensors
    weights = tensors.get(EMA) or tensors[WEIGHTS]
    if not any(name.startswith(POSE_PREFIX) for name in weights):
        raise UsageError(f"{run_dir} is no stage-1 run: {folder} holds no pose encoder. Name a stage-1 run.")
    encoder = build_pose_encoder(widths, OFFICIAL)
    load_strictly(encoder, pose_encoder_part(weights), f"pose encoder of {folder} for UNet widths {tuple(widths)}")
    log.info("pose encoder from %s (%s)", folder, "moving average" if tensors.get(EMA) else "trained weights")
    return encoder


def keep_pose_encoder(encoder: PoseEncoder, run_dir: Path, source: str | None) -> dict[str, str | None]:
    """Copy the pose encoder into the run folder, once. Returns what `run.json` says of it."""
    path = run_dir / COPY_NAME
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        try:
            write_pose_encoder(encoder, partial)
            partial.rename(path)
        except OSError as error:
            raise disk_error(error, path) from error
    return {"file": COPY_NAME, "source": source, "sha256": sha256_file(path)}
