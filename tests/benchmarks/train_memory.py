"""What a training step takes of memory: the estimate of a dry run against real steps, at Stable Diffusion 1.4's widths.

    python -m tests.benchmarks.train_memory

A base of the real configuration with random weights (4 GB) is written to a temporary folder. Each case is a run of its
own in a process of its own, in float32 on the CPU. Saved bytes: storages that torch's hooks for saved tensors see in
a forward pass, weights aside. Peak: what the process holds at its most during the second step, less what it held
before the run. Then the same estimate for a GPU in bf16 with the defaults of each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from tests.support.fixtures import fixtures_root
from tests.support.train_data import write_dataset
from trainer.cache_latents import run as cache_latents
from trainer.model.base import random_base
from trainer.model.winograd import winograd_convolutions
from trainer.run.outcome import DryRunReport
from trainer.run.train_module import TrainModule
from trainer.settings import (
    CacheLatentsSettings,
    ClipSamplingSettings,
    ComputeSettings,
    FramingSettings,
    LoaderSettings,
    OptimSettings,
    TrainSettings,
    WatchSettings,
)
from trainer.stages import StageModel
from trainer.train import run

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Case:
    """One run. `side`: of the images, in pixels."""

    stage: int
    side: int
    frames: int
    micro_batch: int
    cached: bool
    checkpointed: bool = False

    def settings(self, root: Path, output: Path) -> TrainSettings:
        return TrainSettings(
            stage=self.stage,  # pyright: ignore
            data=(root / ("images" if self.stage == 1 else "clips"),),
            output=output,
            base=str(root / "base"),
            pose_encoder="" if self.stage == 1 else "none",
            max_steps=2,
            batch_size=self.micro_batch,
            image=FramingSettings(size=self.side),
            clip=ClipSamplingSettings(frames=self.frames, stride=1),
            loader=LoaderSettings(workers=0, latents=self.cached),
            optim=OptimSettings(micro_batch=self.micro_batch),
            compute=ComputeSettings(device="cpu", threads=2, gradient_checkpointing=self.checkpointed),
            watch=WatchSettings(probe_every=0, sample_every=0, tensorboard=False, mfu=False),
        )


CASES = [
    Case(1, 512, 1, 1, cached=True),
    Case(1, 512, 1, 2, cached=True),
    Case(1, 512, 1, 1, cached=False),
    Case(1, 512, 1, 2, cached=False),
    Case(1, 512, 1, 2, cached=True, checkpointed=True),
    Case(2, 256, 4, 1, cached=True),
    Case(2, 256, 4, 1, cached=False),
]


def write_inputs(root: Path) -> None:
    """The base, a dataset of each kind, and their caches."""
    base = random_base(fixtures_root() / "weights" / "stable-diffusion-v1-4-noweights")
    for name in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
        getattr(base, name).save_pretrained(root / "base" / name)
    del base
    write_dataset(root / "images", [4])
    write_dataset(root / "clips", [2], "video")
    for name, size in (("images", 512), ("clips", 256)):
        cache_latents.run(
            CacheLatentsSettings(
                data=root / name, base=str(root / "base"), size=size, batch_size=1, device="cpu", threads=2
            )
        )


def measure(case: Case, root: Path) -> dict[str, float]:
    """Bytes of the second step of a run, and what a dry run says of them; in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = case.settings(root, Path(folder) / "run")
        report = run(settings, dry_run=True)
        assert isinstance(report, DryRunReport)
        found: dict[str, float] = {"estimated_saved": report.memory.kept, "estimated_peak": report.memory.peak}
        before = psutil.Process().memory_info().rss
        step, forward = TrainModule.step, StageModel.forward

        def watched_step(self: TrainModule, number: int, *args: object) -> object:
            if number == 2:
                Path("/proc/self/clear_refs").write_text("5")
            outcome = step(self, number, *args)  # pyright: ignore
            found["peak"] = _high_water() - before
            return outcome

        def watched_forward(self: StageModel, *args: torch.Tensor) -> torch.Tensor:
            saved: dict[int, int] = {}

            def note(tensor: torch.Tensor) -> torch.Tensor:
                owner = tensor if tensor._base is None else tensor._base
                if not isinstance(owner, torch.nn.Parameter):
                    saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            if "saved" in found:
                return forward(self, *args)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
                losses = forward(self, *args)
            for part in winograd_convolutions(self):
                if part.transformed_KOI is not None:
                    saved.pop(part.transformed_KOI.untyped_storage().data_ptr(), None)
            found["saved"] = sum(saved.values())
            return losses

        TrainModule.step, StageModel.forward = watched_step, watched_forward  # pyright: ignore
        # without the last checkpoint: its copy is no part of a step
        run(replace(settings, checkpoint=replace(settings.checkpoint, every_steps=10**6)))
    return found


def _high_water() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, help="a folder that keeps base and data")
    parser.add_argument("--case", type=int, help="measure this one alone, here")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    if asked.case is not None:
        print(json.dumps(measure(CASES[asked.case], asked.root)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = asked.root or Path(folder)
        if not (root / "base" / "scheduler").is_dir():
            write_inputs(root)
        print("| stage | side | frames | micro-batch | cached | saved GiB | estimate | peak GiB | estimate |")
        print("|---|---|---|---|---|---|---|---|---|")
        for number, case in enumerate(CASES):
            if case.stage not in asked.stages:
                continue
            command = [sys.executable, "-m", "tests.benchmarks.train_memory", "--root", str(root)]
            # large tensors go back to the system at once, so what is held is what is used
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
            out = subprocess.run(
                [*command, "--case", str(number)], env=environment, check=True, capture_output=True, text=True
            ).stdout
            got = json.loads(out.splitlines()[-1])
            print(_row(case, got), flush=True)


def _row(case: Case, got: dict[str, float]) -> str:
    cells = [case.stage, case.side, case.frames, case.micro_batch, "yes" if case.cached else "no"]
    if case.checkpointed:
        cells[3] = f"{case.micro_batch}, checkpointed"
    for name in ("saved", "peak"):
        ratio = got[f"estimated_{name}"] / got[name] - 1
        cells += [f"{got[name] / GIB:.2f}", f"{got[f'estimated_{name}'] / GIB:.2f} ({ratio:+.1%})"]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
