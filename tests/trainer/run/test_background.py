"""Contract of checkpoints written behind the loop: training goes on while they are copied and written, what is written
is the step's own, and a run ends with all of it on disk, or with the reason why not."""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lposekit.errors import LposekitError
from tests.support.train_runs import losses, settings_for
from trainer.run import background
from trainer.run import checkpoint as module
from trainer.run.background import CheckpointWriter
from trainer.run.checkpoint import Checkpoint, list_steps, newest_whole, step_folder
from trainer.run.distributed import World
from trainer.settings import CheckpointSettings, EmaSettings, TrainSettings, WatchSettings
from trainer.stages import StageModel
from trainer.train import build_run, run

Save = Callable[[Mapping[str, Tensor], Path], None]
SAVE: Save = module.save_file  # pyright: ignore
COPY = background.copy_tensor
EVERY = CheckpointSettings(every_steps=2, keep=2)


def settings(folder: Path, steps: int = 8) -> TrainSettings:
    return settings_for(1, folder, max_steps=steps, checkpoint=EVERY, ema=EmaSettings(decay=0.9))


def assert_same_files(ours: Path, theirs: Path) -> None:
    for name in ("trainable", "ema", "optimizer", "random"):
        file = f"{name}.safetensors"
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), name


def test_training_goes_on_while_a_checkpoint_is_written_of_the_step_that_it_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Mutations tried: written in the loop (no third step within the time) -> red; tensors handed over without a copy
    # (those of step 3) -> red
    went_on: list[bool] = []

    def late(tensors: Mapping[str, Tensor], path: Path) -> None:
        if "step-000002" in str(path) and path.stem == "trainable":
            deadline = time.monotonic() + 30
            while len(losses(tmp_path / "run")) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            went_on.append(len(losses(tmp_path / "run")) >= 3)
        SAVE(tensors, path)

    run(settings(tmp_path / "short", steps=2))
    monkeypatch.setattr(module, "save_file", late)
    run(settings(tmp_path / "run", steps=4))
    assert went_on == [True]
    assert_same_files(step_folder(tmp_path / "run", 2), step_folder(tmp_path / "short", 2))
    assert list_steps(tmp_path / "run") == [4, 2]


def test_the_next_step_runs_while_tensors_are_copied_and_changes_them_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Mutations tried: no wait before the update -> weights of step 3; a wait in `save` (no forward pass within the
    # time) -> red each.
    copying, forward, went_on = threading.Event(), StageModel.forward, []
    second = threading.Event()

    def watched(self: StageModel, *inputs: Tensor) -> Tensor:
        losses_B = forward(self, *inputs)
        if copying.is_set():
            second.set()
        return losses_B

    def slow(target: Tensor, value: Tensor) -> None:
        if not copying.is_set():
            copying.set()
            went_on.append(second.wait(20))
            # without a wait in the loop, step 3 is done long before
            deadline = time.monotonic() + 1
            while len(losses(tmp_path / "run")) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
        COPY(target, value)

    probed = WatchSettings(probe_every=1, probe_samples=2, sample_every=0, tensorboard=False, mfu=False)
    run(dataclasses.replace(settings(tmp_path / "short", steps=2), watch=probed))
    monkeypatch.setattr(background, "copy_tensor", slow)
    monkeypatch.setattr(StageModel, "forward", watched)
    run(dataclasses.replace(settings(tmp_path / "run", steps=4), watch=probed))
    assert went_on == [True]
    assert_same_files(step_folder(tmp_path / "run", 2), step_folder(tmp_path / "short", 2))


def test_the_average_takes_the_place_of_the_weights_only_when_they_are_copied(tmp_path: Path):
    # mutation: no wait -> nothing was asked
    module = build_run(settings(tmp_path / "run"), World(torch.device("cpu"))).train_module
    assert module.ema is not None
    weights = list(module.trained.values())
    for average in module.ema.shadow_params:
        average.add_(1)
    before, asked = [value.detach().clone() for value in weights], []

    def settle() -> None:
        asked.append(all(torch.equal(value, old) for value, old in zip(weights, before, strict=True)))

    module.before_change = settle
    with module.averaged():
        assert not torch.equal(weights[0], before[0])
    assert asked == [True]


def test_a_checkpoint_that_a_second_ctrl_c_cuts_off_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    # mutation: no word of it
    go_on = threading.Event()

    class Waits(dict[str, dict[str, Tensor]]):
        def items(self) -> Any:
            go_on.wait(20)
            return super().items()

    def interrupted(step: int, tensors: Any, *, written: bool) -> None:
        with CheckpointWriter(tmp_path, 2, lambda step: False) as writer:
            writer.save(Checkpoint(step, {"trainable": tensors}, {}))
            if written:
                writer.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(7, Waits(a=torch.ones(3)), written=False)  # pyright: ignore
    go_on.set()
    assert "ended while the checkpoint of step 7 was being written" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        interrupted(8, {"a": torch.ones(3)}, written=True)
    assert "step 8" not in caplog.text


def test_a_checkpoint_that_failed_before_a_second_ctrl_c_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # mutation tried: only a checkpoint that is still being written is told
    def full(tensors: Mapping[str, Tensor], path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted() -> None:
        with CheckpointWriter(tmp_path, 2, lambda step: False) as writer:
            writer.save(Checkpoint(7, {"trainable": {"a": torch.ones(3)}}, {}))
            while writer.busy:
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "the checkpoint of step 7 was not written: " in caplog.text
    assert "No space left" in caplog.text or "disk" in caplog.text


def test_a_disk_that_fills_up_in_the_background_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutation: the error kept in the thread -> the run ends well
    def full(tensors: Mapping[str, Tensor], path: Path) -> None:
        if "step-000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        SAVE(tensors, path)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(LposekitError, match=r"step-000004.*[Ff]ree"):
        run(settings(tmp_path / "run"))
    assert list_steps(tmp_path / "run") == [2]
    monkeypatch.setattr(module, "save_file", SAVE)
    run(settings(tmp_path / "run"))
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 9))


def test_what_a_run_wrote_itself_is_not_hashed_again_to_remove_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutation: every checkpoint hashed at every removal -> red
    hashed: list[str] = []
    original = module.sha256_of

    def counted(store: object, name: str) -> str:
        hashed.append(name)
        return original(store, name)  # pyright: ignore

    monkeypatch.setattr(module, "sha256_of", counted)
    run(settings(tmp_path / "run"))
    assert not hashed
    assert list_steps(tmp_path / "run") == [8, 6]
    assert newest_whole(tmp_path / "run") == step_folder(tmp_path / "run", 8)
    assert hashed


def test_a_checkpoint_that_was_cut_short_since_never_pushes_out_a_good_one(tmp_path: Path):
    # mutation: known ones not looked at at all -> step 2 is removed
    from trainer.run.checkpoint import prune

    keep_all = CheckpointSettings(every_steps=1, keep=9)
    run(settings_for(1, tmp_path / "run", max_steps=4, checkpoint=keep_all))
    file = step_folder(tmp_path / "run", 4) / "trainable.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert prune(tmp_path / "run", 2, lambda step: False, {1, 2, 3, 4}) == [1]
