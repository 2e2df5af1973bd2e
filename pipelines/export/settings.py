"""Settings of `lposekit export`. Values only: how they are found and merged is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from lposekit.setting_values import Positive
from lposekit.skeleton_styles import StyleName

Target = Literal[
    "diffusers",
    "diffusers-standalone",
    "official",
    "t2i-adapter",
    "diffusers-controlnet",
    "sd-scripts",
    "musubi",
    "diffusion-pipe",
    "videox-fun",
    "diffsynth",
    "finetrainers",
    "energon",
    "huggingface",
    "moore",
    "coco",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """Settings of `lposekit export`."""

    source: Path | None = None
    """A dataset folder of images or of clips, or a run folder of `lposekit train`."""
    to: Target | None = None
    """Who is to read it. Of runs: diffusers, diffusers-standalone, official, t2i-adapter; the others of datasets."""
    output: Path | None = None
    """Folder to write; it must be new. Of a dataset it may hold the same export, which is then continued."""
    poses: Path | None = None
    """Of clips: the folder of their poses, as `lposekit pose --input CLIPS --output POSES` writes it."""
    style: StyleName = "openpose18"
    """How skeletons are drawn. ControlNets for poses know `openpose18`, Follow-Your-Pose its own."""
    score_threshold: float | None = None
    """Raw score from which a keypoint is drawn; default: that of the pose model."""
    crf: Annotated[float, Interval(ge=0, le=51)] = 12.0
    """Quality of control clips (x264): lower is better and larger."""
    max_samples: Positive | None = None
    """Export the first samples of a dataset only."""
    base: str | None = None
    """Of a run: the base model, if it is not where the run found it."""
    step: Positive | None = None
    """Of a run: step of the checkpoint; default: the newest intact one."""
