"""Contract of runs whose frozen convolutions use Winograd's algorithm: by default on a CPU in float32, kept when a run
goes on, counted in its memory and not in its arithmetic, refused where it is not available."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lposekit.errors import UsageError
from lposekit.setting_values import LOGGED
from tests.support.train_runs import losses, make_older, settings_for
from trainer.model import winograd
from trainer.model.winograd import WinogradConv2d, winograd_convolutions
from trainer.run import memory
from trainer.run.build import is_winograd, step_tflop
from trainer.run.checkpoint import WEIGHTS, load_checkpoint, step_folder
from trainer.run.continuing import changes, values_of_before
from trainer.run.distributed import World
from trainer.run.memory import memory_need, way_without_winograd
from trainer.run.outcome import describe_run
from trainer.run.shapes import stage_inputs
from trainer.settings import ComputeSettings, OptimSettings, TrainSettings, WatchSettings
from trainer.train import Run, build_run, run

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def every_convolution_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 8)
    monkeypatch.setattr(winograd, "MIN_TILES", 1)


def computed(settings: TrainSettings, **changes: Any) -> TrainSettings:
    return dataclasses.replace(settings, compute=dataclasses.replace(settings.compute, **changes))


def built(settings: TrainSettings) -> tuple[Run, list[WinogradConv2d]]:
    prepared = build_run(settings, World(CPU))
    return prepared, winograd_convolutions(prepared.train_module.stage)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_learns_what_it_learns_by_direct_convolutions_and_goes_on_to_the_bit(stage: int, tmp_path: Path):
    # mutations: the UNet left as it was; a resumed run without
    whole = settings_for(stage, tmp_path / "whole", max_steps=4)
    direct = computed(settings_for(stage, tmp_path / "direct", max_steps=4), winograd=False)
    parts = settings_for(stage, tmp_path / "parts", max_steps=2)
    for settings in (whole, direct, parts, dataclasses.replace(parts, max_steps=4)):
        run(settings)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    of_whole, of_direct = ([float.fromhex(loss) for _, loss in losses(tmp_path / name)] for name in ("whole", "direct"))
    assert of_whole == pytest.approx(of_direct, rel=1e-4)
    trained, others = (
        load_checkpoint(step_folder(tmp_path / name, 4)).tensors[WEIGHTS] for name in ("whole", "direct")
    )
    assert trained.keys() == others.keys()
    # within float32's rounding, yet not the same
    assert not all(torch.equal(trained[name], others[name]) for name in trained)


@pytest.mark.parametrize("older", [False, True], ids=["without", "older"])
def test_a_run_that_was_begun_without_goes_on_without_unless_it_is_asked_for(
    older: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    # mutations: the default for every run; runs of older versions left out; the wish ignored
    settings = settings_for(2, tmp_path / "run", max_steps=1)
    run(computed(settings, winograd=False))
    if older:
        make_older(tmp_path / "run", 1)
        assert "winograd" not in (tmp_path / "run" / "settings.toml").read_text()
    for asked, expected in ((None, False), (False, False), (True, True)):
        with caplog.at_level("INFO"):
            _, found = built(computed(dataclasses.replace(settings, max_steps=2), winograd=asked))
        assert bool(found) is expected
        assert ("convolves directly, as before (--compute.winograd" in caplog.text) == (asked is None)
        caplog.clear()


def test_a_change_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    # mutations: not recorded; unknown of a run of an older version
    settings = settings_for(2, tmp_path / "run", max_steps=1)
    run(settings)
    run(computed(dataclasses.replace(settings, max_steps=2), winograd=False))
    assert "from step 2 on, the run has other settings than before: compute.winograd: True -> False" in caplog.text
    assert changes(values_of_before({"settings": {}}, tmp_path), {"compute.winograd": True}, LOGGED) == [
        "compute.winograd: False -> True"
    ]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_validation_before_the_first_step_and_gradient_checkpoints_do(checkpointed: bool, tmp_path: Path):
    # mutation: transforms made for validation alone
    settings = computed(settings_for(1, tmp_path / "run", max_steps=2), gradient_checkpointing=checkpointed)
    run(
        dataclasses.replace(
            settings, watch=WatchSettings(probe_every=1, probe_samples=2, sample_every=1, sample_steps=1)
        )
    )
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2]


def test_it_is_there_in_float32_on_a_cpu_without_compilation():
    # mutation: any one condition left out
    def there(device: torch.device, **compute: Any) -> bool:
        return is_winograd(TrainSettings(compute=ComputeSettings(**compute)), device)

    assert there(CPU)
    assert there(CPU, winograd=True)
    assert not there(CPU, winograd=False)
    assert not there(CPU, precision="bf16")
    assert not there(CPU, compile=True)
    assert not there(GPU)
    assert not there(GPU, precision="fp32", compile=False)
    refused = "--compute.winograd is for float32 on a CPU, without --compute.compile, and this run is on "
    for device, compute, words in (
        (GPU, {}, "cuda, in bf16, compiled: leave it out"),
        (GPU, {"compile": False}, "cuda, in bf16: leave it out"),
        (CPU, {"precision": "bf16"}, "cpu, in bf16: leave it out"),
        (CPU, {"compile": True}, "cpu, in fp32, compiled: leave it out"),
    ):
        with pytest.raises(UsageError, match=refused + words):
            there(device, winograd=True, **compute)


def test_a_wish_that_cannot_be_had_is_refused_before_anything_is_loaded(tmp_path: Path):
    # mutation: refused where the model is built
    settings = computed(settings_for(1, tmp_path / "run"), winograd=True, precision="bf16")
    with pytest.raises(UsageError, match=r"^--compute\.winograd is for float32 on a CPU"):
        run(dataclasses.replace(settings, base=str(tmp_path / "no base")))


@pytest.mark.parametrize("stage", [1, 2])
def test_its_memory_is_counted_here_and_not_on_a_gpu_and_its_arithmetic_is_that_of_the_direct_form(
    stage: int, tmp_path: Path
):
    # mutations: counted for a GPU as well; left out here; arithmetic as it is computed
    settings = settings_for(stage, tmp_path / "run")
    quick, convolutions = built(settings)
    direct, none = built(computed(settings, winograd=False))
    assert not none
    of_quick, of_direct = (memory_need(one.settings, one.train_module, one.data) for one in (quick, direct))
    assert 0 < of_quick.transformed < sum(one.weight.nbytes * 16 // 9 for one in convolutions)
    assert of_quick.peak - of_quick.transformed < of_direct.peak
    assert of_quick.kept < of_direct.kept
    on_gpu = [memory_need(one.settings, one.train_module, one.data, torch.bfloat16) for one in (quick, direct)]
    assert on_gpu[0] == on_gpu[1]
    assert step_tflop(quick.train_module, quick.data) == step_tflop(direct.train_module, direct.data)
    assert all(one.transformed_KOI is None for one in convolutions)
    inputs = stage_inputs(quick.train_module, quick.data, quick.data.loader.split.micro_batch)
    quick.train_module.stage(*(None if one is None else torch.zeros_like(one, device="cpu") for one in inputs))
    made = [one.transformed_KOI for one in convolutions if one.transformed_KOI is not None]
    # the lowest level's images are 1 x 1
    assert of_quick.transformed == sum(one.nbytes for one in made)


def test_a_run_that_needs_too_much_is_told_what_it_takes_without_where_that_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutations: the transforms named as what is saved; said where it is off, or no less
    monkeypatch.setattr(memory, "GIB", 1)
    settings = settings_for(1, tmp_path / "run", optim=OptimSettings(micro_batch=1))
    (quick, _), (direct, _) = built(settings), built(computed(settings, winograd=False))
    need, less = (memory_need(one.settings, one.train_module, one.data) for one in (quick, direct))
    assert less.peak < need.peak < less.peak + need.transformed
    words = f"With --compute.no-winograd it needs about {less.peak:.1f} GiB, and steps take longer."
    with pytest.raises(UsageError, match=re.escape(words)):
        run(computed(settings, memory_gib=need.peak - 1))
    for one, of in ((direct, less), (quick, dataclasses.replace(need, step=0, encode=0))):
        assert way_without_winograd(one.settings, one.train_module, one.data, of) == ""
    report = describe_run(quick.settings, quick.train_module, quick.data)
    assert any("their Winograd transforms" in line for line in report.summary_lines())


def test_what_is_counted_of_the_transforms_does_not_depend_on_the_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutation: few tiles counted as direct (what fits is reckoned from two micro-batches)
    monkeypatch.setattr(winograd, "MIN_TILES", 100)
    prepared, _ = built(settings_for(1, tmp_path / "run"))
    counts = {
        memory_need(prepared.settings, prepared.train_module, prepared.data, micro_batch=micro).transformed
        for micro in (1, 4)
    }
    assert len(counts) == 1
    assert counts != {0}
