"""Contract of going on: a run goes on with what it was trained with, or is refused with what differs; it never falls
back to its beginning; what a run says of its pose encoder is what it uses."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lposekit.errors import LposekitError, UsageError
from tests.support.train_data import write_dataset
from tests.support.train_runs import images, keys, losses, settings_for, small_base, train_in_child
from trainer.model.base import load_base
from trainer.model.official_weights import write_pose_encoder
from trainer.model.pose_encoder import build_pose_encoder
from trainer.model.switches import OFFICIAL
from trainer.run.metrics import read_metrics
from trainer.run.walker import walker_skeletons
from trainer.settings import (
    CheckpointSettings,
    FramingSettings,
    LoaderSettings,
    ModelSettings,
    SkeletonSettings,
    TrainSettings,
    WatchSettings,
)
from trainer.train import run

PLAIN = FramingSettings(size=64)


def encoder_file(path: Path, seed: int) -> str:
    write_pose_encoder(build_pose_encoder((8, 8, 16, 16), OFFICIAL, seed), path)
    return str(path)


def card(run_dir: Path) -> dict:
    return json.loads((run_dir / "run.json").read_text())


def stage_2(run_dir: Path, pose_encoder: str, max_steps: int = 2, **changes: object) -> TrainSettings:
    every = CheckpointSettings(every_steps=2, keep=2)
    return settings_for(2, run_dir, pose_encoder=pose_encoder, max_steps=max_steps, checkpoint=every, **changes)


def assert_carries(run_dir: Path, file: str) -> None:
    carried, named = load_file(run_dir / "pose_encoder.safetensors"), load_file(file)
    assert carried.keys() == named.keys()
    assert all(torch.equal(carried[name], named[name]) for name in named)
    assert card(run_dir)["pose_encoder"]["source"] == file


@pytest.mark.timeout(240)
def test_a_run_without_a_checkpoint_takes_the_pose_encoder_that_is_named_now(tmp_path: Path):
    # mutation tried: any copy in the folder is taken as the run's own: A stays, under the name of B
    a, b = (encoder_file(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab"))
    fault = {"LPOSEKIT_FAULT": f"train:in_step@{tmp_path / 'marker'}"}
    assert train_in_child(stage_2(tmp_path / "run", a), fault).exit_code == -signal.SIGKILL
    assert_carries(tmp_path / "run", a)
    run(stage_2(tmp_path / "run", b))
    assert_carries(tmp_path / "run", b)


@pytest.mark.timeout(240)
def test_a_run_without_pose_encoder_leaves_no_copy_of_a_killed_one(tmp_path: Path):
    a = encoder_file(tmp_path / "a.safetensors", 0)
    fault = {"LPOSEKIT_FAULT": f"train:in_step@{tmp_path / 'marker'}"}
    train_in_child(stage_2(tmp_path / "run", a), fault)
    run(stage_2(tmp_path / "run", "none"))
    assert not (tmp_path / "run/pose_encoder.safetensors").exists()
    assert card(tmp_path / "run")["pose_encoder"] is None


@pytest.mark.timeout(240)
def test_a_resumed_run_keeps_its_pose_encoder_and_refuses_another(tmp_path: Path):
    # mutation tried: the copy taken without a look at the name lets B pass, and run.json say so
    a, b = (encoder_file(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab"))
    run(stage_2(tmp_path / "run", a))
    for other in (b, "none"):
        with pytest.raises(UsageError, match=r"another pose encoder \(from .*a.safetensors\)"):
            run(stage_2(tmp_path / "run", other, 4))
    run(stage_2(tmp_path / "run", "", 4))
    assert_carries(tmp_path / "run", a)
    kept = tmp_path / "kept.safetensors"
    Path(a).rename(kept)
    run(stage_2(tmp_path / "run", a, 6))
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    kept.rename(a)
    assert_carries(tmp_path / "run", a)
    (tmp_path / "run/pose_encoder.safetensors").unlink()
    with pytest.raises(UsageError, match=r"cannot be resumed(.|\n)*pose_encoder: "):
        run(stage_2(tmp_path / "run", b, 8))


@pytest.mark.timeout(180)
def test_stage_1_goes_on_without_the_weights_that_it_started_from_but_not_with_others(tmp_path: Path):
    a, b = (encoder_file(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab"))
    run(settings_for(1, tmp_path / "run", max_steps=1, pose_encoder=a))
    with pytest.raises(UsageError, match=r"cannot be resumed(.|\n)*pose_encoder: "):
        run(settings_for(1, tmp_path / "run", max_steps=2, pose_encoder=b))
    run(settings_for(1, tmp_path / "run", max_steps=2))
    run(settings_for(1, tmp_path / "run", max_steps=3, pose_encoder=a))
    assert [step for step, _ in losses(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.timeout(180)
def test_a_pose_encoder_that_is_not_there_is_a_wrong_use_and_says_what_comes_first(tmp_path: Path):
    with pytest.raises(UsageError, match=r"nothing: nothing there. Train stage 1 first \(lposekit train --stage 1\)"):
        run(stage_2(tmp_path / "run", str(tmp_path / "nothing")))
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(240)
def test_stage_2_draws_skeletons_as_its_pose_encoder_was_trained_with(tmp_path: Path):
    # mutation tried: the settings' own style on the validation images
    drawn = SkeletonSettings(style="openpose18", line_width=3)
    run(settings_for(1, tmp_path / "one", max_steps=1, pose=drawn))
    watch = WatchSettings(probe_every=0, sample_every=5, sample_steps=1, sample_count=1, tensorboard=False, mfu=False)
    settings = stage_2(tmp_path / "two", str(tmp_path / "one"), watch=watch, image=FramingSettings(size=128))
    run(settings)
    described = card(tmp_path / "two")
    assert (described["pose_style"], described["pose_line_width"]) == ("openpose18", 6)
    grid = cv2.cvtColor(cv2.imread(str(tmp_path / "two/samples/step-000002.jpg")), cv2.COLOR_BGR2RGB)  # pyright: ignore

    def distance(style: str, line_width: float) -> float:
        walk = np.concatenate(list(walker_skeletons(2, 128, style, line_width)), axis=1)  # pyright: ignore
        return float(np.abs(grid[:128].astype(float) - walk).mean())

    assert distance("openpose18", 6) < 4
    assert distance("openpose18", 6) < min(distance("openpose18", 3), distance("followyourpose", 6)) / 2
    with pytest.raises(UsageError, match=r"--pose.style mmpose1: the pose encoder was trained with openpose18"):
        run(stage_2(tmp_path / "three", str(tmp_path / "one"), pose=SkeletonSettings(style="mmpose1")))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("stage", "words"),
    [(1, r"cannot draw the 17 keypoints of .*Choose one of followyourpose"), (2, "--watch.sample-every 0")],
)
def test_a_style_that_cannot_draw_the_keypoints_is_a_wrong_use(stage: int, words: str, tmp_path: Path):
    # mutation tried: without the check, draw_skeleton's ValueError from the first sample
    watch = WatchSettings(sample_every=5, mfu=False)
    with pytest.raises(UsageError, match=words):
        run(settings_for(stage, tmp_path / "run", pose=SkeletonSettings(style="dwpose133"), watch=watch))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ModelSettings(pose_init="zero")}, "switches.pose_init: 'random' -> 'zero'"),
        ({"pose": SkeletonSettings(style="mmpose1")}, "pose.style: 'followyourpose' -> 'mmpose1'"),
        ({"pose": SkeletonSettings(line_width=3)}, "pose.line_width: None -> 3"),
        ({"image": FramingSettings(size=128)}, "size: 64 -> 128"),
        ({"loader": LoaderSettings(workers=0, block_samples=4, latents=True)}, r"latents: \[\] -> \['"),
        ({"loader": LoaderSettings(workers=0, block_samples=2)}, "block_samples: 4 -> 2"),
        ({"loader": LoaderSettings(workers=0, block_samples=4, weights=(2.0,))}, r"weights: \[1.0\] -> \[2.0\]"),
        ({"base": "other"}, "vae: '"),
    ],
    ids=["switch", "style", "line-width", "size", "latents", "block", "weights", "vae"],
)
def test_a_run_is_not_resumed_with_another_model_image_or_vae(changes: dict, words: str, tmp_path: Path):
    # mutation tried: each of these left out of `fixed` lets its case pass in silence
    data = write_dataset(tmp_path / "data", [3, 2])
    run(settings_for(1, tmp_path / "run", data=(data,), image=PLAIN, max_steps=1))
    if "loader" in changes and changes["loader"].latents:
        cache(data)
    if "base" in changes:
        changes = {"base": str(base_with_other_vae(tmp_path / "base"))}
    settings = {"data": (data,), "image": PLAIN, "max_steps": 2, **changes}
    with pytest.raises(UsageError, match=rf"cannot be resumed(.|\n)*{words}"):
        run(settings_for(1, tmp_path / "run", **settings))
    assert [step for step, _ in losses(tmp_path / "run")] == [1]


@pytest.mark.timeout(240)
def test_other_settings_of_a_resumed_run_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    # mutations tried: no comparison -> red; all settings compared -> red
    data = write_dataset(tmp_path / "data", [3, 2])
    first = settings_for(1, tmp_path / "run", data=(data,), image=PLAIN, max_steps=1)
    run(first)
    run(replace(first, max_steps=2))
    assert "other settings" not in caplog.text
    run(replace(first, max_steps=3, batch_size=2, optim=replace(first.optim, lr=0.5)))
    assert "from step 3 on, the run has other settings than before" in caplog.text
    assert "batch_size: 4 -> 2" in caplog.text
    assert "optim.lr: None -> 0.5" in caplog.text
    assert "max_steps" not in caplog.text


def cache(data: Path) -> None:
    from trainer.cache_latents.run import run as cache_latents
    from trainer.settings import CacheLatentsSettings

    cache_latents(CacheLatentsSettings(data=data, base=str(small_base()), size=64, device="cpu", threads=1))


def base_with_other_vae(folder: Path) -> Path:
    import shutil

    shutil.copytree(small_base(), folder)
    vae = load_base(str(folder)).vae
    vae.encoder.conv_in.bias.data += 1  # pyright: ignore
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.mark.timeout(180)
def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_over(tmp_path: Path):
    # mutation tried: without the check the run begins at step 0 and its metrics are gone
    settings = settings_for(1, tmp_path / "run")
    run(settings)
    for folder in (tmp_path / "run/checkpoints").iterdir():
        (folder / "trainable.safetensors").write_bytes(b"")
    before = losses(tmp_path / "run")
    with pytest.raises(LposekitError, match=r"none of its 2 checkpoints is whole.*--resume PATH"):
        run(settings)
    assert losses(tmp_path / "run") == before


@pytest.mark.timeout(180)
def test_a_run_folder_named_as_a_checkpoint_is_told_what_one_is(tmp_path: Path):
    run(settings_for(1, tmp_path / "run", max_steps=1))
    words = r"run is no checkpoint. Name a folder RUN/checkpoints/step-NNNNNN, such as .*run/checkpoints/step-000001"
    with pytest.raises(UsageError, match=words):
        run(settings_for(1, tmp_path / "other", resume=str(tmp_path / "run")))


@pytest.mark.timeout(180)
def test_a_run_killed_before_its_first_checkpoint_looks_at_step_0_once(tmp_path: Path):
    watch = WatchSettings(probe_every=5, probe_samples=2, sample_every=0, tensorboard=False, mfu=False)
    settings = settings_for(1, tmp_path / "run", max_steps=1, watch=watch)
    fault = {"LPOSEKIT_FAULT": f"train:in_step@{tmp_path / 'marker'}"}
    assert train_in_child(settings, fault).exit_code == -signal.SIGKILL
    run(settings)
    assert [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "probe/no_pose" in line] == [0, 1]


@pytest.mark.timeout(240)
def test_a_run_stopped_at_the_last_batch_of_an_epoch_goes_on_with_the_next(tmp_path: Path):
    # mutation tried: a state of (epoch, 0 consumed) at that place makes the epoch again
    data = write_dataset(tmp_path / "data", [4, 4])
    whole = settings_for(1, tmp_path / "whole", data=(data,), max_steps=6)
    run(whole)
    for steps in (2, 6):
        run(settings_for(1, tmp_path / "parted", data=(data,), max_steps=steps))
    assert keys(tmp_path / "parted") == keys(tmp_path / "whole")
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    seen = [key for _, step in keys(tmp_path / "parted") for key in step]
    assert all(len(set(seen[epoch : epoch + 8])) == 8 for epoch in (0, 8, 16))


@pytest.mark.timeout(180)
def test_a_checkpoint_from_behind_the_end_of_its_epoch_is_refused(tmp_path: Path):
    # it belongs to other data, whatever its digests say
    from trainer.run.checkpoint import load_checkpoint, save_checkpoint, step_folder

    settings = settings_for(1, tmp_path / "run", max_steps=1)
    run(settings)
    old = load_checkpoint(step_folder(tmp_path / "run", 1))
    facts = {name: old.facts[name] for name in old.facts if name not in ("schema", "step", "files")}
    forged = type(old)(1, old.tensors, {**facts, "order": {"epoch": 0, "consumed": 12}})
    save_checkpoint(tmp_path / "run", forged)
    with pytest.raises(LposekitError, match="12 samples of epoch 0 are consumed, but that epoch has 11"):
        run(settings_for(1, tmp_path / "run", max_steps=2, data=(images(),)))
