"""Contract of checkpoints: whole or not there. The newest whole one is found and a damaged one is named; one that
the user names is never replaced by another; a full disk leaves the old ones alone; removal counts whole ones only;
nothing that a stranger put into a file is run."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lposekit.errors import LposekitError, UsageError
from trainer.run.checkpoint import (
    Checkpoint,
    copy_weights,
    damage,
    list_steps,
    load_checkpoint,
    newest_whole,
    optimizer_tensors,
    prune,
    remove_leftovers,
    restore_optimizer,
    save_checkpoint,
    set_aside_newer,
    step_folder,
)


def checkpoint(step: int, size: int = 4) -> Checkpoint:
    weights = {"a": torch.arange(size) + step, "b": torch.ones(2, 3)}
    return Checkpoint(step, {"trainable": weights, "random": {"cpu": torch.zeros(8, dtype=torch.uint8)}}, {"order": {}})


def save(run: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(run, checkpoint(step))


def truncate(folder: Path) -> None:
    file = folder / "trainable.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(folder: Path) -> None:
    file = folder / "trainable.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def flip_a_fact(folder: Path) -> None:
    file = folder / "checkpoint.json"
    file.write_text(file.read_text().replace('"step": 3', '"step": 4'))


def empty(folder: Path) -> None:
    (folder / "trainable.safetensors").write_bytes(b"")


def lose_a_file(folder: Path) -> None:
    (folder / "random.safetensors").unlink()


def lose_the_facts(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


def lose_everything(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [truncate, flip_a_bit, flip_a_fact, empty, lose_a_file, lose_the_facts, lose_everything]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path):
    folder = save_checkpoint(tmp_path, checkpoint(3))
    loaded = load_checkpoint(folder)
    assert folder == tmp_path / "checkpoints/step-000003"
    assert loaded.step == 3
    assert loaded.tensors["trainable"]["a"].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.case(42)
def test_a_damaged_newest_is_named_and_the_one_before_is_taken(
    harm: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    # mutation: `damage` without the sha256 comparison lets the flipped bit through
    save(tmp_path, 1, 2, 3)
    harm(step_folder(tmp_path, 3))
    with caplog.at_level(logging.WARNING):
        assert newest_whole(tmp_path) == step_folder(tmp_path, 2)
    assert "step-000003 is damaged" in caplog.text


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.case(42)
def test_a_damaged_checkpoint_that_the_user_names_is_refused(harm: Callable[[Path], None], tmp_path: Path):
    save(tmp_path, 2, 3)
    harm(step_folder(tmp_path, 3))
    with pytest.raises(LposekitError, match="step-000003 is damaged"):
        load_checkpoint(step_folder(tmp_path, 3))


def test_a_checkpoint_that_is_not_there_is_a_wrong_use(tmp_path: Path):
    with pytest.raises(UsageError, match="no checkpoint there"):
        load_checkpoint(tmp_path / "step-000009")


@pytest.mark.case(44)
def test_removal_keeps_the_newest_whole_ones_and_never_counts_broken_ones(tmp_path: Path):
    # mutation: counting every folder as whole removes step 2 here
    save(tmp_path, 1, 2, 3, 4, 5)
    truncate(step_folder(tmp_path, 5))
    flip_a_bit(step_folder(tmp_path, 4))
    assert prune(tmp_path, 2, lambda step: False) == [1]
    assert list_steps(tmp_path) == [5, 4, 3, 2]
    assert newest_whole(tmp_path) == step_folder(tmp_path, 3)


def test_removal_spares_the_steps_that_are_to_stay(tmp_path: Path):
    save(tmp_path, 1, 2, 3, 4, 5)
    assert prune(tmp_path, 2, lambda step: step == 1) == [3, 2]
    assert list_steps(tmp_path) == [5, 4, 1]


@pytest.mark.case(41)
def test_what_a_kill_left_half_written_is_removed_and_never_loaded(tmp_path: Path):
    save(tmp_path, 1)
    shutil.copytree(step_folder(tmp_path, 1), tmp_path / "checkpoints/step-000002.tmp")
    assert list_steps(tmp_path) == [1]
    remove_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_saving_a_step_again_replaces_what_is_there(tmp_path: Path):
    save(tmp_path, 1)
    truncate(step_folder(tmp_path, 1))
    save(tmp_path, 1)
    assert damage(step_folder(tmp_path, 1)) is None
    save_checkpoint(tmp_path, checkpoint(1, size=9))
    assert len(load_checkpoint(step_folder(tmp_path, 1)).tensors["trainable"]["a"]) == 9


def test_going_on_from_an_older_checkpoint_sets_the_newer_ones_aside(tmp_path: Path):
    # mutation: left in place, the next automatic resume jumps into the other history
    save(tmp_path, 1, 2, 3)
    set_aside_newer(tmp_path, 1)
    assert newest_whole(tmp_path) == step_folder(tmp_path, 1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-000001",
        "superseded-step-000002",
        "superseded-step-000003",
    ]


@pytest.mark.case(43)
def test_a_disk_that_fills_up_stops_with_its_name_and_leaves_the_old_ones(tmp_path: Path):
    # with the kernel's own refusal: no file of this process may grow beyond the limit
    # mutation: without the except clause of save_checkpoint, a .tmp folder and a traceback remain
    save(tmp_path, 1)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(LposekitError, match=r"step-000002.*[Ff]ree space"):
            save_checkpoint(tmp_path, checkpoint(2, size=10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert damage(step_folder(tmp_path, 1)) is None


def forge(folder: Path, name: str, content: bytes) -> None:
    """A checkpoint whose hashes are right, around a file with any content."""
    import hashlib

    facts = json.loads((folder / "checkpoint.json").read_text())
    del facts["digest"]
    (folder / name).write_bytes(content)
    facts["files"] = {name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps({**facts, "digest": digest}))


class Boom:
    def __reduce__(self):
        return os.system, ("touch /tmp/lposekit-was-here",)


def overlapping() -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainable.safetensors", pickle.dumps(Boom())),
        ("trainable.safetensors", overlapping()),
        ("trainable.safetensors", struct.pack("<Q", 2**63) + b"{}"),
        ("trainable.pt", pickle.dumps(Boom())),
    ],
    ids=["pickle", "overlap", "huge-header", "foreign-file"],
)
@pytest.mark.case(52)
def test_a_strangers_file_is_refused_and_runs_nothing(name: str, content: bytes, tmp_path: Path):
    # mutation: taking any file name of the list loads the foreign one
    canary = Path("/tmp/lposekit-was-here")
    canary.unlink(missing_ok=True)
    folder = save_checkpoint(tmp_path, checkpoint(1))
    forge(folder, name, content)
    with pytest.raises(LposekitError, match="step-000001"):
        load_checkpoint(folder)
    assert not canary.exists()


def test_a_file_outside_of_the_checkpoint_is_refused(tmp_path: Path):
    folder = save_checkpoint(tmp_path, checkpoint(1))
    forge(folder, "../stolen.safetensors", b"x")
    assert "no file of a checkpoint" in (damage(folder) or "")


def test_weights_of_another_shape_are_named_and_nothing_is_copied():
    mine = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(LposekitError, match=r"2 tensors differ: a is \(4,\) instead of \(2,\); b is missing"):
        copy_weights(mine, {"a": torch.ones(4)}, "it")
    assert mine["a"].tolist() == [0, 0]


def test_the_optimiser_comes_back_to_the_bit():
    def learn(weights: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (weights**2).sum().backward()
            optimizer.step()

    whole = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    first = torch.optim.AdamW([whole], lr=0.1, fused=True)
    learn(whole, first, 3)
    other = torch.nn.Parameter(whole.detach().clone())
    second = torch.optim.AdamW([other], lr=0.1, fused=True)
    restore_optimizer(second, {"w": other}, {k: v.clone() for k, v in optimizer_tensors(first, {"w": whole}).items()})
    learn(whole, first, 3)
    learn(other, second, 3)
    assert torch.equal(whole, other)


def test_moments_come_back_laid_out_as_their_weights_are():
    # the fused kernel of a GPU refuses others; mutation tried: taken as they were read, they are contiguous
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    (weight**2).sum().backward()
    optimizer.step()
    taken = {name: value.contiguous() for name, value in optimizer_tensors(optimizer, {"w": weight}).items()}
    assert taken["w|exp_avg"].stride() != weight.stride()
    other = torch.optim.AdamW([weight], lr=0.1, fused=True)
    restore_optimizer(other, {"w": weight}, taken)
    for field in ("exp_avg", "exp_avg_sq"):
        moment = other.state[weight][field]
        assert moment.stride() == weight.stride()
        assert not moment.requires_grad
        assert torch.equal(moment, taken[f"w|{field}"])
    assert other.state[weight]["step"] == 1
