"""Sample: read the pose, load the weights, draw each prompt, write it. Read this first.

Every prompt starts from the same seed, so that its result does not depend on the prompts before it.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from lposekit.errors import UsageError
from lposekit.setting_values import check_values
from trainer.inference.denoise import DenoisingStep
from trainer.inference.output import beside, format_of, marked, write_frames, write_png
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.pose_input import Estimate
from trainer.inference.schedulers import make_scheduler
from trainer.inference.seams import measure_seams
from trainer.inference.settings import NEEDED_TO_SAMPLE, SampleSettings
from trainer.inference.windows import WindowPlan
from trainer.model.tiny import tiny_scheduler
from trainer.run.build import DTYPES
from trainer.run.distributed import choose_device
from trainer.run.sample_inputs import (
    IMAGE_ENDING,
    count_frames,
    output_paths,
    read_prompts,
    read_skeletons,
    refuse_outputs,
    window_plan,
)
from trainer.run.sample_report import Sampled, SampleReport
from trainer.run.sample_resume import read_finished
from trainer.run.sampler import WeightsFacts, load_pipeline, read_facts

log = logging.getLogger(__name__)

Frames = npt.NDArray[np.uint8]
LINE_EVERY_S = 15.0


def run(settings: SampleSettings, *, estimate: Estimate, dry_run: bool = False) -> SampleReport:
    """Sample as the settings say, or, with `dry_run`, only check everything and say what would be done.

    `estimate`: gives the poses of a video of persons, for `--pose` with one.

    Raises:
        UsageError: settings, pose and weights do not fit one another. LposekitError: a file is damaged, or cannot be
        written.
    """
    check_values(settings, required=NEEDED_TO_SAMPLE)
    prompts = read_prompts(settings)
    facts = read_facts(settings)
    outputs = output_paths(settings, facts.stage, len(prompts))
    refuse_outputs(settings, outputs)
    if settings.prompts is None:
        say_replaced(outputs[0])
    device = choose_device(settings.compute.device)
    try_scheduler(settings)
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
    for line in long_prompts(pipeline, [*prompts, settings.negative_prompt]):
        log.warning(line)
    sample_all(pipeline, prompts, skeletons, plan, settings, report)
    return report


def sample_all(
    pipeline: FollowYourPosePipeline,
    prompts: Sequence[str],
    skeletons: Frames | None,
    plan: WindowPlan,
    settings: SampleSettings,
    report: SampleReport,
) -> None:
    """Draw the prompts one by one; of a file of prompts, those whose results are not there yet."""
    finished = None
    if settings.prompts is not None:
        assert settings.output is not None
        shape = report.frames, report.height, report.width
        finished = read_finished(settings.output, settings, pipeline, skeletons, shape)
    for number, (prompt, output) in enumerate(zip(prompts, report.outputs, strict=True), 1):
        if finished and finished.holds(output, prompt):
            report.sampled.append(Sampled(prompt, output, [], None, 0.0, unchanged=True))
            continue
        if finished:
            say_replaced(output)
        with progress(settings.steps, f"prompt {number} of {len(prompts)}") as on_step:
            report.sampled.append(sample_one(pipeline, prompt, output, skeletons, plan, settings, report, on_step))
        if finished:
            finished.add(output, prompt)


def say_replaced(output: Path) -> None:
    """Say that a result which is there will be another one."""
    if os.path.lexists(output):
        log.warning("--output %s is there, and will be replaced", output)


def long_prompts(pipeline: FollowYourPosePipeline, prompts: Sequence[str]) -> list[str]:
    """A line for each prompt that is longer than the text encoder reads: its end has no effect."""
    most = pipeline.tokenizer.model_max_length - 2  # less the marks of start and end
    counts = [(prompt, len(pipeline.tokenizer.tokenize(prompt))) for prompt in prompts]
    return [
        f"a prompt of {count} tokens, of which the text encoder reads {most}: {prompt[:60]} ..."
        for prompt, count in counts
        if count > most
    ]


def try_scheduler(settings: SampleSettings) -> None:
    """Raises UsageError for a scheduler that does not exist, or does not take so many steps, or no eta."""
    scheduler = make_scheduler(settings.scheduler, tiny_scheduler().config)
    if settings.eta and "eta" not in inspect.signature(scheduler.step).parameters:
        raise UsageError(f"--eta {settings.eta:g}: has no effect with --scheduler {settings.scheduler}. Leave it out.")
    try:
        scheduler.set_timesteps(settings.steps)
    except (ValueError, IndexError, RuntimeError) as error:
        raise UsageError(
            f"--steps {settings.steps}: not with --scheduler {settings.scheduler} ({error}). Take 20 to 100."
        ) from error


def place(pipeline: DiffusionPipeline, device: torch.device, dtype: torch.dtype) -> None:
    """Move the models to the device, in the type."""
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            # torch's own `to`: that of diffusers warns about every cast
            nn.Module.to(module, device, dtype)
    if device.type == "cuda":
        nn.Module.to(pipeline.components["unet"], memory_format=torch.channels_last)  # pyright: ignore


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
