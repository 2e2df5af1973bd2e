"""Contract of `lposekit pose` but for its models: every frame of a video once, upright and in order, becomes one entry
of the file; who is lost for a moment is filled in; skeleton videos show the same; what is damaged, empty or no video
ends with an outcome and stops nothing; the same command again changes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from lposekit.cli import main
from lposekit.errors import Outcome, UsageError
from lposekit.pose.tracks import read_tracks, write_tracks
from lposekit.records import Person, PoseFailure
from lposekit.sandbox import killed
from lposekit.shards.layout import DatasetLayout
from lposekit.stage_times import StageTimes
from pipelines.video.poses.report import PosesReport
from pipelines.video.poses.run import estimate_poses
from pipelines.video.poses.settings import FrameLimits, PosesSettings, VideoPoseSettings
from tests.lposekit.pose.poses import standing
from tests.support.build_process import decoder_processes
from tests.support.fixtures import fixture_path
from tests.support.videos import moving, plain, read_number, write_video

SIZE = (320, 240)


class Walker:
    """Stands in for the models: somebody stands 2 px further right with each number that an image shows."""

    keypoint_format = "coco17"
    keypoint_score_threshold = 0.35

    def __init__(self, absent: Sequence[int] = (), failing: Sequence[int] = ()) -> None:
        self.absent, self.failing = absent, failing
        self.images: list[npt.NDArray[np.uint8]] = []

    def estimate(
        self, images_rgb: Sequence[npt.NDArray[np.uint8]], times: StageTimes | None = None
    ) -> list[list[Person] | PoseFailure]:
        self.images += images_rgb
        return [self._answer(read_number(image)) for image in images_rgb]

    def _answer(self, number: int) -> list[Person] | PoseFailure:
        if number in self.failing:
            return PoseFailure("it was asked for")
        return [] if number in self.absent else [walker(number)]

    def card(self) -> dict[str, Any]:
        return {}


def walker(number: int) -> Person:
    return standing(20.0 + 2 * number, 20)


def video(path: Path, numbers: Sequence[int] = range(40), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, [moving(number, size=SIZE) for number in numbers], **options)


def settings(source: Path, output: Path, **changes: Any) -> PosesSettings:
    small = VideoPoseSettings(batch_size=7)
    plain_settings = PosesSettings(
        input=(str(source),), output=output, detector="rtmdet-nano-rebuilt", pose_model="tinypose", pose=small
    )
    return dataclasses.replace(plain_settings, **changes)


def run(source: Path, output: Path, estimator: Walker | None = None, **changes: Any) -> PosesReport:
    return estimate_poses(settings(source, output, **changes), estimator=estimator or Walker())


@pytest.mark.parametrize("rotation", [0, 90])
def test_every_frame_is_there_once_upright_and_in_order(tmp_path: Path, rotation: int) -> None:
    # Mutation tried: `serve` gives the frames of a batch twice -> 46 frames; rotation ignored -> nobody walks.
    estimator = Walker()
    source = video(tmp_path / "a.mp4", fps=Fraction(30000, 1001), rotation=rotation)
    report = run(source, tmp_path / "out", estimator, smooth="none")
    assert report.exit_code == 0
    tracks = read_tracks(tmp_path / "out" / "a.poses.json")
    assert (tracks.width, tracks.height, tracks.fps, tracks.num_frames) == (*SIZE, Fraction(30000, 1001), 40)
    [person] = tracks.persons
    np.testing.assert_allclose(person.boxes_F5[:, 0], 20 + 2 * np.arange(40), atol=0.01)
    np.testing.assert_allclose(person.keypoints_FK3[7], walker(7).keypoints_K3, atol=0.01)
    assert [read_number(image) for image in estimator.images] == list(range(40))


class Killing(Walker):
    """Somebody else kills the decoder while the models are at a batch, the first so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def estimate(
        self, images_rgb: Sequence[npt.NDArray[np.uint8]], times: StageTimes | None = None
    ) -> list[list[Person] | PoseFailure]:
        if self.times:
            self.times -= 1
            for decoder in decoder_processes(os.getpid()):
                decoder.kill()
        return super().estimate(images_rgb, times)


@pytest.mark.case(94)
@pytest.mark.parametrize(("times", "outcome"), [(1, "kept"), (99, "worker_crash")])
def test_a_decoder_killed_from_outside_begins_the_video_again(
    tmp_path: Path, times: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutation tried: no second attempt -> worker_crash after one kill.
    monkeypatch.setattr(killed, "PAUSES_S", (0.0, 0.0))
    source = video(tmp_path / "a.mp4", range(60))
    assert run(source, tmp_path / "killed", Killing(times)).outcomes == {outcome: 1}
    if outcome == "kept":
        run(source, tmp_path / "undisturbed")
        poses = [(tmp_path / name / "a.poses.json").read_bytes() for name in ("killed", "undisturbed")]
        assert poses[0] == poses[1]


def test_a_held_frame_is_estimated_once_and_lasts_as_long_as_it_was_shown(tmp_path: Path) -> None:
    # Mutation tried: frames without resampling -> 39 of them, and everything behind the held one comes too early.
    pts = [40 * i if i < 20 else 40 * i + 200 for i in range(40)]
    estimator = Walker()
    run(video(tmp_path / "a.mp4", fps=25, pts=pts), tmp_path / "out", estimator, smooth="none")
    [person] = read_tracks(tmp_path / "out" / "a.poses.json").persons
    places = ((person.boxes_F5[:, 0] - 20) / 2).round().astype(int).tolist()
    assert places == [*range(20), *[19] * 3, *[20] * 2, *range(20, 40)]
    assert len(estimator.images) == 40


def test_who_is_lost_for_a_moment_is_filled_in_and_failed_frames_stop_nothing(tmp_path: Path) -> None:
    estimator = Walker(absent=range(10, 15), failing=[20])
    report = run(video(tmp_path / "a.mp4"), tmp_path / "out", estimator, smooth="none")
    tracks = read_tracks(tmp_path / "out" / "a.poses.json")
    [person] = tracks.persons
    assert person.present_F.all()
    np.testing.assert_allclose(person.boxes_F5[:, 0], 20 + 2 * np.arange(40), atol=0.01)
    [found] = report.videos
    assert found.figures is not None
    assert found.figures.coverage == pytest.approx(34 / 40)
    assert found.figures.coverage_filled == 1
    assert (found.failed_frames, tracks.info["failed_frames"]) == (1, 1)
    assert "the models failed on 1 frame," in found.line()


def test_a_video_without_persons_has_a_file_and_a_black_skeleton_video(tmp_path: Path) -> None:
    report = run(video(tmp_path / "a.mp4"), tmp_path / "out", Walker(absent=range(99)), skeleton_video=True)
    assert report.outcomes == {"no_person": 1}
    assert report.exit_code == 0
    assert read_tracks(tmp_path / "out" / "a.poses.json").persons == ()
    assert max(image.max() for image in images_of(tmp_path / "out" / "a.followyourpose.mp4")) < 20


def images_of(path: Path) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_skeleton_videos_show_the_poses_in_every_style(tmp_path: Path) -> None:
    # Mutation tried: `scaled` drawn at frame 0 always -> the last frame shows nobody at its place.
    styles = ("followyourpose", "openpose18", "mmpose1")
    source = write_video(tmp_path / "a.mp4", [moving(n, size=(322, 242)) for n in range(20)])
    report = run(source, tmp_path / "out", skeleton_video=True, style=styles)
    [found] = report.videos
    assert [path.name for path in found.skeletons] == [f"a.{style}.mp4" for style in styles]
    drawn = {style: images_of(path) for style, path in zip(styles, found.skeletons, strict=True)}
    assert all(len(frames) == 20 and frames[0].shape == (242, 322, 3) for frames in drawn.values())
    for frames in drawn.values():
        for number in (0, 19):
            columns = np.flatnonzero(frames[number].max((0, 2)) > 60)
            left, _, right, _ = walker(number).bbox_xyxy
            assert left < columns.min() < columns.max() < right
    trunk = drawn["followyourpose"][5][20 + 70, int(walker(5).bbox_xyxy[0]) + 37]  # between left shoulder and hip
    assert abs(trunk.astype(int) - (255, 153, 51)).max() < 60


def test_parts_can_be_left_out_of_the_skeleton_video(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mp4", range(6))
    run(source, tmp_path / "out", skeleton_video=True, draw=("body",))
    head = images_of(tmp_path / "out" / "a.followyourpose.mp4")[3][:45]
    assert head.max() < 20


def test_what_is_damaged_or_no_video_has_an_outcome_and_stops_nothing(tmp_path: Path) -> None:
    # Mutation tried: Rejected not caught in `video` -> the first one ends the folder.
    folder = tmp_path / "in"
    video(folder / "deep" / "good.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mkv").write_text("no video")
    whole = video(tmp_path / "whole.mp4", faststart=True).read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    report = run(folder, tmp_path / "out")
    assert report.exit_code == 0
    outcomes = {each.video: each.outcome for each in report.videos}
    assert outcomes == {
        "deep/good.mp4": Outcome.KEPT,
        "empty.mp4": Outcome.CORRUPT,
        "text.mkv": Outcome.CORRUPT,
        "torn.mp4": Outcome.CORRUPT,
    }
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert written == {"deep/good.poses.json"}
    assert "4 videos: corrupt 3, kept 1" in report.summary_lines()[-2]
    assert "torn.mp4: corrupt: " in "\n".join(report.summary_lines())


def test_poses_of_a_torn_video_can_be_had_with_its_missing_frames_named(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mp4", faststart=True).read_bytes()
    (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    report = run(tmp_path / "torn.mp4", tmp_path / "out", limits=FrameLimits(max_damaged=1.0))
    tracks = read_tracks(tmp_path / "out" / "torn.poses.json")
    assert 10 < tracks.num_frames < 40
    assert 40 - tracks.num_frames <= tracks.info["damaged_frames"] == report.videos[0].damaged_frames < 30
    assert tracks.persons[0].present_F[:5].all()


def test_a_video_with_more_poses_than_a_file_holds_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lposekit.pose.tracks.MAX_FILE_BYTES", 10_000)
    video(tmp_path / "in" / "long.mp4", range(60))
    video(tmp_path / "in" / "short.mp4", range(5))
    report = run(tmp_path / "in", tmp_path / "out")
    assert [each.outcome for each in report.videos] == [Outcome.TOO_BIG, Outcome.KEPT]


def test_one_video_that_fails_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    assert run(tmp_path / "a.mp4", tmp_path / "out").exit_code == 1


def test_too_many_frames_or_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    source, estimator = video(tmp_path / "a.mp4"), Walker()
    long = run(source, tmp_path / "out", estimator, limits=FrameLimits(max_frames=39))
    large = run(source, tmp_path / "out", estimator, limits=FrameLimits(max_frame_pixels=1000))
    assert [long.outcomes, large.outcomes] == [{"too_big": 1}, {"too_many_pixels": 1}]
    assert estimator.images == []


def test_the_same_command_again_changes_nothing_and_other_settings_do(tmp_path: Path) -> None:
    # Mutation tried: made_from without the settings -> the last run says unchanged.
    source = video(tmp_path / "a.mp4")
    run(source, tmp_path / "out")
    before = (tmp_path / "out" / "a.poses.json").read_bytes()
    again = Walker()
    report = run(source, tmp_path / "out", again, skeleton_video=True)
    assert again.images == []
    assert report.videos[0].unchanged
    assert (tmp_path / "out" / "a.poses.json").read_bytes() == before
    assert (tmp_path / "out" / "a.followyourpose.mp4").is_file()
    other = run(source, tmp_path / "out", again, smooth="none")
    assert not other.videos[0].unchanged
    assert len(again.images) == 40


def test_the_same_video_gives_the_same_bytes(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mp4")
    for name in ("one", "two"):
        run(source, tmp_path / name, Walker(absent=[4, 5]), skeleton_video=True)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 2
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_a_reference_changes_proportions(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mp4")
    run(source, tmp_path / "out", smooth="none")
    plain_poses = read_tracks(tmp_path / "out" / "a.poses.json")
    longer = plain_poses.persons[0].keypoints_FK3.copy()
    longer[:, 15:17, 1] += 20  # both ankles
    person = dataclasses.replace(plain_poses.persons[0], keypoints_FK3=longer)
    write_tracks(tmp_path / "reference.poses.json", dataclasses.replace(plain_poses, persons=(person,)))
    run(source, tmp_path / "new", smooth="none", reference=tmp_path / "reference.poses.json")
    new = read_tracks(tmp_path / "new" / "a.poses.json")
    assert new.info["retargeted"] is True
    moved = new.persons[0].keypoints_FK3[9] - plain_poses.persons[0].keypoints_FK3[9]
    np.testing.assert_allclose(moved[15:17, 1], 20, atol=1)
    np.testing.assert_allclose(moved[:15], 0, atol=0.1)


REFUSED = {
    "no such input": ({"input": ("nowhere",)}, "no such file or folder"),
    "no input": ({"input": ()}, "--input"),
    "person": ({"person": "biggest"}, "biggest"),
    "detector": ({"detector": "yolo"}, "yolo"),
    "style": ({"skeleton_video": True, "style": ("dwpose133",)}, "rtmpose-m-wholebody"),
    "crf": ({"crf": 99.0}, "--crf 99.0"),
    "nothing to draw": ({"skeleton_video": True, "draw": ()}, "--draw"),
    # mutation tried: without `has_joints`, a black video
    "no such joints": ({"skeleton_video": True, "draw": ("hands",)}, "--draw hands"),
    "output like a file": ({"output": Path("a.poses.json")}, "names a file"),
    "output is a file": ({"output": Path(__file__)}, "names a file"),
    "poses as input": ({"input": ("a.poses.json",)}, "not a video"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path: Path, name: str) -> None:
    changes, expected = REFUSED[name]
    source, estimator = video(tmp_path / "a.mp4", range(3)), Walker()
    with pytest.raises(UsageError) as caught:
        estimate_poses(dataclasses.replace(settings(source, tmp_path / "out"), **changes), estimator=estimator)
    assert expected in str(caught.value)
    assert estimator.images == []


def test_a_dataset_folder_twins_and_folders_without_videos_are_refused(tmp_path: Path) -> None:
    card = DatasetLayout(tmp_path / "dataset").card
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    (tmp_path / "none").mkdir()
    video(tmp_path / "twins" / "a.mp4", range(2))
    video(tmp_path / "twins" / "a.mov", range(2))
    for folder, expected in (
        ("dataset", "dataset folder"),
        ("none", "no video below"),
        ("twins", r"both write a\.poses"),
    ):
        with pytest.raises(UsageError, match=expected):
            run(tmp_path / folder, tmp_path / "out")


def test_an_output_below_the_input_is_no_input_of_the_next_run(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", range(5))
    for _ in range(2):
        report = run(tmp_path, tmp_path / "poses", skeleton_video=True)
        assert [each.video for each in report.videos] == ["a.mp4"]


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = video(tmp_path / "a.mp4", range(3))
    arguments = ["--input", str(source), "--output", str(tmp_path / "out"), "--detector", "rtmdet-nano-rebuilt"]
    assert main(["pose", *arguments, "--pose-model", "tinypose", "--dry-run", "--json"]) == 0
    assert "would read 1 video: a.mp4" in json.loads(capsys.readouterr().out)["notes"]
    assert not (tmp_path / "out").exists()


def test_help_shows_the_flags_that_matter_first(capsys: pytest.CaptureFixture[str]) -> None:
    # Mutation: `reference` moved to the end of the command's main settings.
    with pytest.raises(SystemExit):
        main(["pose", "--help"])
    flags = re.findall(r"^  (--[a-z][\w.-]*)", capsys.readouterr().out, re.MULTILINE)
    assert flags[:8] == [
        "--input",
        "--output",
        "--person",
        "--skeleton-video",
        "--style",
        "--draw",
        "--smooth",
        "--reference",
    ]


@pytest.mark.timeout(600)
def test_real_people_in_a_real_video_are_followed_with_real_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fixture_path("data/videos/asl_eat.mkv")
    arguments = ["--input", str(source), "--output", str(tmp_path), "--weights-dir", str(fixture_path("weights"))]
    arguments += ["--detector", "rtmdet-nano-rebuilt", "--pose-model", "tinypose", "--person", "largest", "--json"]
    assert main(["pose", *arguments]) == 0
    [found] = json.loads(capsys.readouterr().out)["videos"]
    tracks = read_tracks(tmp_path / "asl_eat.poses.json")
    assert (tracks.width, tracks.height, tracks.num_frames) == (640, 480, 47)
    assert found["figures"]["coverage_filled"] == 1
    assert found["figures"]["jitter_smoothed"] < found["figures"]["jitter"] / 2
    assert found["figures"]["shift"] < 0.02


def test_a_still_video_has_poses_too(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", [plain(128, SIZE)] * 3)
    assert run(source, tmp_path / "out").outcomes == {"kept": 1}
