"""Contract of the attention kernels: one that is named runs, one that is measured is the fastest, the run keeps it, and
on a CPU nothing changes unless it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from lposekit.errors import UsageError
from tests.support.train_runs import settings_for
from trainer.model.kernels import attention, use_kernels
from trainer.run import attention_choice
from trainer.run.attention_choice import choose_kernels, fastest, kernels_of, measure_kernels, step_shapes
from trainer.run.checkpoint import read_facts, step_folder
from trainer.run.cost import attention_shapes
from trainer.run.distributed import World
from trainer.settings import TrainSettings
from trainer.train import Run, build_run, run

CPU, GPU = World(torch.device("cpu")), World(torch.device("cuda"))


@pytest.fixture(autouse=True)
def torchs_own_choice_again() -> Iterator[None]:
    yield
    use_kernels({})


def with_kernel(settings: TrainSettings, name: str) -> TrainSettings:
    compute = dataclasses.replace(settings.compute, attention=name)  # pyright: ignore
    return dataclasses.replace(settings, compute=compute)


def weights(run_dir: Path) -> bytes:
    return (step_folder(run_dir, 2) / "trainable.safetensors").read_bytes()


def test_a_chosen_kernel_runs_for_its_width_and_no_other():
    # mutations: the widths not looked at; another kernel in front of `math` -> red each.
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 16, 40).unbind(0)
    plain = attention(query, key, value)
    use_kernels({40: "math"})
    formula = attention(query, key, value)
    assert not torch.equal(formula, plain)
    torch.testing.assert_close(formula, plain)
    use_kernels({80: "math"})
    assert torch.equal(attention(query, key, value), plain)


def test_a_named_kernel_runs_and_is_written_down(tmp_path: Path):
    # mutation tried: the choice left out of the checkpoint -> {}.
    named, auto = settings_for(2, tmp_path / "named", max_steps=2), settings_for(2, tmp_path / "auto", max_steps=2)
    run(with_kernel(named, "math"))
    run(auto)
    facts = read_facts(step_folder(tmp_path / "named", 2))
    assert set(kernels_of(facts).values()) == {"math"}
    assert kernels_of(read_facts(step_folder(tmp_path / "auto", 2))) == {}
    assert weights(tmp_path / "named") != weights(tmp_path / "auto")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = settings_for(2, tmp_path_factory.mktemp("runs") / "run", max_steps=1)
    compute = dataclasses.replace(settings.compute, deterministic=False)
    return build_run(dataclasses.replace(settings, compute=compute), CPU)


def facts_with(name: str, kernels: dict[str, str]) -> dict[str, Any]:
    return {"batch_size": 2, "settings": {"compute.attention": name}, "attention": kernels}


@pytest.mark.parametrize(
    ("facts", "chosen"),
    [
        pytest.param({}, {8: "flash"}, id="a new run"),
        pytest.param(facts_with("auto", {"8": "efficient"}), {8: "efficient"}, id="measured before"),
        pytest.param(facts_with("auto", {}), {}, id="torch's choice before"),
        pytest.param({"batch_size": 2, "settings": {"compute.lr": 1}}, {}, id="of an older version"),
        pytest.param({"batch_size": 2}, {}, id="of a still older version"),
        pytest.param(facts_with("math", {"8": "math"}), {8: "flash"}, id="named before, not now"),
    ],
)
def test_a_run_that_goes_on_keeps_what_was_measured_and_measures_nothing_in_its_middle(
    facts: dict[str, Any], chosen: dict[int, str], prepared: Run, monkeypatch: pytest.MonkeyPatch
):
    # mutations tried: a checkpoint without a choice taken for a new run; a kernel that was named kept
    monkeypatch.setattr(attention_choice, "measure_kernels", lambda *_: {8: {"flash": 1.0, "efficient": 2.0}})
    module, data = prepared.train_module, prepared.data
    assert choose_kernels(prepared.settings, facts, module, data, GPU) == chosen
    assert choose_kernels(prepared.settings, facts, module, data, CPU) == {}


@pytest.mark.parametrize("facts", [{}, facts_with("auto", {"8": "efficient"})], ids=["new", "resumed"])
def test_a_run_that_is_to_be_bit_identical_measures_nothing_unless_a_kernel_is_named(
    facts: dict[str, Any], prepared: Run, monkeypatch: pytest.MonkeyPatch
):
    # mutation tried: `deterministic` not looked at
    monkeypatch.setattr(attention_choice, "measure_kernels", lambda *_: {8: {"flash": 1.0}})
    compute = dataclasses.replace(prepared.settings.compute, deterministic=True)
    exact = dataclasses.replace(prepared.settings, compute=compute)
    module, data = prepared.train_module, prepared.data
    assert choose_kernels(exact, facts, module, data, GPU) == {}
    assert set(choose_kernels(with_kernel(exact, "efficient"), facts, module, data, GPU).values()) == {"efficient"}


def test_on_a_cpu_the_fused_kernel_gives_the_bits_of_torchs_choice(tmp_path: Path):
    settings = [settings_for(2, tmp_path / name, max_steps=2) for name in ("flash", "auto")]
    run(with_kernel(settings[0], "flash"))
    run(settings[1])
    assert weights(tmp_path / "flash") == weights(tmp_path / "auto")


def test_a_kernel_that_a_cpu_has_not_is_a_wrong_use(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--compute.attention cudnn: .* on a CPU. Take flash or math"):
        run(with_kernel(settings_for(1, tmp_path / "run"), "cudnn"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_every_shape_of_a_step_is_timed_with_every_kernel_that_can_do_it(
    prepared: Run, monkeypatch: pytest.MonkeyPatch
):
    # mutations tried: one kernel's error let through; one call of a shape counted, however often it occurs
    module = prepared.train_module
    shapes = step_shapes(module, prepared.data)
    attentions = sum(isinstance(layer, Attention) for layer in module.stage.unet.modules())
    assert sum(shapes.values()) == attentions
    before = torch.get_rng_state()
    measured = measure_kernels(shapes, module, ("flash", "math", "cudnn"))
    assert torch.equal(torch.get_rng_state(), before)
    assert set(measured) == {query[-1] for query, _ in shapes}
    assert all(set(times) == {"flash", "math"} for times in measured.values())
    monkeypatch.setattr(attention_choice, "_milliseconds", lambda *_: 1.0)
    counted = measure_kernels(shapes, module, ("flash",))
    assert sum(times["flash"] for times in counted.values()) == attentions


def test_the_fastest_is_taken_and_what_no_kernel_can_do_is_left_to_torch(caplog: pytest.LogCaptureFixture):
    # mutation: the slowest.
    with caplog.at_level("INFO"):
        assert fastest({40: {"flash": 2.0, "cudnn": 1.5}, 80: {"flash": 1.0, "efficient": 3.0}, 160: {}}) == {
            40: "cudnn",
            80: "flash",
        }
    assert "heads of 40: cudnn (flash 2.0 ms, cudnn 1.5 ms)" in caplog.text
    assert "heads of 160: torch's choice" in caplog.text


def test_what_a_checkpoint_says_is_taken_only_where_it_is_a_choice():
    assert kernels_of({"attention": {"40": "flash"}}) == {40: "flash"}
    assert kernels_of({"attention": {"40": "quick"}}) == kernels_of({"attention": []}) == kernels_of({}) == {}


def test_shapes_are_counted_without_contents():
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attention(x, x, x) + attention(x, x[:, :, :2], x[:, :, :2])

    counted = attention_shapes(Twice(), (torch.empty(2, 1, 5, 8, device="meta"),))
    assert counted == {((2, 1, 5, 8), (2, 1, 5, 8)): 1, ((2, 1, 5, 8), (2, 1, 2, 8)): 1}
