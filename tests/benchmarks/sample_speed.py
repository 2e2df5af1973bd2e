"""Sampling: ours against the same arithmetic written plainly, under diffusers' own DDIM loop, alternating in one run.

    python -m tests.benchmarks.sample_speed

The peer is `tests/benchmarks/plain_unet.py` over the same weights, in the loop that a competent user of diffusers
writes: both halves of the guidance in one batch, pose features computed once, `torch.inference_mode`, the faster of two
memory layouts (one step each). The release's own loop computes the pose features again at every step, for both halves;
it is the weaker row. VAE and text encoder are left out on all sides. The latents after the last step are compared.

Then long clips on the base `tiny`: what windows cost in time, and how much a clip jumps where they meet.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from tests.benchmarks.plain_unet import plain_forward
from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, skip, table, timed_here, versions
from tests.support.fixtures import fixtures_root
from trainer.inference.denoise import GUIDANCE
from trainer.inference.pipeline import FollowYourPosePipeline
from trainer.inference.sample import ddim_scheduler
from trainer.inference.schedulers import make_scheduler
from trainer.inference.seams import measure_seams
from trainer.inference.windows import WindowPlan
from trainer.model.base import load_base, read_scheduler
from trainer.model.pose_encoder import PoseEncoder, build_pose_encoder, to_t2i_adapter
from trainer.model.switches import OFFICIAL
from trainer.model.unet import VideoUNet, inflate
from trainer.run.walker import walker_skeletons

BAR = 1.3
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def models() -> tuple[VideoUNet, PoseEncoder, Any]:
    """UNet and pose encoder at SD 1.4's widths, random weights (temporal ones too), and the base's scheduler."""
    folder = fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights"
    if not folder.is_dir():
        skip("the configuration files of Stable Diffusion 1.4 are not among the fixtures")
    torch.manual_seed(0)
    unet2d = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    unet = inflate(unet2d, OFFICIAL)  # pyright: ignore
    for name, parameter in unet.named_parameters():
        if "conv_temporal.up" in name:
            nn.init.normal_(parameter, std=0.01)
    encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL)
    for module in (unet, encoder):
        module.requires_grad_(False).eval()
    return unet, encoder, read_scheduler(folder / "scheduler")


@torch.inference_mode()
def plain_loop(
    unet: VideoUNet, scheduler: Any, latents: Tensor, text: Tensor, pose: Callable[[], Sequence[Tensor]], steps: int
) -> Tensor:
    """diffusers' loop. ``pose``: asked at every step for the maps of both halves."""
    ddim = ddim_scheduler(scheduler, steps)
    for timestep in ddim.timesteps:
        batch = ddim.scale_model_input(torch.cat([latents] * 2), timestep)  # pyright: ignore
        noise = plain_forward(unet, batch, timestep.expand(2), text, pose())
        negative, prompt = noise.chunk(2)
        latents = ddim.step(negative + GUIDANCE * (prompt - negative), timestep, latents).prev_sample  # pyright: ignore
    return latents


def forms(
    unet: VideoUNet, encoder: PoseEncoder, scheduler: Any, frames: int, side: int, steps: int
) -> dict[str, Callable[[], Tensor]]:
    """The ways to sample, each returning its last latents."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, frames, side, side, generator=generator)
    text = torch.randn(2, 77, 768, generator=generator)
    pose = torch.rand(1, frames, 3, 8 * side, 8 * side, generator=generator)
    base = load_base("tiny")
    pipeline = FollowYourPosePipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=unet,
        scheduler=make_scheduler("ddim", scheduler.config),
        pose_encoder=to_t2i_adapter(encoder).eval(),
    )

    def ours() -> Tensor:
        return pipeline(
            pose=pose,
            latents=latents,
            prompt_embeds=text[1:],
            negative_prompt_embeds=text[:1],
            num_inference_steps=steps,
            output_type="latent",
        ).frames

    def plain() -> Tensor:
        maps = [torch.cat([x, x]) for x in encoder(pose)]
        return plain_loop(unet, scheduler, latents, text, lambda: maps, steps)

    def released() -> Tensor:
        return plain_loop(unet, scheduler, latents, text, lambda: encoder(pose.repeat(2, 1, 1, 1, 1)), steps)

    return {"ours": ours, "plain": plain, "plain, pose at every step (weak)": released}


def choose_layout(unet: VideoUNet, encoder: PoseEncoder, work: Callable[[], Tensor]) -> str:
    """The faster memory layout, by one pass of each behind one that warms up."""
    times = {}
    for name, layout in LAYOUTS.items():
        for module in (unet, encoder):
            module.to(memory_format=layout)  # pyright: ignore
        work()
        times[name] = timed_here(work).wall_s
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items()), flush=True)
    return min(times, key=lambda name: times[name])


def compare(frames: int, side: int, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    """Prints the comparison; returns its ratios."""
    unet, encoder, scheduler = models()
    short = forms(unet, encoder, scheduler, frames, side, 1)
    layouts = {name: choose_layout(unet, encoder, short[name]) for name in ("ours", "plain")}

    def in_layout(name: str, work: Callable[[], Tensor]) -> Callable[[], Timing]:
        chosen = LAYOUTS[layouts["ours" if name == "ours" else "plain"]]

        def run() -> Timing:
            for module in (unet, encoder):
                module.to(memory_format=chosen)  # pyright: ignore
            return timed_here(work)

        return run

    full = forms(unet, encoder, scheduler, frames, side, steps)
    expected, found = full["plain"](), full["ours"]()
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    times = alternate({name: in_layout(name, work) for name, work in full.items()}, rounds)
    print(
        f"SD 1.4 widths, random weights; 1 clip of {frames} frames, {8 * side} x {8 * side} pixels; {steps} DDIM "
        f"steps, guidance {GUIDANCE}; float32; CPU, {threads} threads; {rounds} rounds"
    )
    chosen = ", ".join(f"{name}: {layout}" for name, layout in layouts.items())
    print(f"the faster memory layout of each, {chosen}; largest difference of the last latents {difference:.1e}\n")
    rows = [
        [name, Spread.of([t.wall_s for t in spent], 1 / steps), Spread.of([t.cpu_s for t in spent], 1 / steps)]
        for name, spent in times.items()
    ]
    print(table(["sampling", "wall s a step", "CPU s a step"], rows))
    ratios: dict[str, Any] = {"difference": difference}
    for name in list(times)[1:]:
        wall = ratio([t.wall_s for t in times[name]], [t.wall_s for t in times["ours"]])
        cpu = ratio([t.cpu_s for t in times[name]], [t.cpu_s for t in times["ours"]])
        verdict = "" if "weak" in name else f" (bar: at least {BAR}, {'passed' if wall.middle >= BAR else 'FAILED'})"
        print(f"{name} / ours: wall {wall}, CPU {cpu}{verdict}")
        ratios[name] = {"wall": wall.middle, "cpu": cpu.middle}
    return ratios


def long_clips(num_frames: int, length: int, steps: int) -> list[dict[str, Any]]:
    """Prints time and seams of a long clip on the tiny base, for both methods and both first frames."""
    base = load_base("tiny")
    unet = inflate(base.unet, OFFICIAL)
    encoder = build_pose_encoder(unet.config["block_out_channels"], OFFICIAL)
    pipeline = FollowYourPosePipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=unet,
        scheduler=make_scheduler("ddim", base.scheduler.config),
        pose_encoder=to_t2i_adapter(encoder),
        size=64,
    )
    pose = walker_skeletons(num_frames, 64, "followyourpose")
    rows, results = [], []
    for method, overlap in (("average", 0), ("average", length // 4), ("average", length // 2), ("reuse", length // 2)):
        for first in ("window", "clip"):
            options = {"window": length, "overlap": overlap, "long_method": method, "first_frame": first}
            made: list[Any] = []
            spent = timed_here(
                lambda options=options, made=made: made.append(
                    pipeline("a man", pose, num_inference_steps=steps, **options)
                )
            )
            plan = WindowPlan(num_frames, length, overlap, method)  # pyright: ignore
            seams = measure_seams(made[0].frames, plan.windows(steps - 1))
            assert seams is not None
            passes = sum(len(plan.windows(step)) for step in range(steps))
            rows.append([method, overlap, first, passes, spent.wall_s, seams.at_borders, seams.elsewhere, seams.ratio])
            results.append({"method": method, "overlap": overlap, "first_frame": first, "seam_ratio": seams.ratio})
    print(
        f"\nlong clips: base tiny (random weights: it draws nothing, so seams show the arithmetic alone), {num_frames} "
        f"frames of 64 x 64, windows of {length}, {steps} steps"
    )
    headings = ["method", "overlap", "first frame", "passes", "s", "step at borders", "elsewhere", "ratio"]
    print(table(headings, rows), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--long-frames", type=int, default=96, help="of the long clip")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(versions("torch", "diffusers"))
    ratios = compare(options.frames, options.side, options.steps, options.rounds, options.threads)
    seams = long_clips(options.long_frames, 16, 4)
    print(json.dumps({"benchmark": "sample_speed", "ratios": ratios, "long": seams}))


if __name__ == "__main__":
    main()
