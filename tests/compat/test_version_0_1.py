"""Contract: what version 0.1 wrote stays readable. Datasets open, verify, show and refilter; the trainer reads them; a
run and a dataset go on where nothing changed, and are refused by the name of what did.

The folders under `v0.1` were written by version 0.1 itself (see README.md); the tests work on copies.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import lposekit
from lposekit.cli import main
from lposekit.commands.flags import load
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from lposekit.versions import installed_versions
from pipelines.image.settings import BuildImagesSettings
from pipelines.job.build_report import BuildReport
from pipelines.recipes import build_images, build_videos
from pipelines.video.settings import BuildVideoSettings
from tests.compat.base import write_base
from tests.support.train_data import write_dataset
from tests.support.train_runs import keys, losses
from trainer.run.metrics import read_metrics
from trainer.settings import ClipSamplingSettings, FramingSettings, LoaderSettings, TrainSettings
from trainer.train import run as train

KEPT = Path(__file__).parent / "v0.1"
# 0.1 knew no near-duplicates among persons
IMAGE_FLAGS = (
    *("--pose.duplicate-oks", "none"),
    *("--pose-model", "stub", "--detector", "stub", "--rows-per-shard", "3"),
    *("--pose.batch-size", "4", "--fetch.no-robots", "--allow-private-addresses"),
)
VIDEO_FLAGS = ("--rows-per-shard", "2", "--clips.length-s", "0.5", "--clips.min-length-s", "0.2")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kept folders, and the working directory: their settings name one another from there."""
    folder = tmp_path / "old"
    shutil.copytree(KEPT, folder)
    monkeypatch.chdir(folder)
    return folder


def _same_versions(dataset: Path) -> None:
    """Write the packages of today into the card, as if the dataset had been built with them."""
    path = dataset / "_dataset" / "dataset.json"
    card = json.loads(path.read_text())
    card["versions"] |= installed_versions(card["versions"])
    path.write_text(json.dumps(card))


def _nobody(*_: Any) -> Any:
    raise AssertionError("nothing is left to do, so nothing may be started")


def _build_images(*flags: str) -> BuildReport:
    """`lposekit build-laion-pose` with the flags of then, and these."""
    argv = ["--input", "images.jsonl", "--output", "images", *IMAGE_FLAGS, *flags]
    return build_images(load(COMMANDS["build-laion-pose"], BuildImagesSettings, argv).settings, execute=_nobody)


def _build_videos(*flags: str) -> BuildReport:
    argv = ["--input", "source", "--output", "videos", *VIDEO_FLAGS, *flags]
    return build_videos(load(COMMANDS["build-video-shards"], BuildVideoSettings, argv).settings, execute=_nobody)


def _stored(folder: Path) -> dict[str, bytes]:
    """Every byte of the shards, their rows and their commit markers."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_images_open_with_their_rows_poses_and_captions(old: Path) -> None:
    dataset = lposekit.open_dataset(old / "images")
    assert dataset.rows()["outcome"].to_pylist() == [
        "kept", "no_person", "few_keypoints", "http_4xx", "kept", "kept",
    ]  # fmt: skip
    assert [sample.caption for sample in dataset] == ["row 0", "row 4", "row 5"]
    assert [len(sample.persons) for sample in dataset] == [1, 2, 1]
    for sample in dataset:
        assert sample.rgb_HWC.shape == (128, 256, 3)
        assert sample.persons[0].keypoints_K3[0, 1] == 20 + int(sample.caption.split()[1])
    assert len(dataset.thumbnails()) == 2


def test_clips_open_with_their_frames_and_captions(old: Path) -> None:
    dataset = lposekit.open_dataset(old / "videos")
    assert dataset.rows()["outcome"].to_pylist() == ["kept", "kept"]
    assert {sample.caption for sample in dataset} == {"somebody walks", "two rooms"}
    assert len(list(dataset)) == sum(dataset.rows()["num_clips"].to_pylist()) > 2
    assert all(sample.members["mp4"][4:8] == b"ftyp" for sample in dataset)


@pytest.mark.parametrize("name", ["images", "videos"])
def test_a_dataset_verifies(name: str, old: Path) -> None:
    assert main(["verify", str(old / name)]) == 0


@pytest.mark.parametrize("name", ["images", "videos", "run"])
@pytest.mark.parametrize("flags", [[], ["--public"]], ids=["private", "public"])
def test_a_folder_is_shown(name: str, flags: list[str], old: Path) -> None:
    assert main(["view", str(old / name), *flags]) == 0
    assert [path for path in (old / name).rglob("*.html") if path.stat().st_size > 2000]


def test_images_are_refiltered(old: Path) -> None:
    assert main(["refilter", str(old / "images"), "--dry-run", "--min-detected", "0.9"]) == 0
    assert main(["refilter", str(old / "images"), "--output", str(old / "strict"), "--min-detected", "0.9"]) == 0
    assert lposekit.open_dataset(old / "strict").rows()["outcome"].to_pylist().count("few_keypoints") == 4
    assert main(["verify", str(old / "strict")]) == 0


def test_a_whole_dataset_of_images_is_left_as_it_is(old: Path) -> None:
    _same_versions(old / "images")
    before = _stored(old / "images")
    report = _build_images()
    assert (report.exit_code, report.new_rows, report.num_rows, report.num_samples) == (0, 0, 6, 3)
    assert _stored(old / "images") == before


def test_a_whole_dataset_of_clips_is_left_as_it_is(old: Path) -> None:
    _same_versions(old / "videos")
    before = _stored(old / "videos")
    report = _build_videos()
    assert (report.exit_code, report.new_rows, report.num_rows) == (0, 0, 2)
    assert _stored(old / "videos") == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--min-detected", "0.7"], r"keep_rule.min_detected: 0.5 -> 0.7"),
        (["--image.size", "256"], r"settings.image.size: 512 -> 256"),
        (["--pose.min-box-side-px", "40"], r"min_box_side_px: 48.0 -> 40.0"),
        (["--pose.duplicate-oks", "0.7"], r"settings.pose.duplicate_oks: None -> 0.7"),
        (["--max-rows", "5"], r"settings.max_rows: None -> 5"),
    ],
)
def test_images_of_other_settings_are_refused_by_name(flags: list[str], words: str, old: Path) -> None:
    # Mutation tried: claim_folder without its refusal -> `_nobody` is not called either, and nothing is raised.
    _same_versions(old / "images")
    with pytest.raises(UsageError, match=words):
        _build_images(*flags)


def test_clips_of_other_settings_are_refused_by_name(old: Path) -> None:
    _same_versions(old / "videos")
    with pytest.raises(UsageError, match=r"settings.clips.length_s: 0.5 -> 0.4"):
        _build_videos("--clips.length-s", "0.4")


def test_another_list_is_refused_by_name(old: Path) -> None:
    _same_versions(old / "images")
    with (old / "images.jsonl").open("a") as stream:
        stream.write('{"url": "http://127.0.0.1/6.jpg", "caption": "one more"}\n')
    with pytest.raises(UsageError, match="input: "):
        _build_images()


@pytest.mark.parametrize(
    ("name", "package", "resume"), [("images", "simplejpeg", _build_images), ("videos", "av", _build_videos)]
)
def test_another_version_of_an_encoder_is_refused_by_name(name: str, package: str, resume: Any, old: Path) -> None:
    # Mutation tried: no `_add_versions` in `claim_folder` -> an old folder without a change is refused.
    _same_versions(old / name)
    path = old / name / "_dataset" / "dataset.json"
    text = path.read_text()
    ours = installed_versions([package])[package]
    assert f'"{package}": "{ours}"' in text
    path.write_text(text.replace(f'"{package}": "{ours}"', f'"{package}": "0.0.1"'))
    with pytest.raises(UsageError, match=rf"versions.{package}: '0.0.1' -> "):
        resume()


def _settings(**changes: Any) -> TrainSettings:
    """The settings of the kept run, from its own `settings.toml`."""
    argv = ["--preset", "run/settings.toml"]
    return dataclasses.replace(load(COMMANDS["train"], TrainSettings, argv).settings, **changes)


def test_a_finished_run_is_left_as_it_is(old: Path) -> None:
    write_base(old / "base")
    report = train(_settings())
    assert "has all of its 2 steps" in report.summary_lines()[0]
    newest = "run/checkpoints/step-000002/trainable.safetensors"
    assert (old / newest).read_bytes() == (KEPT / newest).read_bytes()


def test_a_run_goes_on_behind_its_last_step(old: Path) -> None:
    write_base(old / "base")
    before = losses(old / "run"), keys(old / "run")
    train(_settings(max_steps=4))
    lines = [line for line in read_metrics(old / "run" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert (losses(old / "run")[:2], keys(old / "run")[:2]) == before
    seen = [key for _, step in keys(old / "run") for key in step]
    assert len(set(seen[:3])) == len(set(seen[3:6])) == 3, "epochs of three images go on where they were left"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"image": FramingSettings(size=128, flip=0.5)}, "size: 64 -> 128"),
        ({"loader": LoaderSettings(workers=0, block_samples=2)}, "block_samples: 4 -> 2"),
        ({"base": "other"}, "unet: '.*\n(.|\n)*vae: '"),
    ],
    ids=["seed", "size", "block", "base"],
)
def test_a_run_of_other_settings_is_refused_by_name(changes: dict[str, Any], words: str, old: Path) -> None:
    write_base(old / "base")
    write_base(old / "other", salt=1)
    with pytest.raises(UsageError, match=rf"cannot be resumed(.|\n)*{words}"):
        train(_settings(max_steps=4, **changes))


def test_a_run_on_other_data_is_refused_by_name(old: Path) -> None:
    write_base(old / "base")
    other = write_dataset(old / "other", [3])
    with pytest.raises(UsageError, match=r"cannot be resumed(.|\n)*data: "):
        train(_settings(max_steps=4, data=(other,)))


def test_stage_2_trains_on_old_clips_with_the_pose_encoder_of_an_old_run(old: Path) -> None:
    write_base(old / "base")
    stage_2 = _settings(
        stage=2,
        data=(Path("videos"),),
        output=Path("two"),
        pose_encoder="run",
        image=FramingSettings(size=64),
        clip=ClipSamplingSettings(frames=2, stride=3),
    )
    assert train(stage_2).exit_code == 0
    trained = load_file(old / "run/checkpoints/step-000002/trainable.safetensors")
    carried = load_file(old / "two/pose_encoder.safetensors")
    assert all((trained[f"skeleton_adapter.{name}"] == value).all() for name, value in carried.items())
