"""For how long a checkpoint stops the training loop, at Stable Diffusion 1.4's widths.

    python -m tests.benchmarks.checkpoint_stop

The tensors are those of stage 1: the pose encoder (77 M), AdamW's moments and a moving average. Stop: the time until
`CheckpointWriter.save` returns. Write: until the checkpoint is on disk with its hashes, the loop going on meanwhile.
Wait: what the same would take in the loop itself (`save_checkpoint` and the removal that hashes what is kept).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from trainer.model.pose_encoder import OFFICIAL_WIDTHS, build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.run.background import CheckpointWriter
from trainer.run.checkpoint import EMA, OPTIMIZER, WEIGHTS, Checkpoint, prune, save_checkpoint


def main() -> None:
    """Print a row for each checkpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    weights = {name: value.detach() for name, value in build_pose_encoder(OFFICIAL_WIDTHS, OFFICIAL).named_parameters()}
    moments = {f"{name}|{part}": torch.rand_like(value) for name, value in weights.items() for part in "ab"}
    average = {name: value.clone() for name, value in weights.items()}
    tensors = {WEIGHTS: weights, OPTIMIZER: moments, EMA: average}
    size = sum(value.nbytes for part in tensors.values() for value in part.values())
    print(f"{size / 2**30:.2f} GiB a checkpoint\n\n| checkpoint | stop s | write s | stop / write |\n|---|---|---|---|")
    shares = []
    with tempfile.TemporaryDirectory() as folder, CheckpointWriter(Path(folder), 3, lambda step: False) as writer:
        for step in range(1, asked.checkpoints + 1):
            start = time.perf_counter()
            writer.save(Checkpoint(step, tensors, {}))
            stop = time.perf_counter() - start
            writer.wait()
            write = time.perf_counter() - start
            shares.append(stop / write)
            print(f"| {step} | {stop:.3f} | {write:.2f} | {stop / write:.1%} |", flush=True)
        print(f"\nmedian behind the first: {statistics.median(shares[1:]):.1%}")
        start = time.perf_counter()
        save_checkpoint(Path(folder), Checkpoint(100, tensors, {}))
        prune(Path(folder), 3, lambda step: False)
        print(f"in the loop, with the removal that hashes: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
