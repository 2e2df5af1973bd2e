"""How many frames a second `lposekit cache-latents` encodes with one worker and with two, one torch thread each.

    python -m tests.benchmarks.cache_latents [--size 256] [--samples 4] [--shards 8] [--rounds 3]

The dataset is made of drawn images; the VAE has the layout and widths of Stable Diffusion's, with random weights. Each
round is the command as a user runs it, in a fresh copy of the folder; the clock runs from the first shard's start to
the last one's end, so that the start of Ray and of the workers does not count. What the command said beforehand is
printed beside what it took.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lposekit.shards.layout import DatasetLayout
from tests.support.fixtures import REPOSITORY
from tests.support.train_data import write_dataset

WORKERS = (1, 2)


def write_base(folder: Path) -> Path:
    """A base that has Stable Diffusion's VAE, random, and nothing else."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=(128, 256, 512, 512),  # pyright: ignore[reportArgumentType]
        layers_per_block=2,
        latent_channels=4,
    )
    vae.save_pretrained(folder / "vae")
    return folder


def frames_per_s(data: Path, base: Path, size: int, workers: int) -> tuple[float, str]:
    """Frames a second while shards were encoded, and what the command said that it would take."""
    flags = ["--base", str(base), "--size", str(size), "--batch-size", "2", "--workers", str(workers), "--json"]
    command = [sys.executable, "-m", "lposekit.cli", "cache-latents", str(data), *flags, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = next(line for line in done.stderr.splitlines() if "measured here" in line)
    report = json.loads(done.stdout)
    layout = DatasetLayout(Path(report["output"]))
    stats = [layout.read_stats(shard) for shard in layout.committed_shards()]
    started, ended = min(each.start_time or 0.0 for each in stats), max(each.end_time or 0.0 for each in stats)
    return report["samples"] / (ended - started), told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = write_base(folder / "base")
        sizes = [options.samples] * options.shards
        data = write_dataset(folder / "data", sizes, height=options.size * 5 // 4, width=options.size)
        rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
        for _ in range(options.rounds):
            for workers in WORKERS:
                copy = Path(shutil.copytree(data, folder / f"{workers}"))
                rate, told = frames_per_s(copy, base, options.size, workers)
                rates[workers].append(rate)
                seconds = sum(sizes) / rate
                sys.stdout.write(f"{workers} workers: {rate:.2f} frames/s, {seconds:.0f} s; told: {told}\n")
                sys.stdout.flush()
                shutil.rmtree(copy)
        medians = [statistics.median(rates[workers]) for workers in WORKERS]
        sys.stdout.write(
            f"median: {medians[0]:.2f} and {medians[1]:.2f} frames/s, {medians[1] / medians[0]:.2f} times\n"
        )


if __name__ == "__main__":
    main()
