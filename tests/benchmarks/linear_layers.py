"""`python -m tests.benchmarks.linear_layers`: the UNet's linear layers through MKL and through oneDNN, on this CPU.

Peer: plain torch, `nn.functional.linear`, which gives float32 matrix products on a CPU to MKL. Ours: the operator that
`trainer.model.linear.project` calls, oneDNN's. Sizes, how often each occurs and which gradients it needs are read off
one forward pass of each stage at SD 1.4's widths with the inputs of `train_step` (on torch's meta device, so without
memory or arithmetic). Each is timed forward and backward, MKL and oneDNN in turn.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, skip, table, timed_here, versions
from tests.benchmarks.run import machine
from tests.support.fixtures import fixtures_root
from trainer.model import linear
from trainer.model.base import read_scheduler
from trainer.model.switches import OFFICIAL
from trainer.stages import StageNumber, build_stage

INPUTS: dict[StageNumber, tuple[int, int]] = {1: (1, 64), 2: (4, 32)}
"""Frames and side of the latents of each stage in `train_step`."""
MIN_MULTIPLICATIONS = 2**29
"""A pass repeats a call until it has this many: some 10 ms, enough for the clocks."""
Linear = Callable[[torch.nn.Linear, Tensor], Tensor]


@dataclass(frozen=True, order=True)
class Layer:
    """One linear layer on its input, and which gradients its step needs."""

    rows: int
    width_in: int
    width_out: int
    bias: bool
    x_grad: bool
    weight_grad: bool
    bias_grad: bool

    @property
    def multiplications(self) -> int:
        """Of the forward pass; each gradient takes as many."""
        return self.rows * self.width_in * self.width_out

    @property
    def size(self) -> str:
        return f"{self.rows} x {self.width_in} -> {self.width_out}"

    @property
    def large(self) -> bool:
        """Whether `project` gives it to oneDNN; MKL keeps the others."""
        return self.multiplications >= linear.MIN_PRODUCTS


class _Watch(TorchFunctionMode):
    """Counts the calls of `functional.linear`, where `project` ends on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Layer] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            x, weight, bias = (*args, None)[:3]
            grads = [tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)]
            self.calls[Layer(x.shape[:-1].numel(), *reversed(weight.shape), bias is not None, *grads)] += 1
        return func(*args, **(kwargs or {}))


def calls_of(number: StageNumber, folder: Path) -> Counter[Layer]:
    """The linear layers of one step; a 1x1 convolution that `project` computes as one counts as one."""
    frames, side = INPUTS[number]
    scheduler = read_scheduler(folder / "scheduler")
    with torch.device("meta"), _Watch() as watch:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))  # pyright: ignore
        stage = build_stage(number, unet, scheduler, OFFICIAL)
        latents = torch.randn(1, 4, frames, side, side)
        pose = torch.rand(1, frames, 3, 8 * side, 8 * side) if number == 1 else None
        text = torch.randn(1, 77, stage.unet.config["cross_attention_dim"])
        stage(latents, latents, torch.full((1,), 500), text, pose)
    return watch.calls


def through_mkl(layer: torch.nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.weight, layer.bias)


FORMS: dict[str, Linear] = {"MKL": through_mkl, "oneDNN": linear.project}


def passes(layer: Layer) -> dict[str, Callable[[], Timing]]:
    """For each form: the time of one call, forward and backward, after one that warms up."""
    module = torch.nn.Linear(layer.width_in, layer.width_out, bias=layer.bias)
    module.weight.requires_grad_(layer.weight_grad)
    if layer.bias:
        module.bias.requires_grad_(layer.bias_grad)
    x = torch.randn(layer.rows, layer.width_in, requires_grad=layer.x_grad)
    grad = torch.randn(layer.rows, layer.width_out)
    learned = [tensor for tensor in (x, *module.parameters()) if tensor.requires_grad]
    repeats = max(1, MIN_MULTIPLICATIONS // layer.multiplications)

    def once(form: Linear) -> None:
        out = form(module, x)
        if learned:
            torch.autograd.grad(out, learned, grad)

    def pass_of(form: Linear) -> Timing:
        spent = timed_here(lambda: [once(form) for _ in range(repeats)])
        return Timing(spent.wall_s / repeats, spent.cpu_s / repeats)

    for form in FORMS.values():
        once(form)
    return {name: lambda form=form: pass_of(form) for name, form in FORMS.items()}


Measured = dict[Layer, dict[str, list[Timing]]]


def weighted(measured: Measured, calls: Counter[Layer], form: str, clock: str) -> list[float]:
    """Seconds of each round, every layer times how often it occurs."""
    rounds = zip(*(measured[layer][form] for layer in sorted(calls)), strict=True)
    counts = [calls[layer] for layer in sorted(calls)]
    return [sum(n * getattr(spent, clock) for n, spent in zip(counts, row, strict=True)) for row in rounds]


def sizes(calls: Counter[Layer]) -> Iterator[tuple[str, Counter[Layer]]]:
    """The layers of each size together, whatever gradients they need; largest input first."""
    names = dict.fromkeys(layer.size for layer in sorted(calls, reverse=True))
    for name in names:
        yield name, Counter({layer: count for layer, count in calls.items() if layer.size == name})


def compared(measured: Measured, calls: Counter[Layer], scale: float) -> list[Any]:
    """Milliseconds of both forms by both clocks, and the ratios, as the cells of a table's row."""
    cells: list[Any] = []
    for clock in ("wall_s", "cpu_s"):
        mkl, onednn = (weighted(measured, calls, form, clock) for form in FORMS)
        cells += [Spread.of(mkl, scale), Spread.of(onednn, scale), ratio(mkl, onednn)]
    return cells


COLUMNS = ["MKL wall ms", "oneDNN wall ms", "wall: MKL / oneDNN", "MKL CPU ms", "oneDNN CPU ms", "CPU: MKL / oneDNN"]


def show(measured: Measured, calls: dict[StageNumber, Counter[Layer]], threads: int) -> dict[str, Any]:
    """The tables of one thread count; returns the totals' ratios."""
    print(f"\n{threads} thread(s), one call, forward and backward (mean over the calls of a size in both steps)")
    rows = []
    for name, layers in sizes(calls[1] + calls[2]):
        each = [sum(calls[n][layer] for layer in layers) for n in INPUTS]
        rows.append([name, *each, *compared(measured, layers, 1e3 / sum(each))])
    print(table(["rows x in -> out", "calls, stage 1", "calls, stage 2", *COLUMNS], rows))
    print(f"\n{threads} thread(s), all of them in one step")
    totals = {n: compared(measured, calls[n], 1e3) for n in INPUTS}
    print(table(["step", *COLUMNS], [[f"stage {n}", *cells] for n, cells in totals.items()]), flush=True)
    return {f"stage{n}": {"wall": cells[2].middle, "cpu": cells[5].middle} for n, cells in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights"
    if not folder.is_dir():
        skip("the configuration files of Stable Diffusion 1.4 are not among the fixtures")
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        skip("this build of torch has no operator for oneDNN's linear layer")
    every = {number: calls_of(number, folder) for number in INPUTS}
    calls = {n: Counter({layer: count for layer, count in found.items() if layer.large}) for n, found in every.items()}
    print("Linear layers of one training step, float32: plain torch (MKL) against trainer.model.linear (oneDNN).")
    print(f"This holds on: {machine()}")
    print(versions("torch", "diffusers"))
    print(f"{mkl_version()}; torch's kernels: {torch.backends.cpu.get_cpu_capability()}")
    for n, found in every.items():
        small = found.total() - calls[n].total()
        print(f"stage {n}: {found.total()} calls; {small} are so small that MKL keeps them, and are left out")
    results = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        measured = {layer: alternate(passes(layer), options.rounds) for layer in sorted(calls[1] | calls[2])}
        results[f"threads{threads}"] = show(measured, calls, threads)
    print(json.dumps({"benchmark": "linear_layers", "mkl_over_onednn": results}))


def mkl_version() -> str:
    lines = torch.__config__.show().splitlines()
    return next((line.strip(" -") for line in lines if "Math Kernel Library Version" in line), "absent")


if __name__ == "__main__":
    main()
