"""Contract of the filters: a window is dropped for what it shows, and only when it shows it.

Thin bright lines on black (a skeleton) are neither black nor dark; a slow pan is neither frozen nor low in motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import pytest

from pipelines.video.clips.motion import MotionMeter, judge_window
from pipelines.video.clips.probe import thumb
from pipelines.video.clips.settings import ClipFilterSettings
from tests.support.videos import Image, dark, grey_noise, moving, plain

FPS = Fraction(25)


def reason(images: Sequence[Image], before: Sequence[Image] = ()) -> str | None:
    meter = MotionMeter(FPS)
    for image in before:
        meter.measure(thumb(image))
    measures = [meter.measure(thumb(image)) for image in images]
    return judge_window(measures, FPS, meter.spacing, ClipFilterSettings()).reason


def skeleton(number: int) -> Image:
    image = plain(0)
    cv2.line(image, (60 + number, 40), (160, 200), (255, 153, 51), 4)
    return image


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([moving(number) for number in range(50)], None),
        ([moving(number // 4, step=1) for number in range(50)], None),
        ([skeleton(number) for number in range(50)], None),
        ([plain(0)] * 50, "black"),
        ([plain(12)] * 50, "black"),
        ([*(moving(number) for number in range(30)), *[plain(2)] * 20], "black"),
        ([*(moving(number) for number in range(46)), *[plain(2)] * 4], None),
        ([dark(number) for number in range(50)], "dark"),
        ([moving(7)] * 50, "frozen"),
        ([*(moving(number) for number in range(20)), *[moving(19)] * 30], "frozen"),
        ([*(moving(number) for number in range(35)), *[moving(34)] * 15], None),
        ([grey_noise(number) for number in range(50)], "low_motion"),
    ],
    ids=[
        "pan",
        "slow pan on fours",
        "skeleton",
        "black",
        "nearly black",
        "black end",
        "short fade",
        "dark",
        "still",
        "stops for long",
        "stops for a moment",
        "only noise",
    ],
)
def test_each_window_is_dropped_for_what_it_shows(images: list[Image], expected: str | None) -> None:
    assert reason(images) == expected


# mutation tried: `frames[spacing:]` -> `frames` in judge_window makes this test red
def test_what_came_before_the_window_does_not_count_as_its_motion() -> None:
    assert reason([grey_noise(number) for number in range(8)], before=[moving(n, 1) for n in range(20)]) == "low_motion"


def test_window_too_short_to_measure_motion_is_not_dropped_for_it() -> None:
    assert reason([grey_noise(number) for number in range(4)]) is None
