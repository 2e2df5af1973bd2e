"""`lposekit refilter DIR --output DIR`: another keep rule for a finished dataset, from the stored poses alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from lposekit.commands.flags import load
from lposekit.commands.output import finish
from lposekit.commands.registry import COMMANDS
from lposekit.keypoints import PersonRule
from lposekit.setting_values import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class RefilterSettings:
    """Settings of `lposekit refilter`. A rule that is not named stays as the dataset was built with."""

    data: Path | None = None
    """The dataset folder; also taken without its flag."""
    output: Path | None = None
    """The new dataset folder."""
    min_detected: Fraction | None = None
    """Share of the 17 body keypoints that a person needs."""
    person_rule: PersonRule | None = None
    """Which persons have to have them: `any` one, `main` (the largest), `all`, or `pooled`: all of them together."""
    keypoint_score_threshold: float | None = None
    """Raw score from which a keypoint is detected."""
    box_score_threshold: Fraction | None = None
    """Box score from which a person counts."""
    min_box_area_fraction: Fraction | None = None
    """Share of the picture that a person's box has to cover to count."""
    min_box_side_px: Annotated[float, Ge(0)] | None = None
    """Shorter side that a person's box needs to count, in pixels of the stored picture."""
    dedup: bool = False
    """Turn down pictures whose bytes came in an earlier row, over the whole dataset."""


RULES = (
    "min_detected",
    "person_rule",
    "keypoint_score_threshold",
    "box_score_threshold",
    "min_box_area_fraction",
    "min_box_side_px",
)


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["refilter"], RefilterSettings, argv)
    settings = loaded.settings
    assert settings.data is not None
    from pipelines.image import refilter

    changes = {name: getattr(settings, name) for name in RULES}
    report = refilter.run(settings.data, settings.output, changes, dedup=settings.dedup, dry_run=loaded.dry_run)
    return finish(report, as_json=loaded.json)
