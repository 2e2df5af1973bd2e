"""Training runs of seconds for the trainer's tests: a base far smaller than `tiny`, and runs in processes of their own.

Children come from `tests.support.children`, so each starts at once.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shutil
import socket
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lposekit.errors import LposekitError
from tests.support.children import children
from tests.support.train_data import write_dataset
from trainer.run.metrics import read_metrics
from trainer.settings import (
    CheckpointSettings,
    ClipSamplingSettings,
    ComputeSettings,
    FramingSettings,
    LoaderSettings,
    TrainSettings,
    WatchSettings,
)

CHILD_TIMEOUT_S = 120.0


@functools.cache
def scratch() -> Path:
    """A folder of this test process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="lposekit-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def small_base() -> Path:
    """A Stable-Diffusion-shaped base in diffusers layout that makes tens of steps a second."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from trainer.model.tiny import TEXT_WIDTH, tiny_scheduler, tiny_text_encoder, tiny_tokenizer

    folder = scratch() / "base"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        tokenizer.save_pretrained(folder / "tokenizer")
        tiny_text_encoder(tokenizer).save_pretrained(folder / "text_encoder")
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4, 4, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        ).save_pretrained(folder / "vae")
        UNet2DConditionModel(
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
        ).save_pretrained(folder / "unet")
        tiny_scheduler().save_pretrained(folder / "scheduler")
    return folder


@functools.cache
def images() -> Path:
    """A dataset of 11 images in 3 shards, one of them empty."""
    return write_dataset(scratch() / "images", [6, 0, 5])


@functools.cache
def clips() -> Path:
    """A dataset of 7 clips in 2 shards."""
    return write_dataset(scratch() / "clips", [3, 4], "video")


def settings_for(stage: int, output: Path, **changes: Any) -> TrainSettings:
    """Settings of a small run: one thread, deterministic, a checkpoint every 4 steps, keys logged."""
    return dataclasses.replace(
        TrainSettings(
            stage=stage,  # pyright: ignore
            data=(images() if stage == 1 else clips(),),
            output=output,
            base=str(small_base()),
            pose_encoder="" if stage == 1 else "none",
            max_steps=8,
            batch_size=4,
            image=FramingSettings(size=64, flip=0.5 if stage == 1 else 0.0),
            clip=ClipSamplingSettings(frames=2, stride=3),
            loader=LoaderSettings(workers=0, block_samples=4),
            compute=ComputeSettings(device="cpu", threads=1, deterministic=True, timeout_s=30),
            checkpoint=CheckpointSettings(every_steps=4, keep=2),
            watch=WatchSettings(keys=True, probe_every=0, sample_every=0, tensorboard=False, mfu=False),
        ),
        **changes,
    )


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended. ``exit_code``: -9 for SIGKILL; else what the command would have exited with."""

    exit_code: int
    message: str
    report: Mapping[str, Any]


@dataclass(slots=True)
class Child:
    """A training process under way."""

    process: Any
    results: Connection

    def join(self, timeout_s: float = CHILD_TIMEOUT_S) -> ChildResult:
        """Waits for its end; a child that hangs is killed, and fails the test."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"the training process hung for {timeout_s} s")
        code = self.process.exitcode
        try:
            sent = self.results.recv() if self.results.poll() else None
        except EOFError:
            sent = None
        if sent is None:
            return ChildResult(code, "", {})
        return ChildResult(*sent)


def start(settings: TrainSettings, environment: Mapping[str, str] | None = None) -> Child:
    """Train in a process of its own, the first of a process group, under these environment variables."""
    receiver, sender = children().Pipe(duplex=False)
    process = children().Process(target=_train, args=(settings, dict(environment or {}), sender))
    process.start()
    sender.close()
    return Child(process, receiver)


def train_in_child(settings: TrainSettings, environment: Mapping[str, str] | None = None) -> ChildResult:
    return start(settings, environment).join()


def train_ranks(settings: TrainSettings, world: int) -> list[ChildResult]:
    """Train with ``world`` processes, set up as torchrun does."""
    return [child.join() for child in start_ranks(settings, world)]


def start_ranks(settings: TrainSettings, world: int, extra: Sequence[Mapping[str, str]] | None = None) -> list[Child]:
    """The processes of `train_ranks`, under way. ``extra``: further environment variables of each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(settings, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(extra[rank] if extra else {})})
        for rank in range(world)
    ]


def _train(settings: TrainSettings, environment: Mapping[str, str], results: Connection) -> None:
    os.setpgrp()
    os.environ.update(environment)
    from trainer.train import run

    try:
        report = run(settings)
        results.send((report.exit_code, "", report.as_json()))
    except LposekitError as error:
        results.send((error.exit_code, str(error), {}))
    except BaseException:  # noqa: BLE001 - the test must see what happened in the child
        results.send((-1, traceback.format_exc(), {}))


def make_older(run_dir: Path, step: int) -> None:
    """Takes out of a run folder with one checkpoint what older versions did not write: settings, micro-batch and
    attention kernels in the checkpoint, and the settings that came later."""
    from trainer.run.checkpoint import load_checkpoint, save_checkpoint, step_folder

    later = ("clip.short", "clip.start", "images", "loader.held_out", "loader.image_share", "optim.micro_batch", "init")
    later += ("watch.wandb", "watch.validation_samples", "compute.winograd")
    old = load_checkpoint(step_folder(run_dir, step))
    unknown = ("schema", "step", "files", "settings", "micro_batch", "attention")
    facts = {name: value for name, value in old.facts.items() if name not in unknown}
    facts["fixed"] = {name: value for name, value in facts["fixed"].items() if name != "held_out"}
    save_checkpoint(run_dir, type(old)(step, old.tensors, facts))
    lines = (run_dir / "settings.toml").read_text().splitlines()
    (run_dir / "settings.toml").write_text("\n".join(line for line in lines if not line.startswith(later)) + "\n")


def losses(run_dir: Path) -> list[tuple[int, str]]:
    """(step, loss as a hexadecimal float) of every logged step."""
    return [(line["step"], line["loss_hex"]) for line in read_metrics(run_dir / "metrics.jsonl") if "loss_hex" in line]


def keys(run_dir: Path) -> list[tuple[int, list[str]]]:
    """(step, keys of its samples) of every step."""
    return [(line["step"], line["keys"]) for line in read_metrics(run_dir / "keys.jsonl")]
