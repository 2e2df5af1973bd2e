"""Contract of shot detection: the first frame of every shot is named, in a short one and at the ends of the video too.

Nothing else is: not a fast pan, not repeated frames, not coding noise on a black ground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import cv2
import numpy as np
import pytest

from pipelines.video.clips.probe import SourceFrame, thumb
from pipelines.video.clips.shots import AdaptiveCuts, ContentCuts, CutFinder, with_found_shots, with_given_shots
from tests.support.videos import Image, moving, plain

FINDERS: list[Callable[[], CutFinder]] = [lambda: AdaptiveCuts(3.0), lambda: ContentCuts(27.0)]
both = pytest.mark.parametrize("finder", FINDERS, ids=["adaptive", "content"])


def found(finder: CutFinder, images: Iterable[Image | None]) -> list[int]:
    """Frames that start a shot, as the stream of marked frames says."""
    frames = [
        SourceFrame(number, number * 40, image, None if image is None else thumb(image))
        for number, image in enumerate(images)
    ]
    marked = list(with_found_shots(iter(frames), finder))
    assert [each.source.index for each in marked] == list(range(len(frames)))
    return [after.source.index for before, after in pairwise(marked) if after.shot != before.shot]


def shots_of(*lengths: int, step: int = 3) -> list[Image]:
    return [moving(number, shot, step=step) for shot, length in enumerate(lengths) for number in range(length)]


@both
def test_each_hard_cut_is_found_at_its_frame(finder: Callable[[], CutFinder]) -> None:
    assert found(finder(), shots_of(40, 25, 60, 31)) == [40, 65, 125]


# mutation tried: min_scene_len=15 in both detectors makes this test red
@both
def test_a_shot_of_a_few_frames_does_not_hide_the_cut_after_it(finder: Callable[[], CutFinder]) -> None:
    assert found(finder(), shots_of(30, 6, 4, 30)) == [30, 36, 40]


# mutation tried: no call of _stands_out in finish(), and none for frame 1, make this test red
@pytest.mark.parametrize("left_over", [1, 2, 3])
def test_frames_of_another_shot_at_the_ends_are_cut_off(left_over: int) -> None:
    assert found(AdaptiveCuts(3.0), shots_of(left_over, 30, left_over)) == [left_over, left_over + 30]


@both
def test_cut_between_two_stills_is_found(finder: Callable[[], CutFinder]) -> None:
    assert found(finder(), [moving(0, 0)] * 20 + [moving(0, 1)] * 20) == [20]


def test_fast_pan_is_no_cut() -> None:
    assert found(AdaptiveCuts(3.0), [moving(number, 0, step=25) for number in range(60)]) == []


# mutation tried: without the comparison with older changes in _stands_out, every third frame is a cut
def test_animation_on_threes_has_no_cuts() -> None:
    images = [moving(number // 3, 0, step=7) for number in range(90)]
    assert found(AdaptiveCuts(3.0), images) == []


# mutation tried: without the mask in without_dark_colour every twelfth frame is a cut
def test_noise_on_black_is_no_cut() -> None:
    images = []
    for number in range(60):
        random = np.random.default_rng(number // 12)  # each key frame brings noise of its own, which then stays
        image = random.integers(0, 20, plain(0).shape, dtype=np.uint8)
        cv2.line(image, (40 + number, 40), (160, 200), (255, 153, 51), 5)
        images.append(image)
    assert found(AdaptiveCuts(3.0), images) == []


@both
def test_black_between_two_shots_separates_them(finder: Callable[[], CutFinder]) -> None:
    cuts = found(finder(), [*shots_of(30), *[plain(0)] * 10, *(moving(number, 1) for number in range(30))])
    assert {30, 40} <= set(cuts)


def test_frames_without_an_image_pass_in_order_and_blind_nobody() -> None:
    images: list[Image | None] = [*shots_of(20, 20)]
    images[5:9] = [None] * 4
    assert 20 in found(AdaptiveCuts(3.0), images)
    assert found(AdaptiveCuts(3.0), [None, None]) == []


def test_given_cuts_are_taken_at_the_first_frame_that_follows() -> None:
    frames = [SourceFrame(number, number * 40, None, None) for number in range(10)]
    shots = [frame.shot for frame in with_given_shots(iter(frames), [100.0, 240.0, 5000.0])]
    assert shots == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_very_short_videos_have_no_cuts(count: int) -> None:
    assert found(AdaptiveCuts(3.0), shots_of(count)) == []


# mutation tried: 5 in place of 15 for the least difference
@pytest.mark.parametrize(("last", "cuts"), [(139, []), (169, [4])])
def test_a_small_change_at_the_end_is_no_cut_though_it_stands_out(last: int, cuts: list[int]) -> None:
    assert found(AdaptiveCuts(3.0), [plain(level) for level in (100, 103, 106, 109, last)]) == cuts


# mutation tried: a difference of a third of a level counts as a change
def test_images_shown_three_times_are_no_cuts_though_they_are_coded_anew() -> None:
    levels = [level + coded for level in (60, 120) * 4 for coded in (0, 1, 0)]
    assert found(AdaptiveCuts(3.0), [plain(level) for level in levels]) == []
