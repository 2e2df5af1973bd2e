"""`python -m tests.benchmarks.train_step`: time, arithmetic and memory of one training step at SD 1.4 widths.

Two comparisons of forms of our own step, in alternating rounds:
  stage1  with cached latents against un-cached (the VAE in the step); text is encoded in both
  stage2  ours against the same function written plainly, with direct convolutions (`tests/benchmarks/plain_unet.py`):
          a check of what the savings bring, and a weak peer; the official code is the peer in `official_step`
A step is forward and backward pass and AdamW (fused). Weights are random; the sizes come from the configuration files
of SD 1.4. Convolutions count as direct ones, however they are computed. On a GPU the model runs in bfloat16, compiled
by option.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.official_sides import sd14_folder
from tests.benchmarks.plain_unet import plain_forward
from tests.benchmarks.rounds import Spread, Timing, alternate, skip, table, timed_here, versions
from tests.benchmarks.step_report import (
    HEADINGS,
    MEMORY_NOTE,
    Figures,
    Memory,
    compared,
    ratio_line,
    ratios_json,
    step_memory,
)
from trainer.model.base import Base, draw_latents, encode_images, encode_text, load_base, random_base, tokenize
from trainer.model.switches import OFFICIAL
from trainer.model.unet import compile_blocks
from trainer.model.winograd import direct_form, use_direct, use_winograd, winograd_convolutions
from trainer.run.cost import flop_counter
from trainer.run.metrics import measure_peak_tflops
from trainer.stages import StageModel, StageNumber, build_stage, lower_frozen_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """One way to do a step: forward and backward pass and optimiser step. prepare: what it needs before each."""

    name: str
    step: Callable[[], None]
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Counted:
    """A step's arithmetic, and what its forward pass keeps for its backward pass."""

    tflop: float
    saved_gib: float


def main() -> None:
    arguments = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    if not arguments.tiny and not sd14_folder().is_dir():
        skip(f"SD 1.4's configuration files are missing: {sd14_folder()}; set LPOSEKIT_FIXTURES to the folder above")
    print(
        "ours against ours: cached latents against the VAE in the step (stage 1), and the model's savings against the"
    )
    print("same function written plainly (stage 2, a weak peer); the official code is the peer in `official_step`")
    print(versions("torch", "diffusers", "transformers"))
    cases = {"stage1": stage1, "stage2": stage2}
    print(json.dumps({name: run(arguments) for name, run in cases.items() if arguments.case in ("all", name)}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("all", "stage1", "stage2"), default="all")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="timed steps of each form, after one that is counted and one that warms up",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="the base `tiny` instead of SD 1.4's sizes: a smoke test")
    parser.add_argument("--batch", type=int, default=1, help="images (stage 1) or clips (stage 2)")
    parser.add_argument("--stage1-side", type=int, default=64, help="height and width of stage 1's latents")
    parser.add_argument("--stage2-side", type=int, default=32)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true", help="always on a GPU; on a CPU it gains nothing")
    arguments = parser.parse_args()
    arguments.channels_last |= arguments.device != "cpu"
    return arguments


def stage1(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cached against un-cached."""
    base = make_base(arguments)
    stage = make_stage(1, base, arguments)
    dtype, device, side = stage.unet.conv_in.weight.dtype, arguments.device, arguments.stage1_side
    for part in (base.vae, base.text_encoder):
        part.requires_grad_(False).to(device, dtype)
    images = torch.rand(arguments.batch, 1, 3, 8 * side, 8 * side, device=device) * 2 - 1
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
    uncached = Form("un-cached", lambda: step(lambda: encode_images(base.vae, images)))
    figures, counted = measure([cached, uncached], stage, arguments)
    return show("stage1", arguments, figures, counted, f"{arguments.batch} x {side} x {side} latents")


def stage2(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ours against the plain form."""
    base = make_base(arguments)
    width = base.unet.config["cross_attention_dim"]
    stage = make_stage(2, base, arguments)
    shape = (arguments.batch, 4, arguments.frames, arguments.stage2_side, arguments.stage2_side)
    latents, noise = torch.randn(shape, device=arguments.device), torch.randn(shape, device=arguments.device)
    timesteps = torch.full((arguments.batch,), 500, device=arguments.device)
    text = torch.randn(arguments.batch, 77, width, device=arguments.device)
    optimizer = torch.optim.AdamW(stage.trainable().values(), lr=3e-5, fused=True)

    def lay_out(memory_format: torch.memory_format, *, ours: bool) -> None:
        if arguments.channels_last:
            stage.to(memory_format=memory_format)  # pyright: ignore
        set_convolutions(stage, arguments, winograd=ours)

    def plain() -> None:
        noisy = stage.noisy_latents(latents, noise, timesteps)
        update((plain_forward(stage.unet, noisy, timesteps, text) - noise).square().mean(), optimizer)

    forms = [
        Form(
            "ours",
            lambda: update(stage(latents, noise, timesteps, text).mean(), optimizer),
            lambda: lay_out(torch.channels_last, ours=True),
        ),
        Form("plain", plain, lambda: lay_out(torch.contiguous_format, ours=False)),
    ]
    figures, counted = measure(forms if arguments.device == "cpu" else forms[:1], stage, arguments)
    side = arguments.stage2_side
    sizes = f"{arguments.batch} x {arguments.frames} frames x {side} x {side} latents"
    return show("stage2", arguments, figures, counted, sizes)


def make_base(arguments: argparse.Namespace) -> Base:
    return load_base("tiny") if arguments.tiny else random_base(sd14_folder())


def make_stage(number: StageNumber, base: Base, arguments: argparse.Namespace) -> StageModel:
    stage = build_stage(number, base.unet, base.scheduler, OFFICIAL)
    stage.to(arguments.device)
    if arguments.device != "cpu":
        lower_frozen_precision(stage, torch.bfloat16)
    if arguments.channels_last:
        stage.to(memory_format=torch.channels_last)  # pyright: ignore
    if arguments.compile:
        compile_blocks(stage.unet)
    set_convolutions(stage, arguments, winograd=True)
    return stage


def set_convolutions(stage: StageModel, arguments: argparse.Namespace, *, winograd: bool) -> None:
    """Winograd's where a run has them, or the direct ones, with no more memory than those take."""
    if winograd and arguments.device == "cpu" and not arguments.compile:
        use_winograd(stage.unet)
        for convolution in winograd_convolutions(stage):
            convolution.transform()  # in no timed step
    elif not winograd:
        use_direct(stage)


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    forms: list[Form], stage: StageModel, arguments: argparse.Namespace
) -> tuple[dict[str, Figures], dict[str, Counted]]:
    """Counts each form in two first steps, takes its peak in a third, then times them in turn."""
    counted: dict[str, Counted] = {}
    memory: dict[str, Memory] = {}
    for form in forms:
        form.prepare()
        counted[form.name] = count(form, stage)
        # counting ran nothing compiled, and compilers take memory, too
        for _ in range(2 if arguments.compile else 0):
            form.step()
        memory[form.name] = step_memory(form.step)
        logger.info("%s: counted and warm", form.name)
    timings = alternate({form.name: lambda form=form: timed_form(form) for form in forms}, arguments.rounds)
    return {name: Figures(timings[name], memory[name]) for name in timings}, counted


def timed_form(form: Form) -> Timing:
    form.prepare()
    return timed_here(form.step)


def count(form: Form, stage: StageModel) -> Counted:
    """Of the step as it is before compilation; its arithmetic with direct convolutions, as a run counts it."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        # what is saved lives until the backward pass, so no address comes up twice
        if not is_weight(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    # a block that runs first under a counter is one that dynamo never compiles after
    with torch.compiler.set_stance("force_eager"):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            form.step()
        with direct_form(stage), flop_counter() as counter:
            form.step()
    for part in winograd_convolutions(stage):
        if part.transformed_KOI is not None:
            saved.pop(part.transformed_KOI.untyped_storage().data_ptr(), None)
    return Counted(counter.get_total_flops() / 1e12, sum(saved.values()) / 2**30)


def is_weight(tensor: Tensor) -> bool:
    base = tensor if tensor._base is None else tensor._base
    return isinstance(base, torch.nn.Parameter)


def show(
    case: str,
    arguments: argparse.Namespace,
    figures: Mapping[str, Figures],
    counted: Mapping[str, Counted],
    sizes: str,
) -> dict[str, Any]:
    """Prints the case for people; returns it for programs."""
    base = "tiny" if arguments.tiny else "SD 1.4 widths, random weights"
    device = torch.cuda.get_device_name() if arguments.device != "cpu" else f"CPU, {arguments.threads} threads"
    dtype = torch.float32 if arguments.device == "cpu" else torch.bfloat16
    precision = str(dtype).removeprefix("torch.") + (", compiled" if arguments.compile else "")
    where = f"{base}; {sizes}; {precision}; {device}; {arguments.rounds} rounds"
    print(f"\n{case}: {where}", "saved GiB: kept for the backward pass. " + MEMORY_NOTE, "", sep="\n")
    rates = {name: Spread.of([counted[name].tflop / s for s in one.wall_s]) for name, one in figures.items()}
    rows = [
        [name, *one.cells(), counted[name].saved_gib, counted[name].tflop, rates[name]] for name, one in figures.items()
    ]
    print(table(["form", *HEADINGS, "saved GiB", "TFLOP", "TFLOP/s"], rows), end="\n\n")
    ratios = {}
    if len(figures) == 2:
        ours, other = figures
        ratios = {
            **compared(figures[other], figures[ours]),
            "saved memory": counted[other].saved_gib / counted[ours].saved_gib,
            "arithmetic": counted[other].tflop / counted[ours].tflop,
        }
        print(ratio_line(f"{other} / {ours}", ratios))
    peak_tflops = measure_peak_tflops(torch.device(arguments.device), dtype)
    for name, rate in rates.items():
        print(
            f"{name}: {rate.middle / peak_tflops:.2f} of the {peak_tflops:.3f} TFLOP/s of a large matrix product here"
        )
    return {
        "of": where,
        "forms": {name: {**one.as_json(), "tflop": round(counted[name].tflop, 3)} for name, one in figures.items()},
        "ratios": ratios_json(ratios),
    }


if __name__ == "__main__":
    main()
