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
from lposekit.setting_values import flag, leaves
from trainer.cache_latents import run as cache_latents
from trainer.run.folder import write_settings
from trainer.settings import (
    CACHE_RANGES,
    TRAIN_RANGES,
    CacheLatentsSettings,
    LoaderSettings,
    PoseSettings,
    TrainSettings,
    WatchSettings,
    check_settings,
)

NAN = float("nan")
OUTSIDE = {
    "batch_size": 0,
    "max_steps": 0,
    "seed": -1,
    "picture.size": 100,
    "picture.flip": 1.5,
    "clip.frames": 0,
    "clip.stride": 0,
    "clip.stride_s": 0.0,
    "pose.line_width": 0.0,
    "loader.workers": -1,
    "loader.prefetch": 0,
    "loader.weights": (1, 0.0004),
    "loader.block_samples": 0,
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
    "checkpoint.every_steps": 0,
    "checkpoint.keep": 1,
    "checkpoint.keep_every_steps": 0,
    "watch.log_every": 0,
    "watch.probe_every": -1,
    "watch.probe_samples": 1,
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
    check_settings(usable())


@pytest.mark.parametrize("name", TRAIN_RANGES)
def test_a_value_outside_is_refused_by_name_with_its_range(name: str):
    with pytest.raises(UsageError) as refused:
        check_settings(with_value(usable(), name, OUTSIDE[name]))
    assert flag(name) in str(refused.value)
    assert TRAIN_RANGES[name][1] in str(refused.value)


def test_every_number_of_the_settings_has_a_range():
    # what may be any number: a raw score, which can be negative
    free = {"stage", "pose.score_threshold"}
    for settings_class, ranges in ((TrainSettings, TRAIN_RANGES), (CacheLatentsSettings, CACHE_RANGES)):
        words = {name: str(leaf.annotation) for name, leaf in leaves(settings_class).items()}
        numbers = {name for name, text in words.items() if "int" in text or "float" in text}
        assert numbers - free == set(ranges)


def test_weights_that_are_all_nothing_are_refused():
    with pytest.raises(UsageError, match="not all 0"):
        check_settings(dataclasses.replace(usable(), loader=LoaderSettings(weights=(0, 0))))


@pytest.mark.parametrize(("name", "value"), [("size", 100), ("batch_size", 0), ("threads", 0)])
def test_cache_latents_refuses_values_outside(name: str, value: int, tmp_path: Path):
    settings = CacheLatentsSettings(**{"data": tmp_path, "base": "tiny", name: value})  # pyright: ignore
    with pytest.raises(UsageError, match=f"{flag(name)} {value}: {CACHE_RANGES[name][1]}"):
        cache_latents(settings)


def test_the_settings_of_a_run_are_a_preset_that_starts_it_again(tmp_path: Path):
    # mutations tried: without the table's name, "unknown key"; with JSON's escapes, the second prompt is no TOML
    settings = TrainSettings(
        stage=2,
        data=(tmp_path / "one", tmp_path / "two"),
        output=tmp_path / "run",
        base="tiny",
        pose_encoder="none",
        pose=PoseSettings(line_width=3.5),
        loader=LoaderSettings(weights=(1, 0.25)),
        watch=WatchSettings(sample_prompts=('a "quoted" prompt', "\U0001f483 dances \\ slowly")),
    )
    write_settings(tmp_path, settings)
    argv = ["--preset", str(tmp_path / "settings.toml")]
    loaded = load(COMMANDS["train"], TrainSettings, argv, environ={}, folder=tmp_path / "elsewhere")
    assert loaded.settings == settings
    assert not loaded.quickstart
