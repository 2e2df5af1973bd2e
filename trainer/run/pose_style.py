"""How skeletons are drawn in a run: as its pose encoder learned to read them, and as its keypoints allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lposekit.errors import LposekitError, UsageError
from lposekit.keypoints import COCO17_NAMES, KEYPOINT_FORMATS
from lposekit.skeleton_styles import STYLES
from trainer.data.catalog import Dataset
from trainer.model.switches import ModelSwitches
from trainer.run.run_card import RunCard
from trainer.settings import SkeletonSettings, TrainSettings


def drawn_as_learned(settings: TrainSettings, run_card: RunCard | None) -> TrainSettings:
    """The settings with the style and line width that the pose encoder's run was trained with (the width in proportion
    to the size of the images), and with the place where its features were added. `run_card`: of that run, None where
    it is not known.

    Raises:
        UsageError: the settings name another style, line width or place.
        LposekitError: the run's style is none that this version knows.
    """
    if run_card is None or run_card.pose_style is None:
        return settings
    if run_card.pose_style not in STYLES:
        raise LposekitError(
            f"the pose encoder was trained with the style {run_card.pose_style!r}, which this lposekit cannot draw. "
            "Upgrade it, or name another --pose-encoder."
        )
    width = run_card.pose_line_width
    learned = replace(
        settings.pose,
        style=run_card.pose_style,
        line_width=width * settings.image.size / run_card.size if width and run_card.size else None,
    )
    unset = SkeletonSettings()
    for name in ("style", "line_width"):
        wanted, known = getattr(settings.pose, name), getattr(learned, name)
        if wanted not in (getattr(unset, name), known):
            raise UsageError(
                f"--pose.{name.replace('_', '-')} {wanted}: the pose encoder was trained with {known}. Leave it out."
            )
    pose_at = run_card.switches.get("pose_at", ModelSwitches().pose_at)
    if settings.model.pose_at not in (None, pose_at):
        raise UsageError(
            f"--model.pose-at {settings.model.pose_at}: the pose encoder was trained with {pose_at}. Leave it out."
        )
    return replace(settings, pose=learned, model=replace(settings.model, pose_at=pose_at))


def refuse_undrawable(settings: TrainSettings, datasets: Iterable[Dataset]) -> None:
    """Raises UsageError if the style cannot draw the keypoints that are there: those of the datasets in stage 1, those
    of the validation images' walking figure in stage 2."""
    style = settings.pose.style
    if settings.stage == 1:
        for dataset in datasets:
            known = KEYPOINT_FORMATS.get(dataset.card.keypoint_format or "")
            if known and known.num_keypoints not in STYLES[style].num_keypoints:
                raise UsageError(
                    f"--pose.style {style}: it cannot draw the {known.num_keypoints} keypoints of {dataset.root}. "
                    f"Choose one of {', '.join(_styles_for(known.num_keypoints))}, or another pose model for the data."
                )
    elif settings.watch.sample_every and len(COCO17_NAMES) not in STYLES[style].num_keypoints:
        raise UsageError(
            f"--pose.style {style}: it cannot draw the walking figure of stage 2's validation images, which has "
            f"{len(COCO17_NAMES)} keypoints. Switch those off with --watch.sample-every 0, or choose one of "
            f"{', '.join(_styles_for(len(COCO17_NAMES)))}."
        )


def _styles_for(num_keypoints: int) -> list[str]:
    return [name for name, style in STYLES.items() if num_keypoints in style.num_keypoints]
