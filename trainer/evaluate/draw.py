"""Draws the clips of a protocol's pairs with a run or a baseline: a folder of PNG files for each, named by its key.

A pair's folder appears whole or not at all, so that the same command draws what is missing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from lposekit import __version__
from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.setting_values import plain_leaves
from trainer.evaluate.baseline import Baseline
from trainer.evaluate.baseline_draw import draw_baseline, load_baseline
from trainer.evaluate.claims import claim
from trainer.evaluate.protocol import Pair, Protocol
from trainer.evaluate.settings import EvaluateSettings
from trainer.inference.denoise import GUIDANCE
from trainer.inference.output import write_frames
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.pose_input import Frames, PoseRequest, draw_tracks
from trainer.inference.settings import PoseInputSettings, SampleSettings
from trainer.run.build import DTYPES
from trainer.run.distributed import choose_device
from trainer.run.folder import fingerprint
from trainer.run.sample_inputs import line_width_at
from trainer.run.sampler import WeightsFacts, load_pipeline, read_facts
from trainer.sample import place, try_scheduler

log = logging.getLogger(__name__)

MADE_FROM = "made_from.json"
BASELINE_GUIDANCE = 7.5
"""What the pipelines of diffusers take, where they are told nothing."""
PLACES = frozenset({"height", "width", "step"})
"""Settings of drawing that do not decide a result, or do so by its size and the weights."""


@dataclass(frozen=True, slots=True)
class Drawer:
    """What draws. pipeline: its weights, on the CPU until they are placed. draw: gives the frames of a pair. size:
    height and width. facts: further ones that decide what is drawn."""

    pipeline: DiffusionPipeline
    draw: Callable[[Pair], Frames]
    size: tuple[int, int]
    facts: JsonObject


def sample_settings(settings: EvaluateSettings) -> SampleSettings:
    """The settings of `lposekit sample` that draw a pair."""
    drawing = settings.drawing
    usual = GUIDANCE if settings.run is not None else BASELINE_GUIDANCE
    return SampleSettings(
        run=settings.run,
        base=settings.base,
        steps=drawing.steps,
        guidance=usual if drawing.guidance is None else drawing.guidance,
        scheduler=drawing.scheduler,
        eta=drawing.eta,
        height=drawing.height,
        width=drawing.width,
        step=drawing.step,
        safety_checker=drawing.safety_checker,
        compute=settings.compute,
    )


def draw_pairs(
    settings: EvaluateSettings, protocol: Protocol, folder: Path, baseline: Baseline | None
) -> Iterator[Pair]:
    """Draws what is not there yet, with the run or the baseline; yields each pair as it is done.

    Raises:
        UsageError: the folder was drawn with other weights or settings; the weights take no pose, or do not fit.
        LposekitError: a file is damaged, or the disk is full.
    """
    sampling = sample_settings(settings)
    try_scheduler(sampling)
    device = choose_device(settings.compute.device)
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    drawer = run_drawer(settings, sampling) if baseline is None else baseline_drawer(settings, sampling, baseline)
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".*.partial"):  # of an evaluation that was killed
        shutil.rmtree(partial)
    precision = settings.compute.precision or ("bf16" if device.type == "cuda" else "fp32")
    claim(folder / MADE_FROM, made_from(settings, drawer, protocol, precision), "clips were drawn")
    place(drawer.pipeline, device, DTYPES[precision])
    for pair in protocol.pairs:
        if not (folder / pair.key).is_dir():
            write_frames(folder / pair.key, drawer.draw(pair), "frames", settings.fps)
        yield pair


def run_drawer(settings: EvaluateSettings, sampling: SampleSettings) -> Drawer:
    """A run, or a saved pipeline. Raises as `draw_pairs`."""
    facts = read_facts(sampling)
    pipeline, size = load_pipeline(sampling, facts), drawn_size(settings, facts)
    if pipeline.pose_encoder is None:
        raise UsageError(f"--run {settings.run}: has no pose encoder, so there is no pose accuracy to speak of.")
    return Drawer(pipeline, lambda pair: draw_pair(pipeline, pair, facts, sampling, size), size, {})


def baseline_drawer(settings: EvaluateSettings, sampling: SampleSettings, baseline: Baseline) -> Drawer:
    """A ControlNet or a T2I-Adapter. Raises as `draw_pairs`."""
    facts = baseline.facts
    pipeline, size = load_baseline(baseline, sampling), drawn_size(settings, facts)

    def draw(pair: Pair) -> Frames:
        return draw_baseline(pipeline, baseline.kind, pair, skeletons(pair, facts, size), sampling, settings.baseline)

    how = {"style": facts.pose_style, "line_width": line_width_at(facts, *size)}
    own: dict[str, Any] = {name: value for name, value in plain_leaves(settings.baseline) if name not in how}
    return Drawer(pipeline, draw, size, {"baseline": {"kind": baseline.kind, **how, **own}})


def drawn_size(settings: EvaluateSettings, facts: WeightsFacts) -> tuple[int, int]:
    """Height and width of the frames."""
    return settings.drawing.height or facts.size, settings.drawing.width or facts.size


def draw_pair(
    pipeline: FollowYourPosePipeline,
    pair: Pair,
    facts: WeightsFacts,
    sampling: SampleSettings,
    size: tuple[int, int],
) -> Frames:
    """The clip of one pair, from the pair's own noise."""
    return pipeline(
        pair.prompt,
        skeletons(pair, facts, size),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        eta=sampling.eta,
        seed=pair.seed,
        window=sampling.long.window,
        overlap=sampling.long.overlap,
        vae_slice=sampling.compute.vae_slice,
    ).frames


def skeletons(pair: Pair, facts: WeightsFacts, size: tuple[int, int]) -> Frames:
    """The skeleton images of a pair, as the weights have learned to read them."""
    height, width = size
    frames = pair.tracks.num_frames
    request = PoseRequest(
        source=pair.key,
        count=frames,
        most=frames,
        stride=1,
        height=height,
        width=width,
        style=facts.pose_style,
        line_width=line_width_at(facts, height, width),
        how=PoseInputSettings(),
    )
    return draw_tracks(pair.tracks, request)


def made_from(settings: EvaluateSettings, drawer: Drawer, protocol: Protocol, precision: str) -> JsonObject:
    """All that decides what is drawn."""
    parts = sorted(drawer.pipeline.components.items())
    drawing: dict[str, Any] = {name: value for name, value in plain_leaves(settings.drawing) if name not in PLACES}
    return {
        "lposekit": __version__,
        "protocol_sha256": protocol.sha256,
        "size_hw": list(drawer.size),
        "precision": precision,
        "settings": {**drawing, "guidance": sample_settings(settings).guidance},
        "weights": {name: fingerprint(part) for name, part in parts if isinstance(part, nn.Module)},
        **drawer.facts,
    }
