"""Where a run's pose encoder comes from, and its copy in the run folder, so that sampling needs one folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.files import replacing
from lposekit.shards.layout import sha256_file
from lposekit.store import REFUSALS, LocalStore
from lposekit.store_reads import kind_of
from trainer.model.base import weights_digest
from trainer.model.official_weights import load_pose_encoder, pose_encoder_part
from trainer.model.pose_encoder import POSE_PREFIX, PoseEncoder, build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.model.tensor_files import load_strictly, write_weights
from trainer.run.checkpoint import EMA, WEIGHTS, checkpoints_folder, load_checkpoint, newest_whole, write_error
from trainer.run.run_card import RUN_NAME, PoseEncoderFacts, RunCard, read_run_card
from trainer.settings import TrainSettings

log = logging.getLogger(__name__)

COPY_NAME = "pose_encoder.safetensors"
NO_POSE_ENCODER = "none"


@dataclass(frozen=True, slots=True)
class FoundEncoder:
    """A trained pose encoder, as it was read.

    source: the name that the user gave for it. origin: the file or run folder that it was read from. run_card:
    of the run that it belongs to, None for a file. weights: stay float32, whatever the encoder is cast to.
    digest: SHA-256 over them.
    """

    encoder: PoseEncoder
    source: str | None
    origin: Path
    run_card: RunCard | None
    weights: Mapping[str, Tensor]
    digest: str


def find_pose_encoder(settings: TrainSettings, widths: Sequence[int], checkpoint: Path | None) -> FoundEncoder | None:
    """The pose encoder that `--pose-encoder` names, for a UNet of these widths; None for `none`, and in stage 1 for no
    name at all (it starts a new one). A stage-2 run that goes on from `checkpoint` has a copy of its own, which
    stands in for no name, and for its own name if nothing is there any more.

    Raises:
        UsageError: the name is missing, leads nowhere or does not fit, or is not the checkpoint's.
    """
    source = settings.pose_encoder or None
    carried = None if checkpoint is None or settings.stage == 1 else _own_copy(checkpoint.parent.parent, widths)
    if carried and (source is None or (source == carried.source and not Path(source).exists())):
        return carried
    if source is None and settings.stage == 2:
        raise UsageError(
            "stage 2 takes a trained pose encoder along: name a stage-1 run or a weights file with "
            "--pose-encoder, or say `--pose-encoder none`"
        )
    named = None if source is None or source == NO_POSE_ENCODER else _named(source, widths)
    if carried and (named is None or named.digest != carried.digest):
        raise UsageError(
            f"--pose-encoder {source}: the run in {carried.origin.parent} has trained with another pose encoder (from "
            f"{carried.source}). Leave --pose-encoder out to go on with that one, or name another --output."
        )
    return named


def _named(source: str, widths: Sequence[int]) -> FoundEncoder:
    """The pose encoder of a stage-1 run, of a stage-2 run, or of a file."""
    path = Path(source)
    if not path.exists():
        raise UsageError(
            f"--pose-encoder {source}: nothing there. Train stage 1 first (lposekit train --stage 1), or name a "
            "weights file, or `none`."
        )
    is_run = path.is_dir() and kind_of(LocalStore(path), RUN_NAME) is not None
    if (is_run or checkpoints_folder(path).is_dir()) and own_copy(path) is None:
        encoder = _from_run(path, widths)
    else:
        encoder = load_pose_encoder(path, widths)
    return _found(encoder, source, path, read_run_card(path) if is_run else None)


def _own_copy(run_dir: Path, widths: Sequence[int]) -> FoundEncoder | None:
    """The copy in a stage-2 run's folder, None if there is none. Its source is what the run said when it took it."""
    path = own_copy(run_dir)
    if path is None:
        return None
    card = read_run_card(run_dir)
    source = card.pose_encoder.source if card.pose_encoder else None
    return _found(load_pose_encoder(path, widths), source, path, card)


def own_copy(run_dir: Path) -> Path | None:
    """The pose encoder's file in a run folder, None if there is none.

    Raises:
        LposekitError: what has its name is no file.
    """
    kind = kind_of(LocalStore(run_dir), COPY_NAME)
    if kind not in (None, "file"):
        raise LposekitError(f"{run_dir / COPY_NAME}: {REFUSALS[kind]}. Put the file itself in its place.")
    return None if kind is None else run_dir / COPY_NAME


def _found(encoder: PoseEncoder, source: str | None, origin: Path, run_card: RunCard | None) -> FoundEncoder:
    # these tensors keep what was read: a cast gives the module others
    weights = encoder.state_dict()
    return FoundEncoder(encoder, source, origin, run_card, weights, weights_digest(encoder))


def _from_run(run_dir: Path, widths: Sequence[int]) -> PoseEncoder:
    """The pose encoder of a stage-1 run: its moving average if it keeps one."""
    folder = newest_whole(run_dir)
    if folder is None:
        raise LposekitError(
            f"{run_dir}: it has no whole checkpoint. Train it further, or name another run or file with --pose-encoder."
        )
    tensors = load_checkpoint(folder).tensors
    weights = tensors.get(EMA) or tensors[WEIGHTS]
    if not any(name.startswith(POSE_PREFIX) for name in weights):
        raise UsageError(f"{run_dir} is no stage-1 run: {folder} holds no pose encoder. Name a stage-1 run.")
    encoder = build_pose_encoder(widths, OFFICIAL)
    load_strictly(encoder, pose_encoder_part(weights), f"pose encoder of {folder} for UNet widths {tuple(widths)}")
    log.info("pose encoder from %s (%s)", folder, "moving average" if tensors.get(EMA) else "trained weights")
    return encoder


def keep_pose_encoder(found: FoundEncoder | None, run_dir: Path) -> PoseEncoderFacts | None:
    """Make the run folder's copy that of the run. Returns what `run.json` says of it."""
    path = run_dir / COPY_NAME
    try:
        if found is None:
            # of a run that ended before its first checkpoint; this one has none
            path.unlink(missing_ok=True)
            return None
        if found.origin != path:
            # the ending of its name says how it is written
            with replacing(path, f"partial-{path.name}") as partial:
                write_weights(found.weights, partial)
    except (OSError, SafetensorError) as error:
        raise write_error(error, path) from error
    return PoseEncoderFacts(COPY_NAME, found.source, sha256_file(path))
