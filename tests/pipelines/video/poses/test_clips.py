"""Contract of `lposekit pose` on a dataset of clips: each clip ends in one row under its own key, and its poses are
those that the file of the clip would get, one entry a frame; what the models fail on stops nothing; a killed run is
resumed to the same bytes, `retry` finds again what failed, and clips that changed are refused by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lposekit.cli import main
from lposekit.errors import LposekitError, UsageError
from lposekit.interrupts import Interrupts
from lposekit.pose.stub import BOX_SCORE_THRESHOLD, StubEstimator
from lposekit.pose.tracks import PoseTracks, decode_tracks, read_tracks
from lposekit.recipe import Claim, Machine, Plan, Recipe
from lposekit.records import PoseFailure
from lposekit.report.html import write_report
from lposekit.shards.dataset import PoseSample, open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.job.build_report import BuildReport
from pipelines.job.progress import BuildProgress
from pipelines.job.runner import RunResult
from pipelines.pose.actor import PoseSpec
from pipelines.recipes import build_poses, build_videos, retry
from pipelines.video.clips.settings import ClipSettings, EncodeSettings, ShotSettings
from pipelines.video.poses.recipe import PosesRecipe
from pipelines.video.poses.run import estimate_poses
from pipelines.video.poses.settings import PosesSettings, VideoPoseSettings
from tests.support.build_process import PosesBuild, content_digest, kill_group, wait_until
from tests.support.dataset_folder import make_dataset
from tests.support.execute_here import execute_here
from tests.support.fixtures import fixture_path
from tests.support.posed_videos import CLIP_FRAMES, FPS, RAISES, video
from tests.support.video_build import listed
from trainer.inference.pose_input import stored_tracks


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard 0: two clips of one person, one of nobody. Shard 1: one on which the model fails, one of two persons.
    Shard 2: no clip at all."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "junk.mp4").write_bytes(b"no video")
    rows = [
        video(folder / "walks.mp4", num_frames=2 * CLIP_FRAMES),
        video(folder / "nobody.mp4", persons=0),
        video(folder / "fails.mp4", behaviour=RAISES),
        video(folder / "two.mp4", persons=2),
        {"path": str(folder / "junk.mp4"), "licence": "cc0"},
    ]
    settings = listed(
        folder,
        rows,
        rows_per_shard=2,
        clips=ClipSettings(length_s=CLIP_FRAMES / FPS, min_length_s=0.5),
        shots=ShotSettings(detector="none"),
        encode=EncodeSettings(preset="ultrafast"),
    )
    assert build_videos(settings, execute=execute_here).num_samples == 5
    return folder / "d"


def settings(clips: Path, output: Path, **changes: Any) -> PosesSettings:
    pose = VideoPoseSettings(batch_size=8)
    plain = PosesSettings(
        input=(str(clips),), output=output, detector="stub", pose_model="stub", smooth="none", pose=pose
    )
    return replace(plain, **changes)


def run(clips: Path, output: Path, **changes: Any) -> BuildReport:
    return build_poses(settings(clips, output, **changes), execute=execute_here)


@pytest.fixture(scope="module")
def poses(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The poses of `clips`; tests leave them as they are."""
    output = tmp_path_factory.mktemp("poses") / "d"
    report = run(clips, output)
    assert report.outcomes == {"kept": 3, "no_person": 1, "pose_failed": 1}
    assert report.exit_code == 0
    return output


def tracks_of(sample: PoseSample) -> PoseTracks:
    assert list(sample.members) == ["poses.json"]
    return decode_tracks(sample.members["poses.json"], sample.key)


def test_each_clip_has_the_poses_of_every_frame_under_its_own_key(clips: Path, poses: Path) -> None:
    # Mutations tried: `read_members` of the first clip for all; keys shifted by one.
    of_clips = {sample.key: sample for sample in open_dataset(clips)}
    stored = {sample.key: tracks_of(sample) for sample in open_dataset(poses)}
    [failed] = of_clips.keys() - stored.keys()
    assert of_clips[failed].metadata["source"].endswith("fails.mp4")
    for key, tracks in stored.items():
        metadata = of_clips[key].metadata
        assert (tracks.num_frames, tracks.width, tracks.height) == (CLIP_FRAMES, 320, 240)
        assert len(tracks.persons) == {"walks": 1, "nobody": 0, "two": 2}[Path(metadata["source"]).stem]
        for person in tracks.persons[:1]:
            first = metadata["source_frames"][0]
            np.testing.assert_allclose(person.keypoints_FK3[:, 0, 1], 20 + first + np.arange(CLIP_FRAMES), atol=0.01)


def test_each_clip_has_one_row_with_what_the_list_said_of_its_video(clips: Path, poses: Path) -> None:
    # Mutation tried: `extra` of `_row` empty -> no licence.
    rows = open_dataset(poses).rows().to_pylist()
    assert [row["key"] for row in rows] == [sample.key for sample in open_dataset(clips)]
    assert {(row["licence"], row["caption"]) for row in rows} == {("cc0", "somebody walks")}
    assert [row["outcome"] for row in rows] == ["kept", "kept", "no_person", "pose_failed", "kept"]
    assert [row["status"] == "success" for row in rows] == [True, True, True, False, True]
    assert [row["num_persons"] for row in rows] == [1, 1, 0, None, 2]
    assert all(row["key"].startswith(row["video_key"]) for row in rows)


def test_the_folder_is_verified_and_shown_as_every_dataset(poses: Path, tmp_path: Path) -> None:
    # Mutation tried: "poses" not in `MEMBERS` of `verify` -> every sample is a finding.
    assert verify_dataset(poses) == []
    page = write_report(poses).read_text()
    assert page.count("Skeletons of clip") == 3
    assert "somebody walks" in page
    assert "somebody walks" not in write_report(poses, public=True).read_text()
    broken = tmp_path / "d"
    shutil.copytree(poses, broken)
    tar = DatasetLayout(broken).tar(0)
    tar.write_bytes(tar.read_bytes().replace(b'"schema":1', b'"schema":2'))
    assert [finding.where for finding in verify_dataset(broken)] == ["00000.tar"]


def test_a_run_that_stopped_between_shards_goes_on_to_the_same_bytes(clips: Path, poses: Path, tmp_path: Path) -> None:
    # Mutation tried: `plans` without `skip` -> shard 0 is written again.
    def first_only(
        recipe: Recipe[Any], claim: Claim, plans: Iterator[Plan], progress: BuildProgress, interrupts: Interrupts
    ) -> RunResult:
        return execute_here(recipe, claim, iter([next(plans)]), progress, interrupts)

    chosen = settings(clips, tmp_path / "d")
    build_poses(chosen, execute=first_only)
    layout = DatasetLayout(tmp_path / "d")
    assert layout.committed_shards() == [0]
    before = layout.tar(0).stat().st_ino
    build_poses(chosen, execute=execute_here)
    assert layout.tar(0).stat().st_ino == before
    assert content_digest(layout) == content_digest(DatasetLayout(poses))


def test_retry_finds_what_failed_again_and_leaves_the_rest(
    clips: Path, poses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StubEstimator.estimate
    seen: list[npt.NDArray[np.uint8]] = []

    def counting(self: StubEstimator, images: Any, times: Any = None) -> Any:
        seen.extend(images)
        return real(self, images, times)

    monkeypatch.setattr(StubEstimator, "estimate", lambda *args: _empty_fail(real(*args)))
    assert run(clips, tmp_path / "d").outcomes == {"kept": 3, "pose_failed": 2}
    monkeypatch.setattr(StubEstimator, "estimate", counting)
    report = retry(tmp_path / "d", ["pose_failed"], execute=execute_here)
    assert report.outcomes == {"kept": 3, "no_person": 1, "pose_failed": 1}
    assert len(seen) == 2 * CLIP_FRAMES
    assert content_digest(DatasetLayout(tmp_path / "d")) == content_digest(DatasetLayout(poses))


def _empty_fail(answers: list[Any]) -> list[Any]:
    return [PoseFailure("it was asked for") if each == [] else each for each in answers]


def _edited(path: Path, change: Mapping[str, Any]) -> None:
    """Set values of a JSON file by path of keys."""
    value = json.loads(path.read_text())
    for place, new in change.items():
        *above, name = place.split("/")
        inner = value
        for key in above:
            inner = inner[key]
        inner[name] = new
    path.write_text(json.dumps(value))


def test_clips_that_changed_are_refused_by_name(clips: Path, tmp_path: Path) -> None:
    # Mutations tried: `refuse_changed` not called; `identity` empty; no sha256 of the tar in `_read_index`.
    source, output = tmp_path / "clips", tmp_path / "d"
    shutil.copytree(clips, source)
    layout = DatasetLayout(source)
    run(source, output)
    shutil.copy(layout.stats(1), tmp_path / "marker")
    _edited(layout.stats(1), {"files/00001.tar/sha256": "0" * 64})
    for again in (lambda: run(source, output), lambda: retry(output, ["pose_failed"], execute=execute_here)):
        with pytest.raises(UsageError, match=r"1 of its shards changed since their poses were found \(00001\)"):
            again()
    with pytest.raises(LposekitError, match=r"00001\.tar: its bytes are not those of its commit"):
        run(source, tmp_path / "other")
    shutil.copy(tmp_path / "marker", layout.stats(1))
    _edited(layout.card, {"fixed/settings/encode.crf": 40.0})
    for again in (lambda: run(source, output), lambda: retry(output, ["pose_failed"], execute=execute_here)):
        with pytest.raises(UsageError, match=r"source\.made_with\.settings\.encode\.crf: 22\.0 -> 40\.0"):
            again()


REFUSED = {
    "two inputs": ({"input": ("CLIPS", "CLIPS")}, "only input"),
    "poses": ({"input": ("POSES",)}, "holds poses, and no clips"),
    "images": ({"input": ("IMAGES",)}, "holds images, and their poses already"),
    "output within": ({"output": Path("CLIPS/poses")}, "within the dataset of the clips"),
    "skeleton videos": ({"skeleton_video": True}, "--skeleton-video"),
    "person": ({"person": "biggest"}, "biggest"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_any_work(clips: Path, poses: Path, tmp_path: Path, name: str) -> None:
    make_dataset(tmp_path / "images", num_shards=1)
    places = {"CLIPS": str(clips), "POSES": str(poses), "IMAGES": str(tmp_path / "images")}
    changes, expected = dict(REFUSED[name][0]), REFUSED[name][1]
    if "input" in changes:
        changes["input"] = tuple(places[each] for each in changes["input"])
    if "output" in changes:
        changes["output"] = clips / "poses"
    with pytest.raises(UsageError, match=expected):
        build_poses(replace(settings(clips, tmp_path / "d"), **changes), execute=execute_here)
    assert not (tmp_path / "d" / "_dataset" / "dataset.json").exists()


def test_dry_run_counts_clips_and_shards(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--detector", "stub", "--pose-model", "stub", "--dry-run", "--json"]
    assert main(["pose", "--input", str(clips), "--output", str(tmp_path / "d"), *flags]) == 0
    assert "would find the poses of 5 clips in 3 shards" in json.loads(capsys.readouterr().out)["notes"]


def test_models_are_told_to_report_boxes_that_continue_a_track_and_take_one_thread(clips: Path, tmp_path: Path) -> None:
    [spec] = PosesRecipe(settings(clips, tmp_path / "d")).pool(Machine(cpus=8, gpus=0)).arguments
    assert isinstance(spec, PoseSpec)
    assert spec.box_score_threshold == pytest.approx(0.8 * BOX_SCORE_THRESHOLD)
    assert spec.threads == 1


@pytest.mark.more  # the tests above build in this process
def test_the_command_finds_the_same_poses_with_its_pool_of_models_on_ray(
    clips: Path, poses: Path, tmp_path: Path
) -> None:
    build = PosesBuild(clips, tmp_path / "d", extra=("--smooth", "none", "--pose.batch-size", "8"))
    assert main(build.arguments()) == 0
    assert content_digest(build.layout) == content_digest(DatasetLayout(poses))
    models = open_dataset(build.output).card.models
    assert models is not None
    assert models["pose_model"] == {"name": "stub", "keypoint_score_threshold": 0.5, "provisional": False}


def test_real_models_give_a_clip_the_poses_that_its_file_gets(tmp_path: Path) -> None:
    source = {"path": str(fixture_path("data/videos/asl_eat.mkv")), "caption": "somebody eats"}
    built = listed(tmp_path, [source], encode=EncodeSettings(preset="ultrafast", size=240))
    build_videos(built, execute=execute_here)
    [clip] = open_dataset(tmp_path / "d")
    (tmp_path / "clip.mp4").write_bytes(clip.members["mp4"])
    both = {
        "detector": "rtmdet-nano-rebuilt",
        "pose_model": "tinypose",
        "weights_dir": fixture_path("weights"),
        "pose": VideoPoseSettings(threads=1),
        "smooth": "savgol",
    }
    assert run(tmp_path / "d", tmp_path / "poses", **both).outcomes == {"kept": 1}
    assert estimate_poses(settings(tmp_path / "clip.mp4", tmp_path, **both)).outcomes == {"kept": 1}
    of_clip, of_file = stored_tracks(f"{tmp_path / 'poses'}:{clip.key}"), read_tracks(tmp_path / "clip.poses.json")
    assert of_clip is not None
    assert (of_clip.fps, of_clip.num_frames) == (of_file.fps, of_file.num_frames)
    assert len(of_clip.persons) == len(of_file.persons) >= 1
    for clip_person, file_person in zip(of_clip.persons, of_file.persons, strict=True):
        np.testing.assert_array_equal(clip_person.keypoints_FK3, file_person.keypoints_FK3)
        np.testing.assert_array_equal(clip_person.boxes_F5, file_person.boxes_F5)


@pytest.mark.more
def test_a_run_killed_in_a_commit_is_resumed_to_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    undisturbed = PosesBuild(clips, tmp_path / "undisturbed")
    undisturbed.finish_here()
    marker = tmp_path / "killed"
    build = PosesBuild(clips, tmp_path / "d", environment={"LPOSEKIT_FAULT": f"shard:between_tar_and_parquet@{marker}"})
    with build.started() as process:
        wait_until(lambda: marker.exists() or process.poll() is not None, "the fault point")
        kill_group(process)
    assert marker.exists(), build.log_path.read_text()
    build.finish_here()
    assert content_digest(build.layout) == content_digest(undisturbed.layout)
    assert verify_dataset(build.output) == []
