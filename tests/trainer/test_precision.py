"""Contract of the low precisions and of compilation: both stages run in each precision on any device, counting their
step included; what is trained stays float32 and what is handed on is untouched; a loss scale that finds no value ends
the run; counting the step does not keep blocks from being compiled. And the learning rate of each step."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lposekit.errors import LposekitError, UsageError
from tests.support.train_runs import losses, settings_for
from trainer import train as training
from trainer.run import build
from trainer.run.build import is_compiled
from trainer.run.compiling import compile_parts
from trainer.run.metrics import read_metrics
from trainer.run.outcome import DryRunReport
from trainer.run.probe import PoseProbe
from trainer.run.train_module import OVERFLOWS_ALLOWED, TrainModule
from trainer.settings import (
    CheckpointSettings,
    ComputeSettings,
    EmaSettings,
    OptimSettings,
    Precision,
    Stage,
    TrainSettings,
    WatchSettings,
)
from trainer.stages import StageModel
from trainer.train import run

STAGES: tuple[Stage, ...] = (1, 2)
WATCHED = WatchSettings(
    probe_every=100, probe_samples=2, sample_every=100, sample_steps=1, sample_count=1, tensorboard=False, mfu=True
)
"""Everything that runs the model besides the steps."""


def in_precision(precision: Precision, settings: TrainSettings, **compute: Any) -> TrainSettings:
    return dataclasses.replace(
        settings, compute=ComputeSettings(device="cpu", precision=precision, threads=1, timeout_s=30, **compute)
    )


def tensor_digests(path: Path, prefix: str = "") -> dict[str, str]:
    return {
        name.removeprefix(prefix): hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for name, value in load_file(path).items()
    }


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (1, "fp16"),
        (2, "bf16"),
        pytest.param(1, "bf16", marks=pytest.mark.more),
        pytest.param(2, "fp16", marks=pytest.mark.more),
    ],
)
def test_both_stages_train_in_low_precision(stage: Stage, precision: Precision, tmp_path: Path):
    # mutation tried: the pose encoder under torch.autocast dies where the step is counted, dry run included
    settings = in_precision(
        precision,
        settings_for(
            stage,
            tmp_path / "run",
            max_steps=4,
            # a CPU's peak in half precision takes long to measure
            watch=dataclasses.replace(WATCHED, mfu=precision != "fp16"),
            ema=EmaSettings(decay=0.9),
            checkpoint=CheckpointSettings(every_steps=2, keep=2),
        ),
    )
    dry = run(settings, dry_run=True)
    assert isinstance(dry, DryRunReport)
    assert dry.tflop_per_step > 0
    run(settings)
    assert all(math.isfinite(float.fromhex(loss)) for _, loss in losses(settings.output or tmp_path))
    before, after = (load_file(tmp_path / f"run/checkpoints/step-00000{step}/trainable.safetensors") for step in (2, 4))
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert all((after[name] != value).any() for name, value in before.items())


@pytest.mark.parametrize("stage", STAGES)
def test_low_precision_follows_full_precision(stage: Stage, tmp_path: Path):
    for precision in ("fp32", "bf16", "fp16"):
        run(in_precision(precision, settings_for(stage, tmp_path / precision, max_steps=3)))
    for precision in ("bf16", "fp16"):
        for (_, full), (_, low) in zip(losses(tmp_path / "fp32"), losses(tmp_path / precision), strict=True):
            assert float.fromhex(low) == pytest.approx(float.fromhex(full), rel=0.02)


def test_stage_2_hands_the_pose_encoder_on_as_stage_1_made_it(tmp_path: Path):
    run(in_precision("bf16", settings_for(1, tmp_path / "one", max_steps=2)))
    run(in_precision("bf16", settings_for(2, tmp_path / "two", max_steps=1, pose_encoder=str(tmp_path / "one"))))
    made = tensor_digests(tmp_path / "one/checkpoints/step-000002/trainable.safetensors", "skeleton_adapter.")
    assert tensor_digests(tmp_path / "two/pose_encoder.safetensors") == made


def test_a_gradient_that_no_loss_scale_mends_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutation tried: without the count, the run takes all of its steps and updates nothing
    original = build.build_stage

    def broken(*args: Any, **kwargs: Any) -> StageModel:
        stage = original(*args, **kwargs)
        next(iter(stage.trainable().values())).register_hook(lambda gradient: gradient * math.inf)
        return stage

    monkeypatch.setattr(build, "build_stage", broken)
    settings = in_precision("fp16", settings_for(1, tmp_path / "run", max_steps=OVERFLOWS_ALLOWED + 5))
    with pytest.raises(LposekitError, match=rf"step {OVERFLOWS_ALLOWED}: the gradient, .* is not finite .*samples 0"):
        run(settings)


def test_overflows_now_and_then_do_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutation tried: overflows counted over the whole run and not in a row
    original = build.build_stage

    def unsteady(*args: Any, **kwargs: Any) -> StageModel:
        stage, factors = original(*args, **kwargs), itertools.cycle((math.inf, 1.0, 1.0))
        next(iter(stage.trainable().values())).register_hook(lambda gradient: gradient * next(factors))
        return stage

    monkeypatch.setattr(build, "build_stage", unsteady)
    steps = 3 * OVERFLOWS_ALLOWED + 1
    run(in_precision("fp16", settings_for(1, tmp_path / "run", max_steps=steps)))
    assert len(losses(tmp_path / "run")) == steps


def test_a_run_in_full_precision_does_not_go_on_in_half(tmp_path: Path):
    # mutation: the setting compared as it was given, none at first -> the second run goes on
    settings = settings_for(1, tmp_path / "run", max_steps=2)
    run(settings)
    with pytest.raises(UsageError, match=r"compute.precision: 'fp32' -> 'fp16'"):
        run(in_precision("fp16", dataclasses.replace(settings, max_steps=4)))
    run(in_precision("fp32", dataclasses.replace(settings, max_steps=4)))
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_run_in_half_precision_stopped_and_resumed_equals_the_undisturbed_run(tmp_path: Path):
    run(in_precision("fp16", settings_for(1, tmp_path / "whole", max_steps=6)))
    for steps in (4, 6):
        run(in_precision("fp16", settings_for(1, tmp_path / "parted", max_steps=steps)))
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1, 1, 0.5]),
        ("cosine", 0, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("cosine", 2, [0.5, 1, 1, 0.5]),
    ],
)
def test_the_first_step_has_all_of_the_rate_and_the_last_some(
    schedule: Any, warmup: int, factors: list[float], tmp_path: Path
):
    # mutation tried: steps from 1 given to a schedule that counts from 0 leave nothing for the last one
    optim = OptimSettings(lr=1e-3, schedule=schedule, warmup_steps=warmup)
    run(settings_for(1, tmp_path / "run", max_steps=4, optim=optim))
    rates = [line["lr"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in line]
    assert rates == pytest.approx([1e-3 * factor for factor in factors])


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """The graphs that a run compiles, by a backend that needs no compiler: it runs them as they are."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(training, "compile_parts", functools.partial(compile_parts, backend=backend))
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


@pytest.mark.more  # `model/test_unet.py` traces each block
@pytest.mark.timeout(800)
def test_all_that_a_step_runs_is_compiled_whole_before_the_first_one_and_nothing_after(
    compiled: list[torch.fx.GraphModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutation tried: of blocks that run first under the counter only the insides are compiled, one by one
    # mutations: the pose encoder left out; the VAE left out -> red each
    # mutations tried: no warm-up; the probe, whose three samples are a shape of their own, compiled as well -> red each
    settings = settings_for(1, tmp_path / "eager", max_steps=1)
    run(settings)
    assert not compiled
    watch = dataclasses.replace(WATCHED, probe_every=1, probe_samples=3, sample_every=0)
    settings = dataclasses.replace(settings, output=tmp_path / "compiled", watch=watch)
    before: dict[str, set[int]] = {"step": set(), "measure": set()}

    def counted(kind: type, name: str) -> Any:
        method = getattr(kind, name)

        def call(self: Any, *inputs: Any) -> Any:
            before[name].add(len(compiled))
            return method(self, *inputs)

        return call

    monkeypatch.setattr(TrainModule, "step", counted(TrainModule, "step"))
    monkeypatch.setattr(PoseProbe, "measure", counted(PoseProbe, "measure"))
    run(in_precision("fp32", settings, compile=True))
    assert before == {"step": {len(compiled)}, "measure": {len(compiled)}}
    convolutions = sorted(sum(node.target is torch.conv2d for node in graph.graph.nodes) for graph in compiled)
    assert convolutions[-2:] == [18, 18], "the pose encoder, and the VAE's encoder"
    linear = torch.nn.functional.linear
    assert max(sum(node.target is linear for node in graph.graph.nodes) for graph in compiled) >= 10, "a transformer"
    assert sum(products(graph) in (3, 4) for graph in compiled) >= 4, "resnets of several shapes"
    eager, other = (float.fromhex(losses(tmp_path / name)[0][1]) for name in ("eager", "compiled"))
    assert other == pytest.approx(eager, rel=1e-5)


def test_a_machine_that_cannot_compile_is_told_how_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutation: the compiler's own error let through
    def no_compiler(*_: object) -> Any:
        raise RuntimeError("no C compiler found")

    monkeypatch.setattr(training, "compile_parts", functools.partial(compile_parts, backend=no_compiler))
    with pytest.raises(LposekitError, match=r"cannot be compiled here .*no C compiler.*--compute.no-compile"):
        run(in_precision("fp32", settings_for(1, tmp_path / "run"), compile=True))
    torch._dynamo.reset()


def test_a_gpu_compiles_by_default_and_a_cpu_does_not():
    # mutation: off everywhere
    by_default, off = TrainSettings(), TrainSettings(compute=ComputeSettings(compile=False))
    devices = [torch.device(name) for name in ("cuda", "cpu")]
    assert [is_compiled(settings, device) for settings in (by_default, off) for device in devices] == [
        True,
        False,
        False,
        False,
    ]


def products(graph: torch.fx.GraphModule) -> int:
    """Convolutions and linear layers of a graph."""
    return sum(node.target in (torch.conv2d, torch.nn.functional.linear) for node in graph.graph.nodes)
