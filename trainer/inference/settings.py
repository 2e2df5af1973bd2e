"""Settings of `lposekit sample`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from lposekit.setting_values import Fraction, NotNegative, Positive
from lposekit.skeleton_styles import StyleName
from trainer.settings import Precision, Side

PoseKind = Literal["auto", "skeleton", "person"]
Format = Literal["mp4", "gif", "frames"]
DEFAULT_FRAMES = 32
"""The released sampler's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseInputSettings:
    """How the pose is read and drawn."""

    kind: PoseKind = "auto"
    """What a video given as --pose shows: drawn skeletons, or persons whose pose is to be estimated. `auto`: a video
    with a flat background shows skeletons."""
    person: str = "all"
    """Whose poses are drawn: `all`, `largest` (covers most over the video), `longest` (in most frames), or ids:
    `1,3`."""
    style: StyleName | None = None
    """Style of the skeletons; default: the style that the weights were trained with."""
    line_width: Annotated[float, Interval(gt=0, le=512)] | None = None
    """Line width in pixels of the output; default: as the weights were trained with, scaled to the size."""
    score_threshold: float | None = None
    """Raw score from which a keypoint is drawn; default: that of the pose file, else 0.3."""
    check: Literal["refuse", "warn"] = "refuse"
    """What to do with a skeleton video that is drawn otherwise than the weights need and cannot be converted."""
    resize: Literal["area", "official"] = "area"
    """How a skeleton video is resized. `official`: bilinear without antialiasing, as the released sampler does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongVideoSettings:
    """How clips with more frames than a window are sampled."""

    method: Literal["average", "reuse"] = "average"
    """`average`: the predictions of overlapping windows are averaged. `reuse`: the scheme of the paper; the latents of
    the last half of a window are the first half of the next one at every step."""
    window: Positive = DEFAULT_FRAMES
    """Frames per window. Clips of up to this length run in one pass, as in the released sampler."""
    overlap: NotNegative = 8
    """Frames that two windows share, at least (`average`)."""
    first_frame: Literal["window", "clip"] = "window"
    """The frame 0 of the sparse-causal attention: the first frame of the window, or of the whole clip."""

    def problems(self) -> Iterable[tuple[str, str]]:
        if self.method == "average" and self.overlap >= self.window:
            yield "overlap", f"less than --long.window, which is {self.window}."
        if self.method == "reuse" and self.window < 2:
            yield "window", "at least 2 with --long.method reuse, which advances by half a window."


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSettings:
    """What is written."""

    format: Format | None = None
    """`mp4`, `gif`, or `frames`: a folder of PNG files. Default: by the ending of --output; mp4 for several prompts."""
    side_by_side: bool = False
    """Show the skeleton to the left of every frame."""
    mark: bool = False
    """Write "AI-generated" visibly into a corner of every frame. (The files' metadata always says it.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleComputeSettings:
    """Device, precision and memory."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    precision: Precision | None = None
    """Precision of all weights and compute. Default: bf16 on a GPU, fp32 elsewhere."""
    threads: Positive | None = None
    """Torch threads; default: the default of torch."""
    vae_slice: Positive = 1
    """Frames that the VAE decodes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """Settings of `lposekit sample`."""

    run: Path | None = None
    """A run folder of `lposekit train`, or a folder to which the pipeline was saved."""
    prompt: str | None = None
    """What to draw."""
    pose: str | None = None
    """The pose: NAME.poses.json, a sample of a dataset (DIR:KEY or KEY.pose.json), a skeleton video or image, or a
    video of persons. Default: none, for weights without a pose encoder."""
    output: Path | None = None
    """NAME.mp4, NAME.gif, or a folder of frames; NAME.png for a run of stage 1; a folder for several prompts."""
    frames: Positive | None = None
    """Frames (stage 2) or images (stage 1) to draw; default: all of the pose, at most 32; 1 in stage 1."""
    stride: Positive = 5
    """Distance between two used frames of the pose."""
    steps: Positive = 50
    """Denoising steps."""
    guidance: Annotated[float, Ge(0)] = 12.5
    """Scale of the classifier-free guidance; 1 or less: none."""
    seed: Annotated[int, Interval(ge=0, lt=2**63)] = 33
    """Determines the noise. Each prompt starts from it, so its result does not depend on the other prompts."""
    fps: Annotated[float, Interval(ge=0.1, le=240)] = 8.0
    """Frames per second of the written video."""
    negative_prompt: str = ""
    """What the result should not show."""
    prompts: Path | None = None
    """A text file with one prompt per line, instead of --prompt."""
    height: Side | None = None
    """Height in pixels, a multiple of 64; default: the size of training."""
    width: Side | None = None
    """Width in pixels, a multiple of 64; default: the size of training."""
    base: str | None = None
    """The base model, if it is not where the run found it; needed with --official-weights."""
    official_weights: Path | None = None
    """The published checkpoint instead of a run: the folder with `pose_encoder.pth` and
    `followyourpose_checkpoint-1000`, or a UNet file."""
    step: Positive | None = None
    """Step of the run whose checkpoint is used; default: the newest intact one."""
    scheduler: str = "ddim"
    """`ddim`, `ddpm`, `dpm++`, `euler`, `euler-a`, `heun`, `lms`, `pndm`, `unipc`, or the name of a diffusers
    scheduler class."""
    eta: Fraction = 0.0
    """Noise that DDIM adds at each step: 0 none, 1 as much as DDPM."""
    safety_checker: bool = True
    """Turn frames black that the safety checker of the base objects to, if the base has one."""
    skeleton: PoseInputSettings = field(default_factory=PoseInputSettings)
    long: LongVideoSettings = field(default_factory=LongVideoSettings)
    result: ResultSettings = field(default_factory=ResultSettings)
    compute: SampleComputeSettings = field(default_factory=SampleComputeSettings)

    def problems(self) -> Iterable[tuple[str, str]]:
        if (self.run is None) == (self.official_weights is None):
            yield "run", "name the weights: --run RUN, or --official-weights DIR (one of them)."
        if self.official_weights is not None and self.base is None:
            yield "base", "name the base of the published weights: a folder or hub id of Stable Diffusion 1.4."
        if (self.prompt is None) == (self.prompts is None):
            yield "prompt", "give --prompt TEXT, or --prompts FILE (one of them)."
        if self.result.side_by_side and self.pose is None:
            yield "result.side_by_side", "shows the skeleton, so it needs --pose."


NEEDED_TO_SAMPLE = {"output": "name the file or folder to write."}
