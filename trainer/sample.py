"""Sample: read the pose, load the weights, draw each prompt, write it. Read this first.

Every prompt starts from the same seed, so that its result does not depend on the prompts before it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from lposekit.errors import UsageError
from lposekit.setting_values import check_values
from trainer.inference.denoise import DenoisingStep
from trainer.inference.output import beside, format_of, marked, write_frames, write_png
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.pose_input import Estimate, PoseRequest, load_pose
from trainer.inference.schedulers import make_scheduler
from trainer.inference.seams import Seams, measure_seams
from trainer.inference.settings import DEFAULT_FRAMES, NEEDED_TO_SAMPLE, SampleSettings
from trainer.inference.windows import WindowPlan
from trainer.run.build import DTYPES
from trainer.run.distributed import choose_device
from trainer.run.sampler import WeightsFacts, load_pipeline, read_facts

log = logging.getLogger(__name__)

Frames = npt.NDArray[np.uint8]
IMAGE_ENDING = ".png"
LINE_EVERY_S = 15.0
MAX_PROMPTS_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Sampled:
    """What became of one prompt. flagged: frames that the safety checker turned black."""

    prompt: str
    output: Path
    flagged: list[int]
    seams: Seams | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        seams = None if self.seams is None else {**asdict(self.seams), "ratio": self.seams.ratio}
        return {**asdict(self), "output": str(self.output), "seams": seams, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class SampleReport:
    """The end of a run, or with ``dry_run`` what it would do. passes: UNet passes for one prompt."""

    weights: WeightsFacts
    frames: int
    height: int
    width: int
    pose: str | None
    windows: int
    passes: int
    outputs: list[Path]
    sampled: list[Sampled]
    dry_run: bool
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "weights": self.weights.name,
            "stage": self.weights.stage,
            "frames": self.frames,
            "height": self.height,
            "width": self.width,
            "pose": self.pose,
            "windows": self.windows,
            "unet_passes_per_prompt": self.passes,
            "outputs": [str(path) for path in self.outputs],
            "sampled": [sampled.as_json() for sampled in self.sampled],
            "dry_run": self.dry_run,
        }

    def summary_lines(self) -> list[str]:
        noun = "frames" if self.weights.stage == 2 else "images"
        what = f"{self.frames} {noun} of {self.width} x {self.height} with {self.weights.name}"
        if self.dry_run:
            windows = f"{self.windows} windows at a step, " if self.windows > 1 else ""
            return [
                f"would draw {what}, pose: {self.pose or 'none'}",
                f"{windows}{self.passes} passes of the UNet for each of {len(self.outputs)} prompts",
                *(f"would write {path}" for path in self.outputs),
            ]
        lines = [f"drew {what}"]
        for sampled in self.sampled:
            lines.append(f"{sampled.output}: {sampled.seconds:.1f} s, {sampled.prompt}")
            if sampled.seams is not None:
                lines.append(sampled.seams.line())
            if sampled.flagged:
                lines.append(f"{len(sampled.flagged)} frames were turned black by the safety checker")
        return lines


def run(settings: SampleSettings, *, estimate: Estimate, dry_run: bool = False) -> SampleReport:
    """Sample as the settings say, or, with ``dry_run``, only check everything and say what would be done.

    ``estimate``: gives the poses of a video of persons, for `--pose` with one.

    Raises:
        UsageError: settings, pose and weights do not fit one another. LposekitError: a file is damaged, or cannot be
        written.
    """
    check_values(settings, required=NEEDED_TO_SAMPLE)
    prompts = read_prompts(settings)
    facts = read_facts(settings)
    outputs = output_paths(settings, facts.stage, len(prompts))
    device = choose_device(settings.compute.device)
    make_scheduler(settings.scheduler, SCHEDULER_TRIED)
    height, width = settings.height or facts.size, settings.width or facts.size
    skeletons = read_skeletons(settings, facts, height, width, estimate)
    frames = count_frames(settings, facts, skeletons)
    plan = window_plan(settings, facts, frames)
    report = SampleReport(
        weights=facts,
        frames=frames,
        height=height,
        width=width,
        pose=settings.pose,
        windows=len(plan.windows(0)),
        passes=sum(len(plan.windows(step)) for step in range(settings.steps)),
        outputs=outputs,
        sampled=[],
        dry_run=dry_run,
    )
    if dry_run:
        return report
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    pipeline = load_pipeline(settings, facts)
    refuse_lost_pose(pipeline, skeletons, facts)
    place(pipeline, device, DTYPES[settings.compute.precision or ("bf16" if device.type == "cuda" else "fp32")])
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True), 1):
        with progress(settings.steps, f"prompt {number} of {len(prompts)}") as on_step:
            report.sampled.append(sample_one(pipeline, prompt, output, skeletons, plan, settings, report, on_step))
    return report


def place(pipeline: FollowYourPosePipeline, device: torch.device, dtype: torch.dtype) -> None:
    """Move the models to the device, in the type."""
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            # torch's own `to`: that of diffusers warns about every cast
            nn.Module.to(module, device, dtype)
    if device.type == "cuda":
        nn.Module.to(pipeline.unet, memory_format=torch.channels_last)  # pyright: ignore


def sample_one(
    pipeline: FollowYourPosePipeline,
    prompt: str,
    output: Path,
    skeletons: Frames | None,
    plan: WindowPlan,
    settings: SampleSettings,
    report: SampleReport,
    on_step: Callable[[DenoisingStep], None],
) -> Sampled:
    """Draw one prompt and write it."""
    started = time.monotonic()
    drawn = pipeline(
        prompt,
        skeletons,
        num_frames=report.frames,
        height=report.height,
        width=report.width,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        negative_prompt=settings.negative_prompt,
        eta=settings.eta,
        seed=settings.seed,
        window=settings.long.window,
        overlap=settings.long.overlap,
        long_method=settings.long.method,
        first_frame=settings.long.first_frame,
        vae_slice=settings.compute.vae_slice,
        on_step=on_step,
    )
    seams = measure_seams(drawn.frames, plan.windows(settings.steps - 1)) if report.weights.stage == 2 else None
    write_result(output, drawn.frames, skeletons, settings)
    return Sampled(prompt, output, drawn.flagged, seams, time.monotonic() - started)


def write_result(output: Path, frames: Frames, skeletons: Frames | None, settings: SampleSettings) -> None:
    """Write the frames of one prompt as the settings say."""
    if settings.result.mark:
        frames = marked(frames)
    if settings.result.side_by_side and skeletons is not None:
        frames = beside(skeletons, frames)
    if output.suffix.lower() == IMAGE_ENDING:
        write_png(output, frames[0])
    else:
        write_frames(output, frames, settings.result.format or format_of(output), settings.fps)


# --- what is to be drawn ---------------------------------------------------------------------------------------------

SCHEDULER_TRIED = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""Stable Diffusion's betas, to try a scheduler's name on before the base is loaded."""


def read_prompts(settings: SampleSettings) -> list[str]:
    """The prompt, or one for each line of the file that is not blank."""
    if settings.prompts is None:
        assert settings.prompt is not None
        return [settings.prompt]
    try:
        if settings.prompts.stat().st_size > MAX_PROMPTS_BYTES:
            raise UsageError(f"--prompts {settings.prompts}: larger than {MAX_PROMPTS_BYTES} bytes. Split it.")
        lines = settings.prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--prompts {settings.prompts}: cannot be read ({error}). Name a text file in UTF-8."
        ) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UsageError(f"--prompts {settings.prompts}: there is no prompt in it. Write one per line.")
    return prompts


def output_paths(settings: SampleSettings, stage: int, num_prompts: int) -> list[Path]:
    """Where each prompt's result goes: `--output` itself, or for a file of prompts `0000.mp4` and so on in it.

    Raises UsageError for a name that does not fit what is drawn.
    """
    assert settings.output is not None
    output, written_as = settings.output, settings.result.format
    ending = output.suffix.lower()
    many = settings.prompts is not None
    if many and ending in (".mp4", ".gif", IMAGE_ENDING):
        raise UsageError(f"--output {output}: several prompts need a folder. Leave the ending out.")
    if stage == 1 and (ending in (".mp4", ".gif") or written_as in ("mp4", "gif")):
        raise UsageError(f"--output {output}: weights of stage 1 draw images. Name a .png file, or a folder.")
    if stage == 1 and ending == IMAGE_ENDING and (settings.frames or 1) > 1:
        raise UsageError(f"--output {output}: {settings.frames} images need a folder. Leave the ending out.")
    if stage == 2 and ending == IMAGE_ENDING:
        raise UsageError(f"--output {output}: weights of stage 2 draw clips. Name a .mp4 or .gif file, or a folder.")
    if written_as is not None and not many and format_of(output) != written_as:
        raise UsageError(
            f"--output {output}: does not end as --result.format {written_as} does. Leave one of them out."
        )
    if output.is_dir() and ending in (".mp4", ".gif", IMAGE_ENDING):
        raise UsageError(f"--output {output}: a folder is there. Name a file.")
    if not many:
        return [output]
    if stage == 1:
        endings = IMAGE_ENDING if (settings.frames or 1) == 1 else ""
    else:
        endings = "" if written_as == "frames" else f".{written_as or 'mp4'}"
    return [output / f"{number:04d}{endings}" for number in range(num_prompts)]


def read_skeletons(
    settings: SampleSettings, facts: WeightsFacts, height: int, width: int, estimate: Estimate
) -> Frames | None:
    """The skeleton images, drawn as the weights have learned to read them; None without a pose."""
    if settings.pose is None:
        return None
    line_width = settings.skeleton.line_width
    if line_width is None and facts.pose_line_width is not None:
        line_width = facts.pose_line_width * min(height, width) / facts.size
    request = PoseRequest(
        source=settings.pose,
        count=settings.frames or (1 if facts.stage == 1 else None),
        most=DEFAULT_FRAMES,
        stride=settings.stride,
        height=height,
        width=width,
        style=settings.skeleton.style or facts.pose_style,
        line_width=line_width,
        how=settings.skeleton,
    )
    skeletons = load_pose(request, estimate)
    if len(skeletons) == 1 and facts.stage == 2 and settings.frames is None:
        # a still pose: held for a clip of the length that was trained
        skeletons = np.repeat(skeletons, facts.frames, axis=0)
    return skeletons


def count_frames(settings: SampleSettings, facts: WeightsFacts, skeletons: Frames | None) -> int:
    """Frames to draw."""
    if skeletons is not None:
        return len(skeletons)
    return settings.frames or (facts.frames if facts.stage == 2 else 1)


def window_plan(settings: SampleSettings, facts: WeightsFacts, frames: int) -> WindowPlan:
    """The plan that the pipeline will follow."""
    if facts.stage == 1:
        return WindowPlan(frames, 1)
    return WindowPlan(frames, settings.long.window, settings.long.overlap, settings.long.method)


def refuse_lost_pose(pipeline: FollowYourPosePipeline, skeletons: Frames | None, facts: WeightsFacts) -> None:
    """Raises UsageError for a pose without a pose encoder; a pose encoder without a pose is said."""
    if skeletons is not None and pipeline.pose_encoder is None:
        raise UsageError(
            f"{facts.name} has no pose encoder (it was trained with --pose-encoder none), so it cannot follow --pose. "
            "Train stage 2 with one, or leave --pose out."
        )
    if skeletons is None and pipeline.pose_encoder is not None:
        log.warning("no --pose: the result follows the prompt alone")


@contextmanager
def progress(steps: int, what: str) -> Iterator[Callable[[DenoisingStep], None]]:
    """A bar of the steps on a terminal, a line now and then elsewhere."""
    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty() or os.environ.get("TERM") == "dumb",
    )
    started = last = time.monotonic()
    with bar:
        task = bar.add_task(what, total=steps)

        def on_step(step: DenoisingStep) -> None:
            nonlocal last
            bar.update(task, completed=step.index + 1)
            now = time.monotonic()
            if bar.disable and now - last > LINE_EVERY_S:
                last = now
                log.info("%s: step %d of %d, %.1f s", what, step.index + 1, steps, now - started)

        yield on_step
