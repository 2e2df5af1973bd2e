"""The cells of the experiment: one training of one stage each, named by what it changes of the ordinary one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trainer.settings import Stage
from trainer.smallworld.settings import Scope

NO_LR = 1e-12
"""Learning rate of a stage that is to learn nothing: settings allow no 0."""
DataName = Literal["images", "images-poses-shuffled", "clips", "clips-frames-shuffled"]
Kind = Literal["stage", "broken", "ablation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training. `changes`: settings of `lposekit train` that differ from the budget's, by their dotted names.
    `after`: of a stage-2 cell, the stage-1 cell whose pose encoder it keeps."""

    name: str
    title: str
    stage: Stage
    kind: Kind
    seed: int = 0
    data: DataName = "images"
    changes: Mapping[str, object] = field(default_factory=dict)
    after: str = ""


def chosen_cells(scope: Scope, seeds: int) -> list[Cell]:
    """The cells of a scope, in the order in which they are trained: most telling first."""
    cells = [cell for seed in range(seeds) for cell in _both_stages(seed)]
    if scope != "stages":
        cells += BROKEN
    if scope == "all":
        cells += ABLATIONS
    return cells


def _both_stages(seed: int) -> Sequence[Cell]:
    first, second = f"stage1-seed{seed}", f"stage2-seed{seed}"
    return (
        Cell(name=first, title=f"stage 1, seed {seed}", stage=1, kind="stage", seed=seed),
        Cell(name=second, title=f"stage 2, seed {seed}", stage=2, kind="stage", seed=seed, data="clips", after=first),
    )


def _stage1(name: str, title: str, kind: Kind, changes: Mapping[str, object], data: DataName = "images") -> Cell:
    return Cell(name=f"stage1-{name}", title=title, stage=1, kind=kind, data=data, changes=changes)


def _stage2(name: str, title: str, kind: Kind, changes: Mapping[str, object], data: DataName = "clips") -> Cell:
    after = "stage1-seed0"
    return Cell(name=f"stage2-{name}", title=title, stage=2, kind=kind, data=data, changes=changes, after=after)


BROKEN = (
    _stage1("no-lr", "learning rate zero in stage 1", "broken", {"optim.lr": NO_LR}),
    _stage1("poses-shuffled", "poses shuffled between images", "broken", {}, data="images-poses-shuffled"),
    _stage2("no-lr", "temporal layers left untrained", "broken", {"optim.lr": NO_LR}),
    _stage2("frames-shuffled", "frames of clips shuffled", "broken", {}, data="clips-frames-shuffled"),
)
"""What must show in the figures. Skeletons in exchanged colours need no training: see `Case`."""

ABLATIONS = (
    _stage1("at-input", "pose at the input (concatenated)", "ablation", {"model.pose_at": "input"}),
    _stage1("first-level", "pose at the first level alone", "ablation", {"model.pose_at": "first_level"}),
    _stage1("pose-zero", "pose encoder zero-initialised", "ablation", {"model.pose_init": "zero"}),
    _stage2("no-temporal", "cross-frame attention alone", "ablation", {"model.temporal_layers": False}),
    _stage2("no-cross-frame", "temporal layers alone", "ablation", {"model.cross_frame": False}),
    _stage2("frame-norm", "norms for each frame", "ablation", {"model.joint_group_norm": False}),
    _stage1("dropout", "10 % of captions dropped", "ablation", {"loss.caption_dropout": 0.1}),
    _stage2("paper", "preset paper in stage 2", "ablation", {"model.preset": "paper"}),
    _stage2("temp-zero", "temporal attention zero-initialised", "ablation", {"model.attn_temp_init": "zero"}),
    _stage2("norm-temp", "norm of temporal attention trained", "ablation", {"model.train_norm_temp": True}),
    _stage2("dropout", "10 % of captions dropped", "ablation", {"loss.caption_dropout": 0.1}),
)
"""One change each from the ordinary settings, the most telling ones first."""
