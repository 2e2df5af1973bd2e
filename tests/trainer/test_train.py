"""Contract of `trainer.train.run`: a run that stops anywhere goes on to the bit; what trains changes and nothing
else does; the order of samples is that of no worker and no process; wrong settings are refused before anything is
loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lposekit.errors import LposekitError, UsageError
from tests.support.train_data import write_dataset
from tests.support.train_runs import images, keys, losses, settings_for, small_base, train_in_child, train_ranks
from trainer.model.base import load_base
from trainer.settings import (
    CheckpointSettings,
    EmaSettings,
    FramingSettings,
    LoaderSettings,
    LossSettings,
    OptimSettings,
    TrainSettings,
    WatchSettings,
)
from trainer.train import run


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_stopped_and_resumed_equals_the_undisturbed_run(stage: int, tmp_path: Path):
    changes = {"ema": EmaSettings(decay=0.9, start_step=2), "optim": OptimSettings(warmup_steps=3, schedule="cosine")}
    whole = settings_for(stage, tmp_path / "whole", **changes)
    run(whole)
    # a run that is only asked for fewer steps would follow another cosine: stop this one by its own checkpoint
    parted = dataclasses.replace(whole, output=tmp_path / "parted")
    run(parted)
    last = sorted((tmp_path / "parted" / "checkpoints").iterdir())[-1]
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    run(parted)
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    assert [step for step, _ in losses(tmp_path / "parted")] == list(range(1, 9))
    for name in ("trainable", "ema", "optimizer"):
        file = f"checkpoints/step-000008/{name}.safetensors"
        assert (tmp_path / "parted" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_gradient_accumulation_equals_one_large_batch(tmp_path: Path):
    run(settings_for(1, tmp_path / "once"))
    run(settings_for(1, tmp_path / "twice", optim=OptimSettings(micro_batch=2)))
    assert keys(tmp_path / "twice") == keys(tmp_path / "once")
    for (_, one), (_, two) in zip(losses(tmp_path / "once"), losses(tmp_path / "twice"), strict=True):
        assert float.fromhex(two) == pytest.approx(float.fromhex(one), rel=1e-5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.case(46)
def test_any_number_of_workers_gives_the_same_run(workers: int, tmp_path: Path):
    # mutation tried: a loader that takes batches as they are ready (in_order=False)
    run(settings_for(1, tmp_path / "alone"))
    run(settings_for(1, tmp_path / "workers", loader=LoaderSettings(workers=workers, block_samples=4)))
    assert keys(tmp_path / "workers") == keys(tmp_path / "alone")
    assert losses(tmp_path / "workers") == losses(tmp_path / "alone")


@pytest.mark.timeout(300)
@pytest.mark.case(45)
def test_one_then_two_then_one_processes_see_the_samples_of_one(tmp_path: Path):
    # mutation tried: every process takes the first part of a batch
    run(settings_for(1, tmp_path / "one", max_steps=12))
    elastic = tmp_path / "elastic"
    for world, steps in ((1, 4), (2, 8), (1, 12)):
        results = train_ranks(settings_for(1, elastic, max_steps=steps), world)
        assert [result.exit_code for result in results] == [0] * world, results
    assert keys(elastic) == keys(tmp_path / "one")
    seen = [key for _, step in keys(elastic) for key in step]
    assert len(seen) == 48
    assert all(sorted(seen[epoch : epoch + 11]) == sorted(set(seen)) for epoch in (0, 11, 22, 33))
    for (_, one), (_, other) in zip(losses(tmp_path / "one"), losses(elastic), strict=True):
        assert float.fromhex(other) == pytest.approx(float.fromhex(one), rel=1e-5)


@pytest.mark.timeout(300)
@pytest.mark.case(48)
def test_two_processes_on_five_unequal_shards_make_the_same_steps_and_lose_nothing(tmp_path: Path):
    # mutations tried: every process takes the first part of a batch; the rest of an epoch is left out
    data = write_dataset(tmp_path / "data", [1, 4, 0, 6, 2])
    loader = LoaderSettings(workers=1, block_samples=4)
    results = train_ranks(settings_for(1, tmp_path / "run", data=(data,), max_steps=13, loader=loader), 2)
    assert [(result.exit_code, result.report.get("step")) for result in results] == [(0, 13), (0, 13)], results
    assert [(step, len(names)) for step, names in keys(tmp_path / "run")] == [(step, 4) for step in range(1, 14)]
    # 52 samples are four epochs of 13, whose last batches are filled from the next
    seen = [key for _, step in keys(tmp_path / "run") for key in step]
    assert all(len(set(seen[epoch : epoch + 13])) == 13 for epoch in (0, 13, 26, 39))


def test_stage_1_trains_the_pose_encoder_and_stage_2_the_temporal_parts(tmp_path: Path):
    run(settings_for(1, tmp_path / "one", max_steps=2))
    run(settings_for(2, tmp_path / "two", max_steps=2, pose_encoder=str(tmp_path / "one")))
    first = load_file(tmp_path / "one/checkpoints/step-000002/trainable.safetensors")
    second = load_file(tmp_path / "two/checkpoints/step-000002/trainable.safetensors")
    assert {name.split(".")[0] for name in first} == {"skeleton_adapter"}
    assert all("attn" in name or "conv_temporal" in name for name in second)
    carried = load_file(tmp_path / "two/pose_encoder.safetensors")
    assert all((first[f"skeleton_adapter.{name}"] == value).all() for name, value in carried.items())
    base = load_base(str(small_base())).unet.state_dict()
    assert any((second[name] != base[name]).any() for name in second if name in base)
    card = json.loads((tmp_path / "two/run.json").read_text())
    assert len(card["pose_encoder"]["sha256"]) == 64


def test_the_panel_and_the_images_are_made_at_the_start_and_at_the_end(tmp_path: Path):
    watch = WatchSettings(probe_every=100, probe_samples=3, sample_every=100, sample_steps=2, sample_count=2)
    for stage, names in (
        (1, ["matching_pose", "shuffled_pose", "no_pose"]),
        (2, ["frames_in_order", "frames_shuffled"]),
    ):
        report = run(settings_for(stage, tmp_path / str(stage), max_steps=2, watch=watch))
        lines = [json.loads(line) for line in (tmp_path / str(stage) / "metrics.jsonl").read_text().splitlines()]
        probes = [line for line in lines if f"probe/{names[0]}" in line]
        assert [line["step"] for line in probes] == [0, 2]
        assert all(f"probe/{name}" in probes[0] for name in names)
        assert sorted(path.name for path in (tmp_path / str(stage) / "samples").iterdir()) == [
            "step-000000.jpg",
            "step-000002.jpg",
        ]
        assert 0 < report.as_json()["last"]["mfu"] < 2
        assert report.as_json()["last"]["tflops"] > 0


def test_watching_a_run_does_not_change_it(tmp_path: Path):
    run(settings_for(1, tmp_path / "unwatched", ema=EmaSettings(decay=0.5)))
    watch = WatchSettings(keys=True, probe_every=3, sample_every=4, sample_steps=1, sample_count=1, mfu=False)
    run(settings_for(1, tmp_path / "watched", ema=EmaSettings(decay=0.5), watch=watch))
    assert losses(tmp_path / "watched") == losses(tmp_path / "unwatched")


def test_caption_dropout_changes_no_other_random_number(tmp_path: Path):
    run(settings_for(1, tmp_path / "captions", max_steps=1))
    run(settings_for(1, tmp_path / "none", max_steps=1, loss=LossSettings(caption_dropout=1.0)))
    assert keys(tmp_path / "captions") == keys(tmp_path / "none")
    loss, other = (float.fromhex(losses(tmp_path / name)[0][1]) for name in ("captions", "none"))
    assert other != loss
    assert other == pytest.approx(loss, rel=0.05), "the same noise and timesteps: only the caption differs"


def test_loss_options_reach_the_loss(tmp_path: Path):
    run(settings_for(1, tmp_path / "plain", max_steps=1))
    for name, loss in (("snr", LossSettings(min_snr_gamma=1e-3)), ("offset", LossSettings(offset_noise=0.1))):
        run(settings_for(1, tmp_path / name, max_steps=1, loss=loss))
        assert losses(tmp_path / name) != losses(tmp_path / "plain")


def saved(run_dir: Path, step: int, name: str = "trainable") -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name."""
    return load_file(run_dir / f"checkpoints/step-{step:06d}/{name}.safetensors")


def test_every_option_of_the_optimiser_reaches_it(tmp_path: Path):
    # mutations tried: each of them left at torch's own default, or (the norm) not clipped -> red each
    plain = OptimSettings(lr=1e-3)
    run(settings_for(1, tmp_path / "plain", max_steps=2, optim=plain))
    changes = {"lr": 2e-3, "weight_decay": 0.5, "betas": (0.5, 0.9), "eps": 0.1, "clip_norm": 1e-6}
    for name, value in changes.items():
        optim = dataclasses.replace(plain, **{name: value})
        run(settings_for(1, tmp_path / name, max_steps=2, optim=optim))
        before, after = saved(tmp_path / "plain", 2), saved(tmp_path / name, 2)
        assert any(not torch.equal(before[key], after[key]) for key in before), name


def test_the_average_waits_for_its_start_and_then_follows_its_decay(tmp_path: Path):
    # mutations tried: another decay; no start step; restoring the weights in place of the average, or no count of its
    # steps, when the run is resumed -> red each
    changes = {
        "ema": EmaSettings(decay=0.28, start_step=2),
        "optim": OptimSettings(lr=1e-2),
        "checkpoint": CheckpointSettings(every_steps=1, keep=9),
    }
    for steps in (5, 7):  # stopped and resumed
        run(settings_for(1, tmp_path / "run", max_steps=steps, **changes))
    average = saved(tmp_path / "run", 3, "ema")
    for step, decay in ((1, 0.0), (2, 0.0), (3, 0.0), (4, 2 / 11), (5, 3 / 12), (6, 0.28), (7, 0.28)):
        weights, found = saved(tmp_path / "run", step), saved(tmp_path / "run", step, "ema")
        before = average if step > 3 else weights
        average = {name: decay * before[name] + (1 - decay) * value for name, value in weights.items()}
        for name, value in found.items():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-7)


def test_two_datasets_are_visited_by_their_weights(tmp_path: Path):
    other = write_dataset(tmp_path / "other", [4])
    loader = LoaderSettings(workers=0, weights=(1, 2))
    run(settings_for(1, tmp_path / "run", data=(images(), other), batch_size=19, max_steps=1, loader=loader))
    (_, seen), *_ = keys(tmp_path / "run")
    assert sum(key.startswith("0:") for key in seen) == 11
    assert sorted(key for key in seen if key.startswith("1:")) == sorted(2 * [f"1:00000000{i}" for i in range(4)])


def test_dry_run_says_what_it_costs_and_writes_nothing(tmp_path: Path):
    report = run(settings_for(1, tmp_path / "run"), dry_run=True)
    facts = report.as_json()
    assert facts["trained_parameters"] > 0
    assert facts["tflop_per_step"] > 0
    assert facts["memory_gib"] > 0
    assert "trained:" in "\n".join(report.summary_lines())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": None}, "--output"),
        ({"base": None}, "--base"),
        ({"max_steps": 0}, "--max-steps 0"),
        ({"image": FramingSettings(size=100)}, "multiple of 64"),
        ({"checkpoint": CheckpointSettings(keep=1)}, "--checkpoint.keep 1: .*number >= 2"),
        ({"data": ()}, "--data"),
        ({"loader": LoaderSettings(latents=True), "image": FramingSettings(size=64, flip=0.5)}, "unflipped"),
        ({"batch_size": 4, "optim": OptimSettings(micro_batch=3)}, "cannot be divided"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, words: str, tmp_path: Path):
    with pytest.raises(UsageError, match=words):
        run(dataclasses.replace(settings_for(1, tmp_path / "run"), **changes))


def test_a_dataset_of_the_other_kind_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="stage 2 trains on clips"):
        run(settings_for(2, tmp_path / "run", data=(images(),)))


def test_stage_2_asks_for_a_pose_encoder(tmp_path: Path):
    with pytest.raises(UsageError, match="--pose-encoder none"):
        run(settings_for(2, tmp_path / "run", pose_encoder=""))


@pytest.mark.case(53)
def test_stage_2_names_what_does_not_fit_in_a_pose_encoder_of_another_size(tmp_path: Path):
    # mutation: strict=False in the loader of weights lets this run start
    run(settings_for(1, tmp_path / "one", max_steps=1, base="tiny"))
    with pytest.raises(LposekitError, match=r"conv_in.weight is \(32, 192, 3, 3\) instead of \(8, 192, 3, 3\)"):
        run(settings_for(2, tmp_path / "two", pose_encoder=str(tmp_path / "one")))


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path):
    from trainer.run.folder import own_folder

    with own_folder(tmp_path / "run"), pytest.raises(UsageError, match="another run is writing"):
        run(settings_for(1, tmp_path / "run"))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path):
    settings = settings_for(1, tmp_path / "run", max_steps=2)
    run(settings)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")}
    report = run(settings)
    assert "has all of its 2 steps" in report.summary_lines()[0]
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")} == before


def test_the_settings_of_a_run_are_written_and_read_back(tmp_path: Path):
    import tomllib

    settings = settings_for(1, tmp_path / "run", max_steps=1)
    run(settings)
    written = tomllib.loads((tmp_path / "run/settings.toml").read_text())
    assert written["train"]["image"]["flip"] == 0.5
    assert written["train"]["data"] == [str(images())]
    assert isinstance(settings, TrainSettings)


def test_a_child_trains_as_this_process_does(tmp_path: Path):
    run(settings_for(1, tmp_path / "here", max_steps=2))
    assert train_in_child(settings_for(1, tmp_path / "there", max_steps=2)).exit_code == 0
    assert losses(tmp_path / "there") == losses(tmp_path / "here")
