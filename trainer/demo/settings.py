"""Settings of `lposekit demo`. Values only: how they are found is `lposekit.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval

from lposekit.setting_values import Positive
from trainer.inference.settings import SampleComputeSettings

MAX_STEPS = 200
MAX_FRAMES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """Settings of `lposekit demo`."""

    run: Path | None = None
    """A run folder of `lposekit train --stage 2`, or a folder to which the pipeline was saved."""
    host: str = "127.0.0.1"
    """The address to listen at. The default is reached from this machine alone; at another one, everybody who can reach
    it uses the page: it has no password."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 7860
    """The port to listen at; 0: a free one."""
    output: Path | None = None
    """A folder in which the clips are kept, with their poses; default: they are removed at the end."""
    max_upload_mb: Annotated[int, Interval(ge=1, le=4096)] = 64
    """Largest video that may be uploaded, in MiB."""
    max_video_frames: Positive = 600
    """Longest video whose poses are estimated, in frames: 600 are 20 seconds at 30 frames per second."""
    frames: Annotated[int, Interval(ge=1, le=MAX_FRAMES)] = 16
    """Frames to draw, at most; fewer for a short video."""
    stride: Positive = 5
    """Distance between two used frames of the video."""
    steps: Annotated[int, Interval(ge=1, le=MAX_STEPS)] = 50
    """Denoising steps; the page may choose others."""
    guidance: Annotated[float, Interval(ge=0, le=50)] = 12.5
    """Scale of the classifier-free guidance; the page may choose another."""
    base: str | None = None
    """The base model, if it is not where the run found it."""
    environment: Path | None = None
    """The environment that gradio is installed in; default: `demo` in the user's cache of lposekit."""
    step: Positive | None = None
    """Step of the run whose checkpoint is used; default: the newest intact one."""
    scheduler: str = "ddim"
    """The scheduler, as of `lposekit sample`."""
    fps: Annotated[float, Ge(0.1), Interval(le=240)] = 8.0
    """Frames per second of the clips."""
    safety_checker: bool = True
    """Turn frames black that the safety checker of the base objects to, if the base has one."""
    max_waiting: Positive = 8
    """Requests that may wait; one is worked on at a time. Further ones are refused."""
    compute: SampleComputeSettings = field(default_factory=SampleComputeSettings)


NEEDED_FOR_DEMO = {"run": "name a run folder of `lposekit train --stage 2`, as `lposekit demo RUN`."}
