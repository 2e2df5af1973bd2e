"""Contract of the filters: a window is dropped for what it shows, and only when it shows it.

Thin bright lines on black (a skeleton) are neither black nor dark; a slow pan is neither frozen nor low in motion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import pytest

from pipelines.video.clips.motion import FrameMeasure, MotionMeter, judge_window
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


RULE = ClipFilterSettings()
SPACING = 6  # frames in a quarter of a second, at 25 a second


def shown(number: int, **changes: float | None) -> list[FrameMeasure]:
    """Measures of frames in which something moves in the light, but for the changes."""
    moving_frame = FrameMeasure(luma=100, bright_98=200, bright_998=220, change=3.0, moved=0.2)
    return [dataclasses.replace(moving_frame, **changes)] * number


def verdict(*frames: FrameMeasure) -> str | None:
    return judge_window(frames, FPS, SPACING, RULE).reason


# mutations tried: `<` for the level of black, `>=` for its share
def test_at_its_level_a_frame_is_black_and_at_its_share_a_window_is_not() -> None:
    level = RULE.black_level
    assert verdict(*shown(80), *shown(20, bright_998=level)) is None
    assert verdict(*shown(79), *shown(21, bright_998=level)) == "black"
    assert verdict(*shown(79), *shown(21, bright_998=level + 0.1)) is None


# mutations tried: `<` for the level of dark; `>=`, or the level itself, for the lights
def test_at_its_level_a_window_is_dark_but_for_lights_of_more_than_twice_that() -> None:
    level = RULE.dark_level
    assert verdict(*shown(50, bright_98=level, bright_998=2 * level)) == "dark"
    assert verdict(*shown(50, bright_98=level, bright_998=2 * level + 0.1)) is None
    assert verdict(*shown(50, bright_98=level + 0.1, bright_998=2 * level)) is None


# mutation tried: `<=` for the least motion
def test_at_the_least_motion_a_window_is_kept() -> None:
    assert verdict(*shown(50, moved=RULE.min_motion)) is None
    assert verdict(*shown(50, moved=RULE.min_motion - 1e-6)) == "low_motion"


# mutations tried: `<` for the share that may move, `<` for the difference
def test_at_both_limits_a_window_stands_still() -> None:
    assert verdict(*shown(50, moved=0.0005, change=RULE.frozen_difference)) == "frozen"
    assert verdict(*shown(50, moved=0.0005, change=RULE.frozen_difference + 0.001)) == "low_motion"
    assert verdict(*shown(50, moved=0.0006, change=RULE.frozen_difference)) == "low_motion"


# mutations tried: `>=` for the longest time; the quarter of a second before the first still frame not taken off it
def test_a_second_without_motion_is_allowed_and_one_frame_more_is_not() -> None:
    # 19 still frames, of which the first is like the one a quarter of a second before it: 25 frames in all
    assert verdict(*shown(60), *shown(19, moved=0.0, change=0.0), *shown(21)) is None
    assert verdict(*shown(60), *shown(20, moved=0.0, change=0.0), *shown(20)) == "frozen"


# mutation tried: without `len(longest) == len(frames)` a short window passes
def test_a_short_window_that_is_still_throughout_is_frozen() -> None:
    assert verdict(*shown(SPACING, moved=None), *shown(8, moved=0.0, change=0.0)) == "frozen"
    assert verdict(*shown(SPACING, moved=None), *shown(7, moved=0.0, change=0.0), *shown(1)) is None


# mutation tried: the later of two equal runs
def test_two_stops_are_not_one() -> None:
    still = shown(15, moved=0.0, change=0.0)
    assert verdict(*shown(20), *still, *shown(1), *still, *shown(30)) is None


# mutation tried: `>=` for the levels by which a pixel has to differ
def test_a_change_of_four_levels_is_no_motion() -> None:
    for levels, moved in ((4, 0.0), (5, 1.0)):
        meter = MotionMeter(FPS)
        for _ in range(meter.spacing):
            meter.measure(thumb(plain(100)))
        assert meter.measure(thumb(plain(100 + levels))).moved == moved


# mutation tried: 0.95 in place of 0.98
def test_the_brightest_pixels_are_measured_at_their_shares() -> None:
    image = np.zeros((144, 256, 3), np.uint8)
    image.reshape(-1, 3)[: round(0.03 * 144 * 256)] = 200
    measure = MotionMeter(FPS).measure(image)
    assert (measure.bright_98, measure.bright_998) == (200, 200)
    image.reshape(-1, 3)[round(0.015 * 144 * 256) :] = 0
    measure = MotionMeter(FPS).measure(image)
    assert (measure.bright_98, measure.bright_998) == (0, 200)
