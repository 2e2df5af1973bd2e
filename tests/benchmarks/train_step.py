"""`python -m tests.benchmarks.train_step`: seconds, TFLOP/s and memory of one training step at SD 1.4 widths.

Two comparisons, each between two forms of a step run in turn, so that a busy machine slows both alike:
  stage1  with cached latents against un-cached (the VAE in the step); text is encoded in both
  stage2  ours against the plain form of the same arithmetic (`tests/benchmarks/plain_unet.py`)
Each prints one JSON line. Weights are random; the sizes come from the configuration files of SD 1.4. On a GPU the model
runs in bfloat16, compiled by option.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from tests.benchmarks.plain_unet import plain_forward
from tests.support.fixtures import fixtures_root
from trainer.model.base import Base, draw_latents, encode_pictures, encode_text, load_base, random_base, tokenize
from trainer.model.switches import OFFICIAL
from trainer.model.unet import compile_blocks
from trainer.stages import StageModel, StageNumber, build_stage, lower_frozen_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """One way to do a step: its name and a function that does forward and backward pass and optimiser step."""

    name: str
    step: Callable[[], None]


@dataclass(frozen=True)
class Figures:
    """Of one form: median seconds and CPU seconds (all threads), arithmetic of a step, memory kept for the backward
    pass, growth of the process."""

    seconds: float
    cpu_seconds: float
    tflop: float
    saved_gib: float
    peak_gib: float

    def as_json(self) -> dict[str, float]:
        values = {
            "s": self.seconds,
            "cpu_s": self.cpu_seconds,
            "tflop": self.tflop,
            "tflops": self.tflop / self.seconds,
        }
        return {
            key: round(x, 3) for key, x in {**values, "saved_gib": self.saved_gib, "peak_gib": self.peak_gib}.items()
        }


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    for case in ("stage1", "stage2"):
        if arguments.case in ("all", case):
            report = {"stage1": stage1, "stage2": stage2}[case](arguments)
            print(json.dumps({"benchmark": f"train_step.{case}", **report}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("all", "stage1", "stage2"), default="all")
    parser.add_argument(
        "--steps", type=int, default=2, help="timed steps of each form, after one that is measured and warms up"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="the base `tiny` instead of SD 1.4's sizes: a smoke test")
    parser.add_argument("--batch", type=int, default=1, help="pictures (stage 1) or clips (stage 2)")
    parser.add_argument("--stage1-side", type=int, default=64, help="height and width of stage 1's latents")
    parser.add_argument("--stage2-side", type=int, default=32)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true", help="always on a GPU; on a CPU it gains nothing")
    arguments = parser.parse_args()
    arguments.channels_last |= arguments.device != "cpu"
    return arguments


def stage1(arguments: argparse.Namespace) -> dict[str, object]:
    """Cached against un-cached."""
    base = make_base(arguments)
    stage = make_stage(1, base, arguments)
    dtype, device, side = stage.unet.conv_in.weight.dtype, arguments.device, arguments.stage1_side
    for part in (base.vae, base.text_encoder):
        part.requires_grad_(False).to(device, dtype)
    pictures = torch.rand(arguments.batch, 1, 3, 8 * side, 8 * side, device=device) * 2 - 1
    pose = torch.rand(arguments.batch, 1, 3, 8 * side, 8 * side, device=device)
    moments = torch.randn(arguments.batch, 1, 8, side, side, device=device).half()
    noise = torch.randn(arguments.batch, 4, 1, side, side, device=device)
    timesteps = torch.full((arguments.batch,), 500, device=device)
    ids = tokenize(base.tokenizer, ["a person dancing"] * arguments.batch).to(device)
    optimizer = torch.optim.AdamW(stage.trainable().values(), lr=1e-5, fused=True)

    def step(encode: Callable[[], Tensor]) -> None:
        latents = draw_latents(base.vae, encode(), torch.zeros_like(noise).transpose(1, 2))
        loss = stage(latents, noise, timesteps, encode_text(base.text_encoder, ids), pose).mean()
        update(loss, optimizer)

    if arguments.channels_last:
        base.vae.to(memory_format=torch.channels_last)
    cached = Form("cached", lambda: step(lambda: moments))
    uncached = Form("uncached", lambda: step(lambda: encode_pictures(base.vae, pictures)))
    figures = compare([cached, uncached], arguments)
    ratios = {
        "uncached_over_cached_seconds": figures["uncached"].seconds / figures["cached"].seconds,
        "uncached_over_cached_tflops": tflops(figures["uncached"]) / tflops(figures["cached"]),
    }
    return summary(arguments, figures, ratios, {"latents": side})


def stage2(arguments: argparse.Namespace) -> dict[str, object]:
    """Ours against the plain form."""
    base = make_base(arguments)
    width = base.unet.config["cross_attention_dim"]
    stage = make_stage(2, base, arguments)
    shape = (arguments.batch, 4, arguments.frames, arguments.stage2_side, arguments.stage2_side)
    latents, noise = torch.randn(shape, device=arguments.device), torch.randn(shape, device=arguments.device)
    timesteps = torch.full((arguments.batch,), 500, device=arguments.device)
    text = torch.randn(arguments.batch, 77, width, device=arguments.device)
    optimizer = torch.optim.AdamW(stage.trainable().values(), lr=3e-5, fused=True)

    def plain() -> None:
        noisy = stage.noisy_latents(latents, noise, timesteps)
        update((plain_forward(stage.unet, noisy, timesteps, text) - noise).square().mean(), optimizer)

    ours = Form("ours", lambda: update(stage(latents, noise, timesteps, text).mean(), optimizer))
    forms = [ours] if arguments.device != "cpu" else [ours, Form("plain", plain)]
    figures = compare(forms, arguments, layouts={"plain": torch.contiguous_format}, stage=stage)
    ratios = {
        f"plain_over_ours_{name}": getattr(figures["plain"], name) / getattr(figures["ours"], name)
        for name in ("seconds", "cpu_seconds", "tflop", "saved_gib", "peak_gib")
        if "plain" in figures
    }
    return summary(arguments, figures, ratios, {"latents": arguments.stage2_side, "frames": arguments.frames})


def make_base(arguments: argparse.Namespace) -> Base:
    if arguments.tiny:
        return load_base("tiny")
    return random_base(fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights")


def make_stage(number: StageNumber, base: Base, arguments: argparse.Namespace) -> StageModel:
    stage = build_stage(number, base.unet, base.scheduler, OFFICIAL)
    stage.to(arguments.device)
    if arguments.device != "cpu":
        lower_frozen_precision(stage, torch.bfloat16)
    if arguments.channels_last:
        stage.to(memory_format=torch.channels_last)
    if arguments.compile:
        compile_blocks(stage.unet)
    return stage


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def compare(
    forms: list[Form],
    arguments: argparse.Namespace,
    layouts: dict[str, torch.memory_format] | None = None,
    stage: StageModel | None = None,
) -> dict[str, Figures]:
    """Measures each form in a first step, then times them in turn. `layouts`: the layout a form's weights want."""
    once: dict[str, tuple[float, float, float]] = {}
    times: dict[str, list[tuple[float, float]]] = {form.name: [] for form in forms}
    for turn in range(arguments.steps + 1):
        for form in forms:
            if stage is not None and arguments.channels_last:
                stage.to(memory_format=(layouts or {}).get(form.name, torch.channels_last))
            if turn == 0:
                once[form.name] = measure_once(form)
            else:
                times[form.name].append(timed(form))
            logger.info("turn %d, %s: %s", turn, form.name, times[form.name][-1:] or "warm")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    return {form.name: Figures(*medians[form.name], *once[form.name]) for form in forms}


def timed(form: Form) -> tuple[float, float]:
    """Seconds and CPU seconds of one step. On a busy machine with one thread, only the latter mean something."""
    start, cpu_start = time.perf_counter(), time.process_time()
    form.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


def measure_once(form: Form) -> tuple[float, float, float]:
    """TFLOP of a step, GiB kept for its backward pass, GiB by which it makes the process (or the GPU's use) grow."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        # what is saved lives until the backward pass, so no address comes up twice
        if not is_weight(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    before = reset_peak()
    with flop_counter() as counter, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        form.step()
    return counter.get_total_flops() / 1e12, sum(saved.values()) / 2**30, (peak_bytes() - before) / 2**30


def flop_counter() -> FlopCounterMode:
    """torch's counter, which knows all fused attentions but the CPU's."""
    aten = torch.ops.aten
    forward, backward = (
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
    )

    def count_forward(query: list[int], key: list[int], value: list[int], *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def count_backward(
        gradient: list[int], query: list[int], key: list[int], value: list[int], *_: object, **__: object
    ) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    return FlopCounterMode(display=False, custom_mapping={forward: count_forward, backward: count_backward})


def is_weight(tensor: Tensor) -> bool:
    base = tensor if tensor._base is None else tensor._base
    return isinstance(base, torch.nn.Parameter)


def reset_peak() -> int:
    """Starts a new peak; returns the use right now, in bytes."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # give freed memory back first, or the next form would grow into it unseen
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")


def peak_bytes() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else process_bytes("VmHWM")


def process_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def tflops(figures: Figures) -> float:
    return figures.tflop / figures.seconds


def summary(
    arguments: argparse.Namespace, figures: dict[str, Figures], ratios: dict[str, float], sizes: dict[str, int]
) -> dict[str, object]:
    return {
        "base": "tiny" if arguments.tiny else "sd-1.4 widths, random weights",
        "device": arguments.device,
        "threads": arguments.threads,
        "batch": arguments.batch,
        **sizes,
        "steps": arguments.steps,
        "forms": {name: one.as_json() for name, one in figures.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }


if __name__ == "__main__":
    main()
