"""Contract of what a run shows of itself: where the pose is learned, the same scalars elsewhere if asked for; and of
what it does to torch before the first step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lposekit.errors import UsageError
from tests.support.train_runs import losses, settings_for
from trainer import train as training
from trainer.run import metrics
from trainer.run.build import prepare_torch
from trainer.run.convergence import pose_convergence
from trainer.run.metrics import wandb_id
from trainer.run.train_module import TrainModule
from trainer.run.view import write_report
from trainer.settings import ComputeSettings, WatchSettings
from trainer.stages import StageModel
from trainer.train import run


def panel(gains: list[float]) -> list[dict[str, Any]]:
    """The probe's lines of a run, every 10 steps."""
    return [
        {"step": 10 * i, "probe/matching_pose": 0.2, "probe/shuffled_pose": 0.2 + gain, "probe/no_pose": 0.2 + gain}
        for i, gain in enumerate(gains)
    ]


@pytest.mark.parametrize(
    ("gains", "step"),
    [([0.0, 0.0001, 0.03, 0.04], 20), ([0.0, 0.0003, -0.0002, 0.0004], None), ([0.0], None), ([], None)],
)
def test_the_step_at_which_the_pose_is_learned_is_found_and_noise_is_not(gains: list[float], step: int | None):
    # Mutation tried: a floor of nothing takes noise for learning
    assert pose_convergence(panel(gains)) == step


def test_the_page_of_a_run_marks_that_step(tmp_path: Path):
    # Mutation tried: no mark handed to the chart
    import json

    run(settings_for(1, tmp_path / "run", max_steps=2))
    with (tmp_path / "run/metrics.jsonl").open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in panel([0.0, 0.0001, 0.03, 0.04]))
    page = write_report(tmp_path / "run").read_text()
    assert page.count('class="mark"') == 2
    assert "It is learned at step 20" in page


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_scalars_and_images_go_to_weights_and_biases_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Mutations tried: another step; images left out; not closed -> red each
    there, begun = FakeRun(), []

    def init(**options: Any) -> FakeRun:
        begun.append(options)
        return there

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda rgb: rgb.shape))
    watch = WatchSettings(wandb=True, probe_every=2, sample_every=2, sample_steps=1, sample_count=1, mfu=False)
    run(settings_for(1, tmp_path / "run", max_steps=2, watch=watch))
    (options,) = begun
    assert (options["name"], options["resume"]) == ("run", "allow")
    assert options["config"]["optim.clip_norm"] == 1.0
    assert [(step, float(values["loss"]).hex()) for step, values in there.logged if "loss" in values] == losses(
        tmp_path / "run"
    )
    assert [step for step, values in there.logged if "samples" in values] == [0, 2]
    assert there.finished
    run(settings_for(1, tmp_path / "run", max_steps=4, watch=watch))
    run(settings_for(1, tmp_path / "other" / "run", max_steps=2, watch=watch))
    ids = [each["id"] for each in begun]
    assert ids[0] == ids[1] != ids[2], "one run goes on, two folders of one name are two"
    (tmp_path / "run" / "wandb-id").unlink()
    assert wandb_id(tmp_path / "run", resumed=True) == "run", "as older versions named it"


def test_weights_and_biases_that_is_not_installed_is_a_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"--watch.wandb needs .*pip install 'lposekit\[wandb\]'"):
        run(settings_for(1, tmp_path / "run", watch=WatchSettings(wandb=True)))


@pytest.fixture
def restored() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("compute", "precision"),
    [
        (ComputeSettings(), "high"),
        (ComputeSettings(precision="bf16"), "high"),
        (ComputeSettings(precision="fp32"), "highest"),
        (ComputeSettings(deterministic=True), "highest"),
    ],
)
@pytest.mark.usefixtures("restored")
def test_products_in_float32_are_exact_where_that_is_asked_for(
    compute: ComputeSettings, precision: str, tmp_path: Path
):
    # Mutation tried: left at torch's own
    prepare_torch(settings_for(1, tmp_path, compute=compute))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 is (precision == "high")


def test_the_matmul_peak_is_measured_on_numbers_as_they_come(monkeypatch: pytest.MonkeyPatch):
    # Mutations tried: ones; the run's own generator -> red each
    seen: list[torch.Tensor] = []

    def product(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        seen.append(layer.weight)
        return x

    monkeypatch.setattr(metrics, "project", product)
    before = torch.get_rng_state()
    assert metrics.measure_peak_tflops(torch.device("cpu"), torch.float32) > 0
    assert all(0.9 < float(values.std()) < 1.1 for values in seen[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_blocks_run_once_before_the_first_step_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Mutations tried: no warm-up; its gradients left behind -> red each
    run(settings_for(1, tmp_path / "plain", max_steps=2))
    forward, step, calls, before_step = StageModel.forward, TrainModule.step, [], []

    def watched(self: StageModel, *inputs: Any) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return forward(self, *inputs)

    def stepped(self: TrainModule, *inputs: Any) -> Any:
        before_step.append(list(calls))
        assert all(parameter.grad is None for parameter in self.trained.values())
        return step(self, *inputs)

    monkeypatch.setattr(training, "compile_parts", lambda train_module: None)
    monkeypatch.setattr(StageModel, "forward", watched)
    monkeypatch.setattr(TrainModule, "step", stepped)
    compute = ComputeSettings(device="cpu", threads=1, deterministic=True, compile=True)
    run(settings_for(1, tmp_path / "warm", max_steps=2, compute=compute))
    assert before_step[0] == [True]
    assert losses(tmp_path / "warm") == losses(tmp_path / "plain")


@pytest.mark.more  # the test above holds the calls; this one that they are the library's
@pytest.mark.timeout(240)
def test_the_library_itself_takes_a_run_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Mutation tried: an argument of `init` that the library does not know
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    watch = WatchSettings(wandb=True, probe_every=2, sample_every=2, sample_steps=1, sample_count=1, mfu=False)
    run(settings_for(1, tmp_path / "run", max_steps=2, watch=watch))
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/run-run-*.wandb")
    assert stored.stat().st_size > 0
