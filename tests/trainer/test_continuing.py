"""Contract of a run that goes on: every setting says what its change means, and a change of what a run learns is
refused with both values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lposekit.errors import UsageError
from lposekit.setting_values import MUST_STAY, leaves
from tests.support.train_runs import losses, make_older, settings_for
from trainer import train as training
from trainer.run.build import is_compiled
from trainer.run.continuing import computed_as_begun
from trainer.run.distributed import World
from trainer.settings import ClipSamplingSettings, EmaSettings, FramingSettings, LossSettings, TrainSettings
from trainer.train import run

CPU, GPU = World(torch.device("cpu")), World(torch.device("cuda"))


def test_every_setting_says_what_its_change_means_to_a_run_that_goes_on():
    # mutation: a mark taken away; two marks on one setting
    assert {
        name: leaf.when_continued for name, leaf in leaves(TrainSettings).items() if len(leaf.when_continued) != 1
    } == {}
    stays = {name for name, leaf in leaves(TrainSettings).items() if MUST_STAY in leaf.when_continued}
    assert {"clip.frames", "loss.caption_dropout", "compute.precision", "ema.decay", "image.flip"} <= stays
    assert not stays & {"data", "output", "max_steps", "watch.probe_every", "checkpoint.keep", "loader.workers"}


CHANGES: list[tuple[int, dict[str, Any], str]] = [
    (2, {"clip": ClipSamplingSettings(frames=3, stride=3)}, "clip.frames: 2 -> 3"),
    (2, {"clip": ClipSamplingSettings(frames=2, stride=2)}, "clip.stride: 3 -> 2"),
    (2, {"clip": ClipSamplingSettings(frames=2, stride=3, stride_s=0.5)}, "clip.stride_s: None -> 0.5"),
    (2, {"clip": ClipSamplingSettings(frames=2, stride=3, start="stride")}, "clip.start: 'any' -> 'stride'"),
    (1, {"loss": LossSettings(caption_dropout=0.1)}, "loss.caption_dropout: 0.0 -> 0.1"),
    (1, {"loss": LossSettings(min_snr_gamma=5)}, "loss.min_snr_gamma: None -> 5"),
    (1, {"image": FramingSettings(size=64)}, "image.flip: 0.5 -> 0.0"),
    (1, {"image": FramingSettings(size=64, flip=0.5, crop="random")}, "image.crop: 'center' -> 'random'"),
    (1, {"ema": EmaSettings(decay=0.9)}, "ema.decay: None -> 0.9"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool], Path]:
    """Runs of one step, of each stage, of this version and of an older one, whose checkpoints held no settings."""
    folders = {}
    for stage in (1, 2):
        for older in (False, True):
            folder = tmp_path_factory.mktemp("runs") / "run"
            run(settings_for(stage, folder, max_steps=1))
            if older:
                make_older(folder, 1)
            folders[stage, older] = folder
    return folders


@pytest.mark.parametrize("older", [False, True], ids=["now", "older"])
@pytest.mark.parametrize(("stage", "changes", "words"), CHANGES, ids=[words.split(":")[0] for *_, words in CHANGES])
def test_a_changed_setting_that_decides_what_is_learned_is_refused_with_both_values(
    stage: int, changes: dict[str, Any], words: str, older: bool, begun: dict[tuple[int, bool], Path]
):
    # mutations: the mark LOGGED instead -> red; no look at settings.toml -> red for the older ones
    folder = begun[stage, older]
    with pytest.raises(UsageError, match=rf"cannot be resumed with other settings:\n  {words}\nGo back"):
        run(settings_for(stage, folder, max_steps=2, **changes))
    assert [step for step, _ in losses(folder)] == [1]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_of_an_older_version_goes_on_with_the_settings_that_it_had(
    stage: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    settings = settings_for(stage, tmp_path / "run", max_steps=1)
    run(settings)
    make_older(tmp_path / "run", 1)
    run(dataclasses.replace(settings, max_steps=2))
    assert "other settings" not in caplog.text
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2]


class Reached(Exception):
    """The settings that a run opens its data with."""


@pytest.mark.parametrize("older", [False, True], ids=["now", "older"])
def test_a_run_that_was_not_compiled_goes_on_so_on_a_gpu_unless_it_is_asked_for(
    older: bool, begun: dict[tuple[int, bool], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # mutations tried: the default of the device for every run; runs of older versions left out; the wish ignored
    def reached(settings: TrainSettings, *_: object) -> None:
        raise Reached(settings)

    monkeypatch.setattr(training, "open_data", reached)
    settings = settings_for(2, begun[2, older], max_steps=2)
    for asked, expected in ((None, False), (True, True), (False, False)):
        compute = dataclasses.replace(settings.compute, compile=asked)
        with caplog.at_level("INFO"), pytest.raises(Reached) as stopped:
            training.build_run(dataclasses.replace(settings, compute=compute), GPU)
        assert stopped.value.args[0].compute.compile is expected
        assert ("not compiled, as it was begun (--compute.compile" in caplog.text) == (asked is None)
        caplog.clear()


def test_a_new_run_and_one_that_was_compiled_are_compiled_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutations tried: off whatever the run had; off for new runs
    def reached(settings: TrainSettings, *_: object) -> None:
        raise Reached(settings)

    monkeypatch.setattr(training, "open_data", reached)
    with pytest.raises(Reached) as stopped:
        training.build_run(settings_for(2, tmp_path / "run"), GPU)
    assert is_compiled(stopped.value.args[0], GPU.device)
    settings, before = TrainSettings(), {"compute.compile": True}
    assert is_compiled(computed_as_begun(settings, before, GPU.device), GPU.device)
    assert not is_compiled(computed_as_begun(settings, before, CPU.device), CPU.device)


@pytest.mark.parametrize("stage", [1, 2])
def test_what_a_run_of_an_older_version_does_is_said_and_another_wish_is_refused(
    stage: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    # mutation tried: every number of samples to hold out set to 0, as it was
    settings = settings_for(stage, tmp_path / "run", max_steps=1)
    run(settings)
    make_older(tmp_path / "run", 1)
    asked = dataclasses.replace(settings.loader, held_out=512)
    with pytest.raises(UsageError, match="held_out: 0 -> 512"):
        run(dataclasses.replace(settings, max_steps=2, loader=asked))
    with caplog.at_level("INFO"):
        run(dataclasses.replace(settings, max_steps=2))
    assert "holds no sample out, as it was begun (--loader.held-out 0)" in caplog.text
    assert ("repeats the last frame of a clip that is too short, as it was begun" in caplog.text) == (stage == 2)
