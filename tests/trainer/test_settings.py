"""Contract of the trainer's settings: a value with which a run would crash in its middle, or train nothing without a
word, is refused before anything is loaded, by its name and with what it may be; what a run wrote as its settings starts
the same run again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lposekit.commands.flags import load
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from lposekit.setting_values import check_values, describe, flag, leaves
from trainer.cache_latents.run import run as cache_latents
from trainer.run.folder import write_settings
from trainer.settings import (
    CacheLatentsSettings,
    LoaderSettings,
    SkeletonSettings,
    TrainSettings,
    WatchSettings,
)
from trainer.train import run as train

NAN = float("nan")
OUTSIDE = {
    "batch_size": 0,
    "max_steps": 0,
    "seed": -1,
    "image.size": 100,
    "image.flip": 1.5,
    "clip.frames": 0,
    "clip.stride": 0,
    "clip.stride_s": 0.0,
    "pose.line_width": 0.0,
    "loader.workers": -1,
    "loader.prefetch": 0,
    "loader.weights": (1, 0.0004),
    "loader.block_samples": 0,
    "loader.held_out": -1,
    "loader.image_share": 1.5,
    "optim.lr": 0.0,
    "optim.betas": (0.9, 1.0),
    "optim.weight_decay": -0.1,
    "optim.eps": 0.0,
    "optim.clip_norm": 0.0,
    "optim.warmup_steps": -1,
    "optim.micro_batch": -4,
    "loss.caption_dropout": NAN,
    "loss.min_snr_gamma": 0.0,
    "loss.offset_noise": NAN,
    "ema.decay": 1.0,
    "ema.start_step": -1,
    "compute.threads": 0,
    "compute.timeout_s": 0.0,
    "compute.memory_gib": 0.0,
    "checkpoint.every_steps": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_every_steps": 0,
    "watch.log_every": 0,
    "watch.probe_every": -1,
    "watch.probe_samples": 1,
    "watch.validation_samples": -1,
    "watch.sample_every": -1,
    "watch.sample_count": 0,
    "watch.sample_steps": 0,
    "watch.guidance": -1.0,
}


def with_value(settings: TrainSettings, name: str, value: object) -> TrainSettings:
    group, _, rest = name.partition(".")
    changed = dataclasses.replace(getattr(settings, group), **{rest: value}) if rest else value
    return dataclasses.replace(settings, **{group: changed})  # pyright: ignore


def usable() -> TrainSettings:
    return TrainSettings(data=(Path("a"), Path("b")), output=Path("run"), base="tiny")


def test_the_defaults_are_inside():
    check_values(usable())


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_value_outside_is_refused_by_name_with_its_range(name: str):
    with pytest.raises(UsageError) as refused:
        check_values(with_value(usable(), name, OUTSIDE[name]))
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{flag(name)} ")
    assert describe(leaves(TrainSettings)[name].annotation) in line or name == "loader.weights"


def test_a_value_outside_is_listed_for_every_number():
    # what may be any number: a raw score, which can be negative
    words = {name: describe(leaf.annotation) for name, leaf in leaves(TrainSettings).items()}
    assert {name for name, text in words.items() if "number" in text} - {"pose.score_threshold"} == set(OUTSIDE)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.0, 0.0), "not all 0"),
        ((1, 0.0004), "each 0, or at least 0.001"),
        ((1, -1.0), "number >= 0"),
        ((1.0,), "one for each dataset of --data, which has 2"),
    ],
)
def test_weights_with_which_a_dataset_would_not_count_are_refused(weights: tuple[float, ...], words: str):
    # mutations tried: each of the three rules left out
    with pytest.raises(UsageError, match=f"--loader.weights {' '.join(map(str, weights))}: .*{words}"):
        check_values(dataclasses.replace(usable(), loader=LoaderSettings(weights=weights)))


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(UsageError) as refused:
        train(TrainSettings(batch_size=0))
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        "--batch-size 0",
        "--output none",
        "--base none",
    ]
    with pytest.raises(UsageError) as refused:
        cache_latents(CacheLatentsSettings())
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == ["--data none", "--base none"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("size", 100, "a multiple of 64"), ("batch_size", 0, ">= 1"), ("threads", 0, ">= 1")],
)
def test_cache_latents_refuses_values_outside(name: str, value: int, words: str, tmp_path: Path):
    settings = CacheLatentsSettings(**{"data": tmp_path, "base": "tiny", name: value})  # pyright: ignore
    with pytest.raises(UsageError, match=f"{flag(name)} {value}: .*whole number .*{words}"):
        cache_latents(settings)


def test_the_settings_of_a_run_are_a_preset_that_starts_it_again(tmp_path: Path):
    # mutations tried: without the table's name, "unknown key"; with JSON's escapes, the second prompt is no TOML
    settings = TrainSettings(
        stage=2,
        data=(tmp_path / "one", tmp_path / "two"),
        output=tmp_path / "run",
        base="tiny",
        pose_encoder="none",
        pose=SkeletonSettings(line_width=3.5),
        loader=LoaderSettings(weights=(1, 0.25)),
        watch=WatchSettings(sample_prompts=('a "quoted" prompt', "\U0001f483 dances \\ slowly")),
    )
    write_settings(tmp_path, settings)
    argv = ["--preset", str(tmp_path / "settings.toml")]
    loaded = load(COMMANDS["train"], TrainSettings, argv, environ={}, folder=tmp_path / "elsewhere")
    assert loaded.settings == settings
    assert not loaded.quickstart
