"""Poses of a video against a loop over MMPoseInferencer: ``python -m tests.benchmarks.pose_video [VIDEO ...]``.

Both read the same file and give the persons of every frame with the same detector, pose model, box threshold and thread
count. Ours is all of `lposekit pose`: decoding in the killable child, batches over frames, tracking, gap filling,
smoothing and writing the file. The peer is the loop that MMPose's documentation gives for a video, the inferencer over
the frames of `cv2.VideoCapture`, without drawing; it neither tracks nor smooths nor writes. The models are loaded
before the clock starts, on both sides. Frames that cv2 gives and we do not (or the reverse) count on each side.
"""

from __future__ import annotations

import lposekit.pose  # noqa: F401 - before torch: lets the threads that OpenMP has waiting sleep, as in a run

# isort: split
import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import torch

from lposekit.pose.backend import choose_backend
from lposekit.pose.estimator import PoseEstimator
from lposekit.pose.openmmlab import ensure_openmmlab
from lposekit.pose.zoo import detector_entry
from pipelines.video.poses.run import estimate_poses
from pipelines.video.poses.settings import PosesSettings, VideoPoseSettings
from tests.benchmarks.mmpose_script import model_files
from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, table, timed, versions
from tests.support.fixtures import fixtures_root

DETECTOR, POSE_MODEL = "rtmdet-nano-rebuilt", "tinypose"
VIDEOS = ("vc_tennis.mp4", "asl_thanks.mkv")


class Ours:
    """`lposekit pose` with models that are loaded once."""

    def __init__(self, weights: Path, threads: int) -> None:
        self._weights, self._threads = weights, threads
        pose, tracking = VideoPoseSettings(), PosesSettings().tracking
        start_score = detector_entry(DETECTOR).box_score_threshold
        self._estimator = PoseEstimator.load(
            DETECTOR,
            POSE_MODEL,
            weights_dir=weights,
            threads=threads,
            backend=choose_backend("auto", "cpu", "float32"),
            box_score_threshold=start_score * tracking.continue_score,
            min_box_area_fraction=pose.min_box_area_fraction,
            min_box_side_px=pose.min_box_side_px,
        )

    def __call__(self, video: Path, folder: Path) -> dict[str, Any]:
        settings = PosesSettings(
            input=(str(video),), output=folder, detector=DETECTOR, pose_model=POSE_MODEL, weights_dir=self._weights
        )
        for old in folder.iterdir():
            old.unlink()  # or an earlier round's file would be found unchanged
        [outcome] = estimate_poses(settings, estimator=self._estimator).videos
        assert outcome.poses is not None, outcome.detail
        return {"frames": outcome.num_frames, "persons": outcome.figures.persons if outcome.figures else 0}


class Inferencer:
    """The documented loop, one frame at a time."""

    def __init__(self, weights: Path) -> None:
        ensure_openmmlab()
        from mmpose.apis import MMPoseInferencer

        with contextlib.redirect_stdout(sys.stderr):  # mmengine's remarks
            self._inferencer = MMPoseInferencer(**cast(Any, model_files(weights)), det_cat_ids=[0], device="cpu")
        self._box_score = detector_entry(DETECTOR).box_score_threshold

    def __call__(self, video: Path) -> dict[str, Any]:
        capture = cv2.VideoCapture(str(video))
        frames = persons = 0
        while True:
            there, frame_bgr = capture.read()
            if not there:
                break
            (result,) = self._inferencer(frame_bgr, bbox_thr=self._box_score, show=False, return_vis=False)
            frames += 1
            persons += len(result["predictions"][0])
        capture.release()
        return {"frames": frames, "poses": persons}


def measured(work: Callable[[], dict[str, Any]]) -> tuple[Timing, dict[str, Any]]:
    found: dict[str, Any] = {}
    return timed(lambda: found.update(work())), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [fixtures_root() / "data" / "videos" / name for name in VIDEOS]
    parser.add_argument("videos", type=Path, nargs="*", default=default)
    parser.add_argument("--weights-dir", type=Path, default=fixtures_root() / "weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ours, peer = Ours(options.weights_dir, options.threads), Inferencer(options.weights_dir)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    print(f"{DETECTOR} and {POSE_MODEL}, {options.threads} threads, {options.rounds} rounds:")
    print(versions("torch", "mmdet", "mmpose", "opencv-python-headless", "av"))
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for video in options.videos:
            forms = {
                "lposekit pose": partial(measured, partial(ours, video, Path(folder))),
                "MMPoseInferencer": partial(measured, partial(peer, video)),
            }
            for form in forms.values():
                form()  # warms up
            rounds = alternate(forms, options.rounds)
            figures[video.name] = show(video.name, rounds, rows)
    print(
        table(
            ["video", "form", "found", "wall ms a frame", "CPU ms a frame", "frames/s", "ratio wall", "ratio CPU"], rows
        )
    )
    print(json.dumps({"benchmark": "pose_video", **figures}))


def show(name: str, rounds: dict[str, list[tuple[Timing, dict[str, Any]]]], rows: list[list[Any]]) -> dict[str, float]:
    """Adds the rows of one video; ratios are the peer's time over ours, a frame each, round by round."""
    spent = {
        form: {
            clock: [getattr(timing, clock) / found["frames"] for timing, found in passes]
            for clock in ("wall_s", "cpu_s")
        }
        for form, passes in rounds.items()
    }
    ours, peer = spent["lposekit pose"], spent["MMPoseInferencer"]
    ratios = {clock: ratio(peer[clock], ours[clock]) for clock in ours}
    for form, clocks in spent.items():
        found = ", ".join(f"{number} {what}" for what, number in rounds[form][0][1].items())
        wall = Spread.of(clocks["wall_s"], 1000)
        cells = [ratios["wall_s"], ratios["cpu_s"]] if clocks is ours else ["", ""]
        per_s = Spread.of([1 / seconds for seconds in clocks["wall_s"]])
        rows.append([name, form, found, wall, Spread.of(clocks["cpu_s"], 1000), per_s, *cells])
    return {clock: round(spread.middle, 3) for clock, spread in ratios.items()}


if __name__ == "__main__":
    main()
