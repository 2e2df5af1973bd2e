"""Contract of a run's memory: what it needs is told before the first step, with settings that fit; the micro-batch
changes memory and nothing else, and a run keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from lposekit.errors import LposekitError, UsageError
from tests.support.fixtures import fixture_path
from tests.support.train_runs import images, losses, make_older, settings_for, small_base
from tests.trainer.model.small import small_scheduler
from trainer.model import base as base_module
from trainer.model.base import decode_latents, encode_images, load_base
from trainer.model.switches import OFFICIAL
from trainer.model.winograd import use_winograd
from trainer.run.checkpoint import read_facts, step_folder
from trainer.run.cost import pass_bytes
from trainer.run.distributed import World
from trainer.run.memory import GIB, ROOM, advice, memory_need
from trainer.run.outcome import DryRunReport
from trainer.run.rehearsal import find_micro_batch
from trainer.settings import ComputeSettings, LoaderSettings, OptimSettings, TrainSettings, default_micro_batch
from trainer.stages import StageModel, StageNumber, build_stage
from trainer.train import build_run, run

CPU = torch.device("cpu")


def with_micro(micro: int) -> OptimSettings:
    return OptimSettings(micro_batch=micro)


def limited(gib: float) -> ComputeSettings:
    return ComputeSettings(device="cpu", threads=1, deterministic=True, memory_gib=gib)


def dry(settings: TrainSettings) -> DryRunReport:
    report = run(settings, dry_run=True)
    assert isinstance(report, DryRunReport)
    return report


def stable_diffusion(number: StageNumber, micro: int, frames: int, side: int) -> tuple[StageModel, tuple[Any, ...]]:
    """A stage at the sizes of Stable Diffusion 1.4 and its inputs, all without contents. `side`: of the latents."""
    folder = fixture_path("weights/stable-diffusion-v1-4-noweights")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))  # pyright: ignore
        stage = build_stage(number, unet, small_scheduler(), OFFICIAL)  # pyright: ignore
        latents = torch.empty(micro, 4, frames, side, side)
        pose = torch.empty(micro, 1, 3, 8 * side, 8 * side) if number == 1 else None
        return stage, (latents, latents, torch.empty(micro, dtype=torch.int64), torch.empty(micro, 77, 768), pose)


@pytest.mark.parametrize("number", [1, 2])
def test_the_default_micro_batch_of_each_stage_fits_80_gb(number: StageNumber):
    settings = TrainSettings(stage=number)
    micro = default_micro_batch(settings, 64)
    assert micro == {1: 32, 2: 4}[number]
    stage, inputs = stable_diffusion(number, micro, {1: 1, 2: settings.clip.frames}[number], 64)
    need = pass_bytes(stage, inputs, frozen=torch.bfloat16, adds_up=True)
    # all weights as float32, and AdamW's moments, are less than 6 GiB
    assert need.peak + 6 * GIB < ROOM * 80 * GIB
    assert need.peak > need.kept > 15 * GIB


@pytest.mark.more  # `test_cost.py` compares saved bytes with torch's own at small sizes
@pytest.mark.parametrize(
    ("number", "micro", "frames", "side", "winograd", "saved_gib"),
    [
        (1, 1, 1, 64, False, 1.13),
        (1, 2, 1, 64, False, 2.26),
        (2, 1, 4, 32, False, 1.85),
        (1, 1, 1, 64, True, 1.01),
        (2, 1, 4, 32, True, 1.81),
    ],
)
def test_what_a_pass_keeps_at_the_sizes_of_stable_diffusion_is_what_a_real_one_kept(
    number: StageNumber, micro: int, frames: int, side: int, winograd: bool, saved_gib: float
):
    # measured by the benchmarks train_memory and train_step; the same call gives the estimate of a dry run
    stage, inputs = stable_diffusion(number, micro, frames, side)
    if winograd:
        use_winograd(stage.unet)
    assert pass_bytes(stage, inputs).kept / GIB == pytest.approx(saved_gib, rel=0.06)


def test_gradients_of_an_earlier_pass_lie_beside_those_of_the_next():
    # Mutation tried: none are there whatever is said -> red
    stage, inputs = stable_diffusion(2, 1, 2, 8)
    one, two = (pass_bytes(stage, inputs, adds_up=adds_up) for adds_up in (False, True))
    trained = 4 * sum(parameter.numel() for parameter in stage.trainable().values())
    assert one.gradients == pytest.approx(trained, rel=0.01)
    assert two.gradients == pytest.approx(trained, rel=0.01)
    assert one.peak < one.kept + trained < two.peak <= one.peak + trained


def test_a_run_that_needs_more_than_it_may_take_is_refused_with_settings_that_fit(tmp_path: Path):
    # Mutations tried: no comparison; advice that names the micro-batch of before -> red each
    settings = settings_for(1, tmp_path / "run", max_steps=1)
    prepared = build_run(settings, World(CPU))
    whole, part = (
        memory_need(settings, prepared.train_module, prepared.data, micro_batch=micro).peak for micro in (4, 1)
    )
    assert part < whole
    limit = (whole + 2 * part) / 3 / GIB
    tight = dataclasses.replace(settings, compute=limited(limit))
    with pytest.raises(
        UsageError, match=r"needs about .* GiB on cpu(.|\n)*fits with --optim.micro-batch 1 "
    ) as refused:
        run(tight)
    assert not (tmp_path / "run").exists()
    assert "--loader.latents" in str(refused.value)
    run(dataclasses.replace(tight, optim=with_micro(1)))
    assert "not even with --compute.gradient-checkpointing" in advice(None)


@pytest.mark.more
def test_a_dry_run_names_settings_for_the_usual_gpus(tmp_path: Path):
    report = dry(settings_for(2, tmp_path / "run"))
    lines = [line for line in report.summary_lines() if line.startswith("a GPU of ")]
    assert [line.split()[3] for line in lines] == ["80", "24", "16"]
    assert all("--optim.micro-batch 4 (about 0.0 GiB)" in line for line in lines)
    facts = report.as_json()
    assert facts["saved_bytes"] < facts["peak_bytes"]  # pyright: ignore


def test_a_device_that_is_out_of_memory_after_all_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Mutation tried: the error let through
    monkeypatch.setattr(StageModel, "forward", _refusing(lambda micro: True))
    settings = settings_for(1, tmp_path / "run", optim=with_micro(2))
    words = r"out of memory \(CUDA out of memory.\). --optim.micro-batch is 2: lower it, add --compute.gradient-check"
    with pytest.raises(LposekitError, match=words):
        run(settings)


def test_the_micro_batch_is_not_measured_on_a_cpu(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--optim.micro-batch auto measures on a GPU .* on cpu: give a number"):
        run(settings_for(1, tmp_path / "run", optim=OptimSettings(micro_batch="auto")))


class SeveralWorlds(World):
    """This process among others that found other micro-batches."""

    def gather(self, value: Any) -> list[Any]:
        return [value, 1, 4]


def test_the_largest_micro_batch_that_fits_is_found_and_nothing_else_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Mutations tried: gradients left behind; the first candidate taken; this process's own size taken -> red each
    prepared = build_run(settings_for(1, tmp_path / "run"), World(CPU))
    module = prepared.train_module
    before = {name: value.detach().clone() for name, value in module.trained.items()}
    state = torch.get_rng_state()
    monkeypatch.setattr(StageModel, "forward", _refusing(lambda micro: micro > 2))
    assert find_micro_batch(module, prepared.data, World(CPU)) == 2
    assert find_micro_batch(module, prepared.data, SeveralWorlds(CPU)) == 1
    assert all(torch.equal(value, before[name]) for name, value in module.trained.items())
    assert all(value.grad is None for value in module.trained.values())
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(StageModel, "forward", _refusing(lambda micro: True))
    with pytest.raises(LposekitError, match="rank 0: not even one sample fits"):
        find_micro_batch(module, prepared.data, World(CPU))


FORWARD = StageModel.forward


def _refusing(refused: Callable[[int], bool]) -> Callable[..., torch.Tensor]:
    def forward(self: StageModel, latents: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if refused(len(latents)):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return FORWARD(self, latents, *rest)

    return forward


def test_a_run_keeps_its_batch_and_its_micro_batch(tmp_path: Path):
    # Mutation tried: the default taken on resume -> red
    output = tmp_path / "run"
    run(settings_for(1, output, max_steps=1, optim=with_micro(2), batch_size=6))
    run(settings_for(1, output, max_steps=2, batch_size=None))
    facts = read_facts(step_folder(output, 2))
    assert (facts["batch_size"], facts["micro_batch"]) == (6, 2)
    run(settings_for(1, output, max_steps=3, batch_size=None, optim=with_micro(3)))
    assert read_facts(step_folder(output, 3))["micro_batch"] == 3


def test_a_run_of_an_older_version_goes_on_with_its_whole_share_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Mutation tried: the default of now -> another loss, in its last bits
    monkeypatch.setattr("trainer.settings.MICRO_BATCH_PIXELS", 2 * 64 * 64)
    whole = settings_for(1, tmp_path / "whole", optim=with_micro(4), max_steps=4)
    run(whole)
    parted = dataclasses.replace(whole, output=tmp_path / "parted", max_steps=2)
    run(parted)
    make_older(tmp_path / "parted", 2)
    run(dataclasses.replace(parted, max_steps=4, optim=OptimSettings()))
    assert read_facts(step_folder(tmp_path / "parted", 4))["micro_batch"] == 4
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    run(settings_for(1, tmp_path / "new", max_steps=1))
    assert read_facts(step_folder(tmp_path / "new", 1))["micro_batch"] == 2


def test_stages_have_batches_of_their_own(tmp_path: Path):
    for stage, batch in ((1, 64), (2, 8)):
        prepared = build_run(settings_for(stage, tmp_path / "run", batch_size=None), World(CPU))
        assert prepared.data.loader.split.batch_size == batch


def test_too_little_shared_memory_is_told_before_the_workers_start(tmp_path: Path):
    # Mutation tried: no check -> red (it trains)
    loader = LoaderSettings(workers=2, prefetch=10**9, block_samples=4)
    with pytest.raises(UsageError, match=r"/dev/shm \(shared memory\) has .* free. Start .* --shm-size=\d+g or more"):
        run(settings_for(1, tmp_path / "run", batch_size=8, loader=loader, data=(images(),)))
    assert not (tmp_path / "run").exists()


@torch.no_grad()
def test_the_vae_in_slices_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch):
    # Mutations tried: the last slice left out; no slices (the largest call) -> red each
    vae = load_base(str(small_base())).vae.eval()
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(5, 2, 3, 64, 64, generator=generator) * 2 - 1
    latents = torch.randn(5, 4, 2, 8, 8, generator=generator)
    whole = encode_images(vae, rgb), decode_latents(vae, latents)
    calls: list[int] = []
    for part in (vae.encoder, vae.decoder):
        part.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    monkeypatch.setattr(base_module, "VAE_SLICE_PIXELS", 3 * 64 * 64)
    assert torch.equal(encode_images(vae, rgb), whole[0])
    assert torch.equal(decode_latents(vae, latents), whole[1])
    assert calls == 2 * [3, 3, 2, 2]
