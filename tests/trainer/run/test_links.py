"""Contract: nothing below a run folder is read or written through a link; it is named, and waits for no pipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from trainer.model.official_weights import read_weights
from trainer.model.tensor_files import write_weights
from trainer.run.checkpoint import Checkpoint, list_steps, load_checkpoint, newest_whole, save_checkpoint
from trainer.run.folder import own_folder
from trainer.run.metrics import JsonLines, read_metrics
from trainer.run.run_card import read_run_card

pytestmark = pytest.mark.timeout(180)
SECRET = "not to be read, and not to be written over"


def _link(path: Path) -> None:
    path.symlink_to(path.parents[1] / "secret" if path.parent.name == "run" else path.parents[3] / "secret")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


# Mutations tried: `own_folder` without `refuse_links` -> red. The lock's own flag stands behind it.
@pytest.mark.case(71)
@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "run.json", "latest"])
def test_a_run_does_not_write_into_a_folder_with_a_link(run_dir: Path, name: str) -> None:
    _link(run_dir / name)
    with pytest.raises(UsageError, match=name), own_folder(run_dir):
        pass
    assert (run_dir.parent / "secret").read_text() == SECRET


@pytest.mark.case(71)
def test_metrics_are_not_appended_through_a_link(run_dir: Path) -> None:
    # Mutation tried: the file opened by its path -> red.
    _link(run_dir / "metrics.jsonl")
    with pytest.raises(LposekitError, match=r"metrics\.jsonl"):
        JsonLines(run_dir / "metrics.jsonl").write({"step": 1})
    assert (run_dir.parent / "secret").read_text() == SECRET


# Mutations tried: `read_metrics` and `read_json_object` that open by path -> red each.
@pytest.mark.case(71, 73)
@pytest.mark.parametrize("make", [_link, os.mkfifo])
def test_metrics_and_card_are_files_of_the_folder(
    run_dir: Path, capfd: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    for name, read in (("metrics.jsonl", lambda: read_metrics(run_dir / "metrics.jsonl")), ("run.json", None)):
        make(run_dir / name)
        with pytest.raises(LposekitError, match="a link" if make is _link else "no regular file"):
            read() if read else read_run_card(run_dir)
    assert main(["view", str(run_dir)]) == 1
    assert "unexpected" not in capfd.readouterr().err


def _saved(run_dir: Path, step: int) -> Path:
    tensors = {"trainable": {"a": torch.ones(3)}, "random": {"cpu": torch.zeros(8, dtype=torch.uint8)}}
    return save_checkpoint(run_dir, Checkpoint(step, tensors, {"order": {}}))


# Mutations tried: `_file_damage` that opens by path -> red for links; `list_steps` that takes links -> red.
@pytest.mark.case(71, 73)
@pytest.mark.parametrize("name", ["trainable.safetensors", "checkpoint.json"])
def test_a_checkpoint_with_a_link_or_a_pipe_is_passed_over(run_dir: Path, name: str) -> None:
    _saved(run_dir, 1)
    for step, make in ((2, lambda path: path.symlink_to(path.parents[3] / "aside")), (3, os.mkfifo)):
        file = _saved(run_dir, step) / name
        file.rename(run_dir.parent / "aside")
        make(file)
        with pytest.raises(LposekitError, match="a link" if step == 2 else "no regular file"):
            load_checkpoint(file.parent)
    newest = newest_whole(run_dir)
    assert newest is not None
    assert newest.name == "step-000001"
    assert load_checkpoint(newest).tensors["trainable"]["a"].tolist() == [1, 1, 1]


@pytest.mark.case(71)
def test_checkpoints_elsewhere_are_none_of_the_run(run_dir: Path, tmp_path: Path) -> None:
    _saved(run_dir, 1)
    (run_dir / "checkpoints" / "step-000009").symlink_to(_saved(tmp_path / "other", 9))
    assert list_steps(run_dir) == [1]
    (run_dir / "checkpoints").rename(tmp_path / "moved")
    (run_dir / "checkpoints").symlink_to(tmp_path / "moved")
    with pytest.raises(LposekitError, match="checkpoints: a link"):
        list_steps(run_dir)


@pytest.mark.case(71)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_that_the_user_names_may_be_a_link_but_not_those_in_a_folder(tmp_path: Path, ending: str) -> None:
    # Mutation tried: files of a folder opened by path -> red; the named file's link not followed -> red.
    write_weights({"a": torch.ones(2)}, tmp_path / f"real{ending}")
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / f"pose_encoder{ending}"
    link.symlink_to(tmp_path / f"real{ending}")
    assert read_weights(link)["a"].tolist() == [1, 1]
    with pytest.raises(UsageError, match="a link"):
        read_weights(tmp_path / "folder")
