"""`python -m tests.benchmarks.train_step`: seconds, TFLOP/s and memory of one training step at SD 1.4 widths.

Two comparisons, each between two forms of a step run in turn, so that a busy machine slows both alike:
  stage1  with cached latents against un-cached (the VAE in the step); text is encoded in both
  stage2  ours against the plain form of the same arithmetic (`tests/benchmarks/plain_unet.py`)
Each prints a table, the ratios with their bars, and the same as one JSON line. Weights are random; the sizes come from
the configuration files of SD 1.4. On a GPU the model runs in bfloat16, compiled by option.
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

from tests.benchmarks.plain_unet import plain_forward
from tests.benchmarks.step_report import Figures, Ratio, report_lines
from tests.support.fixtures import fixtures_root
from trainer.model.base import Base, draw_latents, encode_pictures, encode_text, load_base, random_base, tokenize
from trainer.model.switches import OFFICIAL
from trainer.model.unet import compile_blocks
from trainer.run.cost import flop_counter
from trainer.run.metrics import measure_peak_tflops
from trainer.stages import StageModel, StageNumber, build_stage, lower_frozen_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """One way to do a step: its name and a function that does forward and backward pass and optimiser step."""

    name: str
    step: Callable[[], None]


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    for case in ("stage1", "stage2"):
        if arguments.case in ("all", case):
            {"stage1": stage1, "stage2": stage2}[case](arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("all", "stage1", "stage2"), default="all")
    parser.add_argument(
        "--steps", type=int, default=2, help="timed steps of each form, after one that is counted and one that warms up"
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


def stage1(arguments: argparse.Namespace) -> None:
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
        base.vae.to(memory_format=torch.channels_last)  # pyright: ignore
    cached = Form("cached", lambda: step(lambda: moments))
    uncached = Form("uncached", lambda: step(lambda: encode_pictures(base.vae, pictures)))
    figures = compare([cached, uncached], arguments)
    ratios = [
        Ratio("un-cached over cached, TFLOP/s", figures["uncached"].tflops / figures["cached"].tflops, 0.9),
        Ratio("un-cached over cached, seconds", figures["uncached"].seconds / figures["cached"].seconds, 1.5),
    ]
    if official_sizes(arguments) and side == 64:
        ratios.append(against_official(23.4, figures["cached"]))
    show("stage1", arguments, figures, ratios, f"{arguments.batch} x {side} x {side} latents")


def stage2(arguments: argparse.Namespace) -> None:
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
    ratios = []
    if "plain" in figures:
        bars = {"seconds": 1.3, "saved_gib": 1.3, "peak_gib": 1.3, "cpu_seconds": None, "tflop": None}
        ratios = [
            Ratio(f"plain over ours, {name}", getattr(figures["plain"], name) / getattr(figures["ours"], name), bar)
            for name, bar in bars.items()
        ]
    side, frames = arguments.stage2_side, arguments.frames
    if official_sizes(arguments) and (side, frames) == (32, 4):
        ratios.append(against_official(14.3, figures["ours"]))
    show("stage2", arguments, figures, ratios, f"{arguments.batch} x {frames} frames x {side} x {side} latents")


def official_sizes(arguments: argparse.Namespace) -> bool:
    """Whether a step is of the kind that the official code was timed at."""
    return arguments.device == "cpu" and not arguments.tiny and arguments.batch == 1


def against_official(idle_s: float, ours: Figures) -> Ratio:
    return Ratio(f"official code ({idle_s} s forward and backward, 2 idle cores) over ours", idle_s / ours.seconds)


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
        stage.to(memory_format=torch.channels_last)  # pyright: ignore
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
    """Counts each form in a first step, takes its peak in a second, then times them in turn. `layouts`: the layout a
    form's weights want."""
    counted: dict[str, tuple[float, float]] = {}
    peaks: dict[str, tuple[float, float]] = {}
    times: dict[str, list[tuple[float, float]]] = {form.name: [] for form in forms}
    for turn in range(arguments.steps + 2):
        for form in forms:
            if stage is not None and arguments.channels_last:
                stage.to(memory_format=(layouts or {}).get(form.name, torch.channels_last))  # pyright: ignore
            if turn == 0:
                counted[form.name] = count(form)
            elif turn == 1:
                # counting ran nothing compiled, and compilers take memory, too
                warm_up(form, 2 if arguments.compile else 0)
                peaks[form.name] = peak(form)
            else:
                times[form.name].append(timed(form))
            logger.info("turn %d, %s: %s", turn, form.name, times[form.name][-1:] or "warm")
    return {form.name: Figures(*median(times[form.name]), *counted[form.name], *peaks[form.name]) for form in forms}


def median(rows: list[tuple[float, float]]) -> tuple[float, float]:
    """The median of each of the two columns."""
    return statistics.median(first for first, _ in rows), statistics.median(second for _, second in rows)


def timed(form: Form) -> tuple[float, float]:
    """Seconds and CPU seconds of one step. On a busy machine with one thread, only the latter mean something."""
    start, cpu_start = time.perf_counter(), time.process_time()
    form.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


def count(form: Form) -> tuple[float, float]:
    """TFLOP of a step and GiB kept for its backward pass, both of the step as it is before compilation."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        # what is saved lives until the backward pass, so no address comes up twice
        if not is_weight(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    # a block that runs first under a counter is one that dynamo never compiles after
    eager = torch.compiler.set_stance("force_eager")
    with eager, flop_counter() as counter, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        form.step()
    return counter.get_total_flops() / 1e12, sum(saved.values()) / 2**30


def warm_up(form: Form, steps: int) -> None:
    for _ in range(steps):
        form.step()


def peak(form: Form) -> tuple[float, float]:
    """GiB by which a step makes the process (or the GPU's use) grow, and its use then."""
    before = reset_peak()
    form.step()
    return (peak_bytes() - before) / 2**30, peak_bytes() / 2**30


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


def show(
    case: str, arguments: argparse.Namespace, figures: dict[str, Figures], ratios: list[Ratio], sizes: str
) -> None:
    """Prints the case, for people and as JSON."""
    base = "tiny" if arguments.tiny else "SD 1.4 widths, random weights"
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else f"CPU, {arguments.threads} threads"
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    precision = str(dtype).removeprefix("torch.") + (", compiled" if arguments.compile else "")
    where = f"{base}; {sizes}; {precision}; {device}; median of {arguments.steps} steps"
    peak_tflops = measure_peak_tflops(torch.device(arguments.device), dtype)
    ratios = [*ratios, *(Ratio(f"{name} over the matmul peak", x.tflops / peak_tflops) for name, x in figures.items())]
    print(*report_lines(f"{case}: {where}", figures, ratios, judged=not arguments.tiny), sep="\n")
    values = {
        "benchmark": f"train_step.{case}",
        "of": where,
        "forms": {name: one.as_json() for name, one in figures.items()},
        "ratios": {ratio.name: round(ratio.value, 3) for ratio in ratios},
    }
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
