"""Contract of the trainer when something in it goes wrong: it stops on all processes before it would update a
weight, within its deadline, with an error that names the step and the samples, the worker and the shard, or the
process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lposekit.errors import LposekitError, UsageError
from tests.faults.test_train_kill import wait_for_steps
from tests.support.train_data import image_members, write_dataset
from tests.support.train_runs import losses, settings_for, small_base, start_ranks, train_ranks
from trainer.run.checkpoint import load_checkpoint
from trainer.settings import CheckpointSettings, LoaderSettings, LossSettings
from trainer.train import run


def poison_base(folder: Path) -> Path:
    """A base whose text encoder answers one caption, and no other, with numbers that are not finite."""
    import shutil

    from transformers import CLIPTextModel

    shutil.copytree(small_base(), folder)
    model = CLIPTextModel.from_pretrained(folder / "text_encoder")
    from trainer.model.tiny import tiny_tokenizer

    token = tiny_tokenizer().convert_tokens_to_ids("7</w>")
    embedding = next(value for name, value in model.named_parameters() if name.endswith("token_embedding.weight"))
    embedding.data[token] = float("nan")
    model.save_pretrained(folder / "text_encoder")
    return folder


@pytest.mark.timeout(300)
@pytest.mark.case(50)
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_the_update(tmp_path: Path):
    # caption "image number 7" alone makes NaN
    # mutation: `guilty = reports` in TrainModule._refuse names the healthy rank's samples as well
    base = poison_base(tmp_path / "base")
    every = CheckpointSettings(every_steps=1, keep=2)
    settings = settings_for(1, tmp_path / "run", base=str(base), batch_size=2, checkpoint=every)
    results = [child.join() for child in start_ranks(settings, 2)]
    assert [result.exit_code for result in results] == [1, 1], results
    done = len(losses(tmp_path / "run"))
    for result in results:
        assert f"step {done + 1}: the loss is not finite" in result.message
        assert "000020001" in result.message
        assert result.message.count("samples") == 2, "only the guilty rank's samples are named"
    if done:
        weights = load_checkpoint(tmp_path / f"run/checkpoints/step-{done:06d}").tensors["trainable"]
        assert all(np.isfinite(value.numpy()).all() for value in weights.values())


@pytest.mark.timeout(240)
@pytest.mark.case(49)
def test_when_one_rank_dies_the_other_stops_within_the_timeout(tmp_path: Path):
    # mutation: without the except clauses of open_world rank 0 ends with a traceback (-1 here)
    marker = tmp_path / "marker"
    children = start_ranks(
        settings_for(1, tmp_path / "run", max_steps=200),
        2,
        [{}, {"LPOSEKIT_FAULT": f"train:after_step@{marker}"}],
    )
    killed = children[1].join()
    died = time.monotonic()
    survivor = children[0].join(timeout_s=40)
    assert killed.exit_code == -signal.SIGKILL
    assert survivor.exit_code == 1, survivor.message
    assert "another training process died" in survivor.message
    assert time.monotonic() - died < 35


@pytest.mark.timeout(240)
@pytest.mark.case(51)
def test_a_killed_loader_worker_is_named_with_its_shard(tmp_path: Path):
    # mutation: without named_worker_deaths torch's RuntimeError comes through
    settings = settings_for(1, tmp_path / "run", max_steps=10_000, loader=LoaderSettings(workers=2, block_samples=4))
    before = {child.pid for child in psutil.Process().children()}
    killer = threading.Thread(target=lambda: kill_new_child(before, tmp_path / "run"))
    killer.start()
    with pytest.raises(LposekitError, match=r"loader worker \d \(pid \d+\) died while it read shard 0000\d of"):
        run(settings)
    killer.join()


def kill_new_child(before: set[int], run_dir: Path) -> None:
    """SIGKILL one of the processes that this one started since."""
    wait_for_steps(run_dir, 2)
    workers = [child for child in psutil.Process().children() if child.pid not in before]
    os.kill(workers[-1].pid, signal.SIGKILL)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.case(51)
def test_an_image_that_cannot_be_decoded_is_named_with_its_shard(workers: int, tmp_path: Path):
    # a worker that raises; mutation: returning no _Failure shows DataLoader's own traceback
    dataset = write_dataset(tmp_path / "data", [4])
    harm_image(dataset / "00000.tar")
    settings = settings_for(1, tmp_path / "run", data=(dataset,), loader=LoaderSettings(workers=workers))
    with pytest.raises(LposekitError, match=r"shard 00000 of .*: sample 000000002 is damaged"):
        run(settings)
    assert not losses(tmp_path / "run")


def harm_image(tar: Path) -> None:
    """Overwrites the middle of the third image, so that sizes stay right."""
    jpg = image_members(2)["jpg"]
    data = tar.read_bytes()
    at = data.index(jpg)
    tar.write_bytes(data[: at + 2] + bytes(len(jpg) - 2) + data[at + len(jpg) :])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("harm", ["cut", "longer", "gone", "empty"])
@pytest.mark.case(33)
def test_a_changed_shard_is_refused_by_its_size_before_the_first_step(harm: str, tmp_path: Path):
    # mutation: no check_sizes in open_catalog
    dataset = write_dataset(tmp_path / "data", [4, 4])
    tar = dataset / "00001.tar"
    data = tar.read_bytes()
    tar.unlink()
    if harm != "gone":
        tar.write_bytes({"cut": data[:-512], "longer": data + b"x", "empty": b""}[harm])
    with pytest.raises(LposekitError, match=r"shard 00001 of"):
        run(settings_for(1, tmp_path / "run", data=(dataset,)))
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(180)
def test_one_flipped_bit_is_refused_by_its_hash_when_asked_for(tmp_path: Path):
    # mutation: no check_hashes in open_data
    dataset = write_dataset(tmp_path / "data", [4, 4])
    tar = dataset / "00001.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    loader = LoaderSettings(workers=0, verify_sha256=True)
    with pytest.raises(LposekitError, match=r"shard 00001 of .* other bytes"):
        run(settings_for(1, tmp_path / "run", data=(dataset,), loader=loader))


@pytest.mark.timeout(240)
def test_every_process_refuses_the_shard_whose_hash_one_of_them_found_wrong(tmp_path: Path):
    # mutation tried: no gather in check_hashes: the other process goes on and waits for the first step's gradients
    dataset = write_dataset(tmp_path / "data", [4, 4, 1])
    tar = dataset / "00001.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    loader = LoaderSettings(workers=0, verify_sha256=True)
    results = train_ranks(settings_for(1, tmp_path / "run", data=(dataset,), loader=loader), 2)
    assert [result.exit_code for result in results] == [1, 1]
    assert all("shard 00001 of" in result.message and "other bytes" in result.message for result in results)


@pytest.mark.timeout(180)
@pytest.mark.case(35)
def test_two_shards_with_the_same_keys_are_refused(tmp_path: Path):
    # mutation: no _refuse_shared_keys
    import shutil

    dataset = write_dataset(tmp_path / "data", [4, 4])
    shutil.copy(dataset / "_dataset/index/00000.parquet", dataset / "_dataset/index/00001.parquet")
    with pytest.raises(LposekitError, match=r"00000 and 00001 of .* share the key"):
        run(settings_for(1, tmp_path / "run", data=(dataset,)))


@pytest.mark.timeout(180)
@pytest.mark.case(47)
def test_resuming_with_changed_data_is_refused_and_shows_what_changed(tmp_path: Path):
    # mutation: refuse_other_run left out
    settings = settings_for(1, tmp_path / "run", data=(write_dataset(tmp_path / "data", [4, 4]),), max_steps=4)
    run(settings)
    # mutation tried: the digest without the hashes of the shards lets the second one pass
    for name, sizes, height in (("longer", [5, 4], 80), ("other", [4, 4], 96)):
        other = write_dataset(tmp_path / name, sizes, height=height)
        with pytest.raises(UsageError, match=r"cannot be resumed.*\n.*data: "):
            run(settings_for(1, tmp_path / "run", data=(other,), max_steps=8))
    with pytest.raises(UsageError, match="seed: 0 -> 1"):
        run(settings_for(1, tmp_path / "run", data=settings.data, seed=1))


@pytest.mark.timeout(180)
def test_resume_none_refuses_a_folder_with_checkpoints_and_a_named_one_is_taken(tmp_path: Path):
    settings = settings_for(1, tmp_path / "run")
    run(settings)
    with pytest.raises(UsageError, match="--resume none"):
        run(settings_for(1, tmp_path / "run", resume="none"))
    older = tmp_path / "run/checkpoints/step-000004"
    report = run(settings_for(1, tmp_path / "other", resume=str(older)))
    assert report.as_json()["first_step"] == 4
    assert losses(tmp_path / "other") == losses(tmp_path / "run")[4:]


@pytest.mark.timeout(180)
@pytest.mark.case(50)
def test_a_loss_that_is_not_finite_names_the_step_and_its_samples(tmp_path: Path):
    settings = settings_for(1, tmp_path / "run", loss=LossSettings(offset_noise=1e38))
    with pytest.raises(LposekitError, match=r"step 1: the loss is not finite .*samples 0000"):
        run(settings)
