"""How much `lposekit smallworld` trains and measures. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.smallworld.settings import BudgetName


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBudget:
    """One stage of one cell. `points`: checkpoints that are measured, evenly spaced."""

    steps: int
    batch_size: int
    lr: float
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Sizes of everything. `images`, `clips`: of the training datasets. `scenes`, `walks`: held-out ones that samples
    are measured on, at the end of a stage; a checkpoint on the way is measured on `point_scenes` or `point_walks`."""

    images: int
    clips: int
    stages: tuple[StageBudget, StageBudget]
    scenes: int = 96
    point_scenes: int = 48
    walks: int = 24
    point_walks: int = 6


BUDGETS: dict[BudgetName, Budget] = {
    "quick": Budget(
        images=2000,
        clips=200,
        stages=(
            StageBudget(steps=120, batch_size=32, lr=1e-3, points=4),
            StageBudget(steps=120, batch_size=4, lr=1e-3, points=2),
        ),
        scenes=48,
        point_scenes=24,
        walks=12,
    ),
    "cpu": Budget(
        images=4000,
        clips=400,
        stages=(
            StageBudget(steps=300, batch_size=32, lr=1e-3, points=15),
            StageBudget(steps=400, batch_size=4, lr=1e-3, points=5),
        ),
        point_scenes=32,
    ),
    "gpu": Budget(
        images=24000,
        clips=2000,
        stages=(
            StageBudget(steps=10000, batch_size=128, lr=1e-3, points=20),
            StageBudget(steps=4000, batch_size=16, lr=1e-3, points=10),
        ),
        scenes=384,
        walks=64,
    ),
}
