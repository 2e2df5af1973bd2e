"""Contract of the attention kernels: one that is named runs, one that is measured is the fastest, the run keeps it, and
on a CPU nothing changes unless it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

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
from trainer.train import build_run, run

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
    # mutations to try: the widths not looked at; another kernel in front of `math` -> red each.
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 16, 40).unbind(0)
    plain = attention(query, key, value)
    use_kernels({40: "math"})
    formula = attention(query, key, value)
    assert not torch.equal(formula, plain)
    torch.testing.assert_close(formula, plain)
    use_kernels({80: "math"})
    assert torch.equal(attention(query, key, value), plain)


def test_a_run_keeps_the_kernel_that_it_began_with(tmp_path: Path):
    # mutation to try: the choice left out of the checkpoint -> {}.
    named, auto = settings_for(2, tmp_path / "named", max_steps=2), settings_for(2, tmp_path / "auto", max_steps=2)
    run(with_kernel(named, "math"))
    run(auto)
    facts = read_facts(step_folder(tmp_path / "named", 2))
    assert set(kernels_of(facts).values()) == {"math"}
    assert kernels_of(read_facts(step_folder(tmp_path / "auto", 2))) == {}
    assert weights(tmp_path / "named") != weights(tmp_path / "auto")
    prepared = build_run(named, CPU)
    kept = choose_kernels(named, facts, prepared.train_module, prepared.data, GPU)
    assert kept == kernels_of(facts)
    assert choose_kernels(named, facts, prepared.train_module, prepared.data, CPU) == {}


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutations to try: one kernel's error let through; one call of a shape counted, however often it occurs
    prepared = build_run(settings_for(2, tmp_path / "run", max_steps=1), CPU)
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
    # mutation to try: the slowest.
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
