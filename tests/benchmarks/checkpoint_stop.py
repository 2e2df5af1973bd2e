"""For how long a checkpoint stops the training loop, at Stable Diffusion 1.4's widths.

    python -m tests.benchmarks.checkpoint_stop

Steps are the trainer's own, of stage 1 with random weights, cached latents and a moving average: the checkpoint holds
the pose encoder (77 M), AdamW's moments and the average. Stop: the time that the loop spends in `CheckpointWriter.save`
and in waiting before the next update. Write: until the checkpoint is on disk with its hashes. Beside each checkpoint
runs one step, and after it one without a checkpoint: what the writer takes from a step on the same cores. Wait: what
the same would take in the loop itself (`save_checkpoint` and the removal that hashes what is kept).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.official_sides import sd14_folder
from tests.benchmarks.rounds import skip, table, versions
from trainer.data.batch import Batch
from trainer.model.base import random_base
from trainer.run.background import CheckpointWriter
from trainer.run.build import build, prepare_torch
from trainer.run.checkpoint import Checkpoint, prune, save_checkpoint
from trainer.run.distributed import World
from trainer.run.train_module import TrainModule
from trainer.settings import ComputeSettings, EmaSettings, TrainSettings


def random_batch(side: int) -> Batch:
    """One image; `side`: of its latents."""
    return Batch(
        keys=["0"],
        captions=["a person dancing"],
        timesteps_B=torch.tensor([500]),
        noise_BCFHW=torch.randn(1, 4, 1, side, side),
        latent_noise_BFCHW=torch.randn(1, 1, 4, side, side),
        skeleton_BFHWC=torch.randint(0, 256, (1, 1, 8 * side, 8 * side, 3), dtype=torch.uint8),
        moments_BFCHW=torch.randn(1, 1, 8, side, side).half(),
    )


def trained_module(threads: int) -> TrainModule:
    settings = TrainSettings(compute=ComputeSettings(device="cpu", threads=threads), ema=EmaSettings(decay=0.999))
    prepare_torch(settings)
    return build(settings, random_base(sd14_folder()), None, World(torch.device("cpu")))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Watched:
    """A writer whose stops are added up, and whose end is noted while the loop goes on."""

    def __init__(self, writer: CheckpointWriter, module: TrainModule) -> None:
        self.writer, self.module, self.stop_s, self.write_s = writer, module, 0.0, 0.0
        module.before_change = self.settle

    def settle(self) -> None:
        self.stop_s += seconds(self.writer.settle)

    def save(self, step: int) -> None:
        started = time.perf_counter()
        self.stop_s = seconds(lambda: self.writer.save(Checkpoint(step, *self.module.state())))

        def note_the_end() -> None:
            while self.writer.busy:
                time.sleep(0.005)
            self.write_s = time.perf_counter() - started

        self.watcher = threading.Thread(target=note_the_end)
        self.watcher.start()


def measure(module: TrainModule, batch: Batch, watched: Watched, step: int) -> list[float]:
    """Stop, write, the step beside the writer, and one alone."""
    watched.save(step)
    beside_s = seconds(lambda: module.step(2 * step, [batch]))
    watched.watcher.join()
    return [watched.stop_s, watched.write_s, beside_s, seconds(lambda: module.step(2 * step + 1, [batch]))]


def main() -> None:
    """Print a row for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=32, help="of the latents: a small step leaves the least time")
    asked = parser.parse_args()
    if not sd14_folder().is_dir():
        skip("the configuration files of Stable Diffusion 1.4 are not among the fixtures")
    module, batch = trained_module(asked.threads), random_batch(asked.side)
    for step in (1, 2):
        module.step(step, [batch])
    size = sum(value.nbytes for part in module.state()[0].values() for value in part.values())
    print(versions("torch", "safetensors"))
    print(f"{size / 2**30:.2f} GiB a checkpoint; steps of one image, {asked.side} x {asked.side} latents, float32;")
    print(f"{asked.threads} threads, which the writer shares\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        with CheckpointWriter(Path(folder), 3, lambda step: False) as writer:
            watched = Watched(writer, module)
            for step in range(1, asked.checkpoints + 1):
                stop_s, write_s, *steps_s = measure(module, batch, watched, step)
                rows.append([step, f"{stop_s:.4f}", write_s, f"{stop_s / write_s:.2%}", *steps_s])
        print(table(["checkpoint", "stop s", "write s", "stop / write", "step beside it s", "step alone s"], rows))
        shares = [float(row[1]) / row[2] for row in rows[1:]]
        print(f"\nmedian behind the first: {statistics.median(shares):.2%}")
        tensors = module.state()[0]
        spent = seconds(lambda: save_checkpoint(Path(folder), Checkpoint(100, tensors, {})))
        spent += seconds(lambda: prune(Path(folder), 3, lambda step: False))
        print(f"in the loop, with the removal that hashes: {spent:.2f} s")


if __name__ == "__main__":
    main()
