"""A trained run, loaded once, that draws one request after the other just as `lposekit sample` does."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lposekit.errors import LposekitError, UsageError
from lposekit.pose.tracks import PoseTracks
from lposekit.setting_flags import off_flag
from lposekit.setting_values import flag
from lposekit.settings import flatten_settings
from trainer.demo.messages import DrawRequest
from trainer.demo.settings import DemoSettings
from trainer.inference.denoise import DenoisingStep
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.settings import SampleSettings
from trainer.run.build import DTYPES
from trainer.run.distributed import choose_device
from trainer.run.sample_inputs import count_frames, read_skeletons, window_plan
from trainer.run.sample_report import Sampled, SampleReport
from trainer.run.sampler import WeightsFacts, load_pipeline, read_facts
from trainer.sample import long_prompts, place, refuse_lost_pose, sample_one, try_scheduler


@dataclass(frozen=True, slots=True)
class Pose:
    """The poses of an uploaded video. source: what `--pose` names to get them again, and how the file is called."""

    path: Path
    num_frames: int
    source: str
    kind: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A clip, how it was drawn, and what is to be said of it."""

    sampled: Sampled
    settings: SampleSettings
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Artist:
    """The loaded weights."""

    settings: DemoSettings
    facts: WeightsFacts
    pipeline: FollowYourPosePipeline

    @property
    def follows_poses(self) -> bool:
        return self.pipeline.pose_encoder is not None

    def draw(
        self, request: DrawRequest, pose: Pose | None, output: Path, on_step: Callable[[DenoisingStep], None]
    ) -> Drawn:
        """Draw a clip and write it.

        Raises:
            UsageError, LposekitError: pose and weights do not fit, the pose shows nobody, the disk is full.
        """
        settings = self._settings(request, pose, output)
        try_scheduler(settings)
        side = self.facts.size
        skeletons = read_skeletons(settings, self.facts, side, side, _no_video)
        refuse_lost_pose(self.pipeline, skeletons, self.facts)
        frames = count_frames(settings, self.facts, skeletons)
        plan = window_plan(settings, self.facts, frames)
        windows, passes = len(plan.windows(0)), sum(len(plan.windows(step)) for step in range(settings.steps))
        report = SampleReport(
            self.facts, frames, side, side, settings.pose, windows, passes, [output], [], dry_run=False
        )
        sampled = sample_one(self.pipeline, request.prompt, output, skeletons, plan, settings, report, on_step)
        notes = long_prompts(self.pipeline, [request.prompt])
        if sampled.flagged:
            notes.append(f"The safety checker turned {len(sampled.flagged)} frames black.")
        return Drawn(sampled, settings, notes)

    def _settings(self, request: DrawRequest, pose: Pose | None, output: Path) -> SampleSettings:
        own = self.settings
        most = own.frames if pose is None else min(own.frames, math.ceil(pose.num_frames / own.stride))
        return SampleSettings(
            run=own.run,
            prompt=request.prompt,
            pose=None if pose is None else str(pose.path),
            output=output,
            frames=most,
            stride=own.stride,
            steps=request.steps,
            guidance=request.guidance,
            seed=request.seed,
            fps=own.fps,
            base=own.base,
            step=own.step,
            scheduler=own.scheduler,
            safety_checker=own.safety_checker,
            compute=own.compute,
        )


def load_artist(settings: DemoSettings) -> Artist:
    """Load the run that the settings name.

    Raises:
        UsageError, LposekitError: it is none of stage 2, or cannot be loaded.
    """
    wanted = SampleSettings(
        run=settings.run,
        base=settings.base,
        step=settings.step,
        scheduler=settings.scheduler,
        steps=settings.steps,
        safety_checker=settings.safety_checker,
        compute=settings.compute,
    )
    facts = read_facts(wanted)
    if facts.stage != 2:
        raise UsageError(f"{facts.name}: of stage {facts.stage}, which draws single images. Name a run of stage 2.")
    device = choose_device(settings.compute.device)
    try_scheduler(wanted)
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    pipeline = load_pipeline(wanted, facts)
    place(pipeline, device, DTYPES[settings.compute.precision or ("bf16" if device.type == "cuda" else "fp32")])
    return Artist(settings, facts, pipeline)


def command_line(settings: SampleSettings, pose: Pose | None, kept: Path | None) -> str:
    """The `lposekit sample` that draws the same clip again. kept: where the clip stays; None: nowhere."""
    words = ["lposekit", "sample", "--run", str(settings.run), f"--prompt={settings.prompt}"]
    if pose is not None:
        words += [f"--pose={pose.source}", *(["--skeleton.kind", pose.kind] if pose.kind != "auto" else [])]
    names = ("frames", "stride", "steps", "guidance", "seed", "fps", "base", "step", "scheduler", "safety_checker")
    given, usual = (flatten_settings(each) for each in (settings, SampleSettings()))
    for name in (*names, *(name for name in given if name.startswith("compute."))):
        if given[name] is False and usual[name]:
            words.append(off_flag(name))
        elif given[name] != usual[name] or name == "seed":
            words += [flag(name), str(given[name])]
    return shlex.join([*words, "--output", str(kept or "clip.mp4")])


def _no_video(_video: Path) -> PoseTracks:
    raise LposekitError("the poses of a video are estimated before")
