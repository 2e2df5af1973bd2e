"""`lposekit refilter DIR --output DIR`: apply another keep rule to a finished dataset, using the stored poses alone."""

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
    """Settings of `lposekit refilter`. Rules that are not named stay as the dataset was built."""

    data: Path | None = None
    """The dataset folder; the flag may be omitted."""
    output: Path | None = None
    """The new dataset folder."""
    min_detected: Fraction | None = None
    """Fraction of the 17 body keypoints that must be detected on a person."""
    person_rule: PersonRule | None = None
    """Which persons must reach `min_detected`: `any` one, `main` (the largest), `all`, or `pooled` (all together)."""
    keypoint_score_threshold: float | None = None
    """Raw score from which a keypoint counts as detected."""
    box_score_threshold: Fraction | None = None
    """Minimum box score of a person."""
    min_box_area_fraction: Fraction | None = None
    """Minimum area of a person's box, as a fraction of the image."""
    min_box_side_px: Annotated[float, Ge(0)] | None = None
    """Minimum shorter side of a person's box, in pixels of the stored image."""
    dedup: bool = False
    """Reject images with the same bytes as an earlier row, over the whole dataset."""


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
