"""Draws the clips of a protocol's pairs with a run: a folder of PNG files for each, named by the pair's key.

A pair's folder appears whole or not at all, so that the same command draws what is missing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lposekit import __version__
from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.setting_values import plain_leaves
from trainer.evaluate.claims import claim
from trainer.evaluate.protocol import Pair, Protocol
from trainer.evaluate.settings import EvaluateSettings
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
PLACES = frozenset({"height", "width", "step"})
"""Settings of drawing that do not decide a result, or do so by its size and the weights."""


def sample_settings(settings: EvaluateSettings) -> SampleSettings:
    """The settings of `lposekit sample` that draw a pair."""
    drawing = settings.drawing
    return SampleSettings(
        run=settings.run,
        base=settings.base,
        steps=drawing.steps,
        guidance=drawing.guidance,
        scheduler=drawing.scheduler,
        eta=drawing.eta,
        height=drawing.height,
        width=drawing.width,
        step=drawing.step,
        safety_checker=drawing.safety_checker,
        compute=settings.compute,
    )


def draw_pairs(settings: EvaluateSettings, protocol: Protocol, folder: Path) -> Iterator[Pair]:
    """Draws what is not there yet; yields each pair as it is done.

    Raises:
        UsageError: the folder was drawn with other weights or settings; the weights take no pose.
        LposekitError: a file is damaged, or the disk is full.
    """
    sampling = sample_settings(settings)
    facts = read_facts(sampling)
    try_scheduler(sampling)
    device = choose_device(settings.compute.device)
    if settings.compute.threads:
        torch.set_num_threads(settings.compute.threads)
    pipeline = load_pipeline(sampling, facts)
    if pipeline.pose_encoder is None:
        raise UsageError(f"--run {settings.run}: has no pose encoder, so there is no pose accuracy to speak of.")
    size = settings.drawing.height or facts.size, settings.drawing.width or facts.size
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".*.partial"):  # of an evaluation that was killed
        shutil.rmtree(partial)
    precision = settings.compute.precision or ("bf16" if device.type == "cuda" else "fp32")
    claim(folder / MADE_FROM, made_from(settings, pipeline, protocol, size, precision), "clips were drawn")
    place(pipeline, device, DTYPES[precision])
    for pair in protocol.pairs:
        if not (folder / pair.key).is_dir():
            frames_FHWC = draw_pair(pipeline, pair, facts, sampling, size)
            write_frames(folder / pair.key, frames_FHWC, "frames", settings.fps)
        yield pair


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


def made_from(
    settings: EvaluateSettings,
    pipeline: FollowYourPosePipeline,
    protocol: Protocol,
    size: tuple[int, int],
    precision: str,
) -> JsonObject:
    """All that decides what is drawn."""
    parts = sorted(pipeline.components.items())
    drawing: dict[str, Any] = {name: value for name, value in plain_leaves(settings.drawing) if name not in PLACES}
    return {
        "lposekit": __version__,
        "protocol_sha256": protocol.sha256,
        "size_hw": list(size),
        "precision": precision,
        "settings": drawing,
        "weights": {name: fingerprint(part) for name, part in parts if isinstance(part, nn.Module)},
    }
