"""Poses over time on the person videos: ``python -m tests.benchmarks.pose_tracks [--sheets FOLDER]``.

For each video: the persons followed; coverage, the share of the frames with the largest person, as found and with gaps
filled; identity switches against a list that was checked by eye; jitter before and after smoothing (mean second
difference of the joints, as a share of the box's height); and the median distance from where the model saw the joints.
``--sheets`` writes frames with boxes and numbers, to check the list by eye.

A switch: a person of the list is in one track at one of the listed frames, and in another track at a later one. A
listed person without a track at a frame is a miss, no switch.
"""

from __future__ import annotations

import lposekit.pose  # noqa: F401 - before torch: lets the threads that OpenMP has waiting sleep, as in a run

# isort: split
import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lposekit.pose.backend import choose_backend
from lposekit.pose.choose import select_persons
from lposekit.pose.estimator import PoseEstimator
from lposekit.pose.refine import RefineSettings, refine
from lposekit.pose.tracker import Tracker
from lposekit.pose.tracks import PoseTracks
from lposekit.pose.zoo import detector_entry, pose_entry
from lposekit.stage_times import StageTimes
from pipelines.video.poses.estimate import find_poses, tracker_settings
from pipelines.video.poses.frames import FrameSource
from pipelines.video.poses.settings import PosesSettings
from tests.benchmarks.rounds import table, versions
from tests.support.fixtures import fixtures_root

DETECTOR, POSE_MODEL = "rtmdet-nano-rebuilt", "tinypose"
Checks = Mapping[str, Sequence[tuple[int, float, float]]]
CHECKED: Mapping[str, Checks] = {
    "openpose_video.avi": {
        "denim jacket": [
            (0, 663, 202),
            (56, 744, 326),
            (93, 731, 320),
            (130, 715, 385),
            (167, 679, 349),
            (204, 973, 366),
        ],
        "green top": [(130, 816, 398), (148, 803, 353), (167, 777, 366), (204, 735, 326)],
        "man with a bag": [(0, 385, 180), (56, 539, 287), (111, 588, 317), (148, 549, 287), (204, 493, 261)],
        "black coat": [(0, 281, 189), (56, 294, 307), (93, 206, 317), (130, 131, 353)],
        "far right": [(37, 1120, 199), (93, 1100, 212), (148, 1110, 212)],
    },
    "mmaction2_demo.mp4": {
        "white T-shirt": [(0, 65, 131), (51, 65, 141), (101, 65, 141), (127, 65, 141), (152, 65, 141), (178, 65, 141)],
    },
    "mmaction2_demo_skeleton.mp4": {
        "grey T-shirt": [(0, 774, 602), (21, 789, 602), (48, 808, 607), (76, 808, 607)],
        "dark jacket": [(0, 1024, 563), (21, 1038, 563), (48, 989, 578), (76, 965, 578)],
    },
    "posetrack_football.mp4": {
        "white shirt": [(0, 457, 428), (2, 457, 431), (4, 447, 434)],
        "blue shirt": [(0, 722, 388), (2, 744, 398), (4, 663, 402)],
    },
    "mmpose_demo.mp4": {
        "white blouse": [(0, 837, 357), (2, 874, 357), (4, 879, 357)],
        "black skirt": [(0, 529, 245), (2, 541, 237), (4, 526, 245)],
        "bag on the arm": [(0, 637, 247), (2, 644, 245), (4, 639, 250)],
    },
}
"""Video -> person -> (frame, x, y): the middle of the person's box, in pixels, written down from the sheets. In the
other videos there is one person (asl_thanks: and a second one behind) with one track over all frames. mmaction2_demo
jumps at frames 206 and 268: the list ends before."""


def person_videos() -> list[Path]:
    folder = fixtures_root() / "data" / "videos"
    rows = [json.loads(line) for line in (folder / "videos.jsonl").read_text(encoding="utf-8").splitlines()]
    return [folder / row["file"] for row in rows if row["content"] in ("people", "face")]


def found_tracks(video: Path, source: FrameSource, estimator: PoseEstimator) -> PoseTracks:
    """The poses of a video as the models found them, with the defaults of `lposekit pose`."""
    settings, threshold = PosesSettings(), pose_entry(POSE_MODEL).keypoint_score_threshold
    facts = source.open(video)
    start_score = detector_entry(DETECTOR).box_score_threshold
    tracker = Tracker(tracker_settings(settings.tracking, facts, start_score), "coco17", threshold)
    found = find_poses(video.name, source, facts, estimator.estimate, tracker, settings.pose.batch_size, StageTimes())
    return PoseTracks(facts.fps, facts.width, facts.height, found.num_frames, "coco17", found.persons, {})


def switches(tracks: PoseTracks, checks: Checks) -> tuple[int, int, int]:
    """Switches, misses, and the places checked."""
    switched = missed = 0
    for places in checks.values():
        ids = [id_at(tracks, *place) for place in places]
        missed += ids.count(None)
        seen = [number for number in ids if number is not None]
        switched += sum(a != b for a, b in itertools.pairwise(seen))
    return switched, missed, sum(map(len, checks.values()))


def id_at(tracks: PoseTracks, frame: int, x: float, y: float) -> int | None:
    """The person whose box holds the place; of several, the one whose centre is nearest."""
    nearest: tuple[float, int] | None = None
    for person in tracks.persons:
        left, top, width, height, _ = person.boxes_F5[frame]
        if left <= x < left + width and top <= y < top + height:
            far = float(np.hypot((left + width / 2 - x) / width, (top + height / 2 - y) / height))
            nearest = min(nearest or (far, person.id), (far, person.id))
    return None if nearest is None else nearest[1]


def figures_of(tracks: PoseTracks, checks: Checks) -> dict[str, Any]:
    threshold = pose_entry(POSE_MODEL).keypoint_score_threshold
    used, everyone = refine(tracks, RefineSettings(person="all"), threshold)
    _, largest = refine(tracks, RefineSettings(person="largest"), threshold)
    switched, missed, checked = switches(used, checks)
    return {
        "frames": tracks.num_frames,
        "fps": round(float(tracks.fps), 2),
        "persons": everyone.persons,
        "coverage": largest.coverage,
        "coverage_filled": largest.coverage_filled,
        "switches": switched,
        "missed": missed,
        "checked": checked,
        "jitter": largest.jitter,
        "jitter_smoothed": largest.jitter_smoothed,
        "shift": largest.shift,
        "jitter_all": everyone.jitter,
        "jitter_all_smoothed": everyone.jitter_smoothed,
    }


def write_sheet(path: Path, video: Path, tracks: PoseTracks, source: FrameSource, columns: int = 4) -> None:
    """Frames spread over the video, with the box and the number of each person."""
    wanted = sorted(set(np.linspace(0, tracks.num_frames - 1, 3 * columns).round().astype(int).tolist()))
    facts, tiles, number, shown = source.open(video), [], 0, None
    for batch in source.batches(facts, 16):
        for frame in batch:
            shown = shown if frame.rgb_HWC is None else frame.rgb_HWC
            if number in wanted and shown is not None:
                tiles.append(tile(shown, tracks, number))
            number += 1
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def tile(rgb_HWC: np.ndarray, tracks: PoseTracks, number: int, width: int = 400) -> np.ndarray:
    scale = width / rgb_HWC.shape[1]
    image = cv2.resize(rgb_HWC, (width, round(rgb_HWC.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    cv2.putText(image, f"#{number}", (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1)
    for person in tracks.persons:
        if person.present_F[number]:
            left, top, box_width, box_height = (person.boxes_F5[number, :4] * scale).round().astype(int).tolist()
            color = ((255, 60, 60), (60, 255, 60), (80, 160, 255), (255, 255, 0), (255, 0, 255))[person.id % 5]
            cv2.rectangle(image, (left, top), (left + box_width, top + box_height), color, 2)
            cv2.putText(image, str(person.id), (left + 3, top + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.7, color, 2)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, default=fixtures_root() / "weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheets", type=Path)
    options = parser.parse_args()
    settings = PosesSettings()
    estimator = PoseEstimator.load(
        DETECTOR,
        POSE_MODEL,
        weights_dir=options.weights_dir,
        threads=options.threads,
        backend=choose_backend("auto", "cpu", "float32"),
        box_score_threshold=detector_entry(DETECTOR).box_score_threshold * settings.tracking.continue_score,
        min_box_area_fraction=settings.pose.min_box_area_fraction,
        min_box_side_px=settings.pose.min_box_side_px,
    )
    print(f"{DETECTOR} and {POSE_MODEL}, the defaults of `lposekit pose`; jitter and shift of the largest person:")
    print(versions("torch", "mmdet", "mmpose", "scipy", "av"))
    source, figures = FrameSource(settings.limits), {}
    for video in person_videos():
        tracks = found_tracks(video, source, estimator)
        figures[video.name] = figures_of(tracks, CHECKED.get(video.name, {}))
        if options.sheets:
            options.sheets.mkdir(parents=True, exist_ok=True)
            everyone = replace(tracks, persons=select_persons(tracks, "all").persons)
            write_sheet(options.sheets / f"{video.stem}.png", video, everyone, source)
    source.close()
    show(figures)


def cell(value: Any) -> Any:
    """Jitter needs four digits."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def show(figures: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(figures.values())))
    cells = [[name, *map(cell, row.values())] for name, row in figures.items()]
    print(table(["video", *(name.replace("_", " ") for name in names)], cells))
    print(json.dumps({"benchmark": "pose_tracks", **figures}))


if __name__ == "__main__":
    main()
