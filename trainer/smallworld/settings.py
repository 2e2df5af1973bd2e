"""Settings of `lposekit smallworld`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lposekit.setting_values import Positive

BudgetName = Literal["quick", "cpu", "gpu"]
Scope = Literal["stages", "proof", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallWorldSettings:
    """Settings of `lposekit smallworld`."""

    output: Path = Path("smallworld")
    """Folder of datasets, runs, figures and the page."""
    budget: BudgetName = "cpu"
    """How much is trained. `quick`: as little as shows whether an installation learns, two minutes a stage on two
    cores. `cpu`: enough for the figures of the guide. `gpu`: far more samples, for a GPU."""
    scope: Scope = "proof"
    """`stages`: both stages, each seed. `proof`: these, and training that is broken on purpose, which must show in the
    figures. `all`: also the ablations."""
    seeds: Positive = 3
    """Seeds of both stages; the page shows mean and range."""
    base: str = "smallworld"
    """The base that is trained further."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    threads: Positive | None = None
    """Torch threads; default: the default of torch."""
