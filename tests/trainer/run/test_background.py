"""Contract of checkpoints written behind the loop: training goes on meanwhile, what is written is the step's own, and a
run ends with all of it on disk, or with the reason why not."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor

from lposekit.errors import LposekitError
from tests.support.train_runs import losses, settings_for
from trainer.run import checkpoint as module
from trainer.run.checkpoint import list_steps, newest_whole, step_folder
from trainer.settings import CheckpointSettings, EmaSettings, TrainSettings
from trainer.train import run

Save = Callable[[Mapping[str, Tensor], Path], None]
SAVE: Save = module.save_file  # pyright: ignore
EVERY = CheckpointSettings(every_steps=2, keep=2)


def settings(folder: Path, steps: int = 8) -> TrainSettings:
    return settings_for(1, folder, max_steps=steps, checkpoint=EVERY, ema=EmaSettings(decay=0.9))


def test_training_goes_on_while_a_checkpoint_is_written_of_the_step_that_it_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutations to try: written in the loop (no third step within the time) -> red; tensors handed over without a copy
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
    ours, theirs = step_folder(tmp_path / "run", 2), step_folder(tmp_path / "short", 2)
    for name in ("trainable", "ema", "optimizer", "random"):
        file = f"{name}.safetensors"
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), name
    assert list_steps(tmp_path / "run") == [4, 2]


def test_a_disk_that_fills_up_in_the_background_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # mutation to try: the error kept in the thread -> the run ends well
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
    # mutation to try: every checkpoint hashed at every removal -> red
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
    # mutation to try: known ones not looked at at all -> step 2 is removed
    from trainer.run.checkpoint import prune

    keep_all = CheckpointSettings(every_steps=1, keep=9)
    run(settings_for(1, tmp_path / "run", max_steps=4, checkpoint=keep_all))
    file = step_folder(tmp_path / "run", 4) / "trainable.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert prune(tmp_path / "run", 2, lambda step: False, {1, 2, 3, 4}) == [1]
