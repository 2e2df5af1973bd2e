"""Contract of clip windows: a pure function of boundaries, rate and settings, and the same answer frame by frame.

No window crosses a boundary or touches its margin, every shot has at least one candidate, and each candidate is either
to be written or dropped for a stated reason.
"""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from pipelines.video.clips.settings import ClipSettings
from pipelines.video.clips.windows import Window, WindowCursor, WindowFrames
from tests.support.clip_windows import clip_windows

FPS = Fraction(25)


def in_frames(
    length: int, stride: int | None = None, shortest: int = 1, margin: int = 0, max_clips: int | None = None
) -> ClipSettings:
    return ClipSettings(
        length_frames=length,
        stride_frames=stride,
        min_length_frames=shortest,
        cut_margin_frames=margin,
        max_clips=max_clips,
    )


@pytest.mark.case(39)
def test_a_shot_is_cut_into_windows_end_to_end_and_the_rest_makes_a_shorter_one() -> None:
    windows = clip_windows([0, 25], FPS, in_frames(10, shortest=5))
    assert windows == [Window(0, 10), Window(10, 20), Window(20, 25)]


def test_a_rest_below_the_minimum_is_dropped_for_what_ended_it() -> None:
    windows = clip_windows([0, 23, 46], FPS, in_frames(10, shortest=5))
    assert windows[2] == Window(20, 23, "cut")
    assert windows[5] == Window(43, 46, "too_short")


def test_frames_near_a_cut_are_in_no_window_and_the_ends_of_the_video_are_no_cuts() -> None:
    windows = clip_windows([0, 30, 60], FPS, in_frames(100, margin=3))
    assert windows == [Window(0, 27), Window(33, 60)]


def test_overlapping_windows_stop_where_they_would_add_nothing() -> None:
    windows = clip_windows([0, 20], FPS, in_frames(10, stride=5))
    assert windows == [Window(0, 10), Window(5, 15), Window(10, 20)]


def test_a_stride_longer_than_the_clip_leaves_gaps() -> None:
    assert clip_windows([0, 50], FPS, in_frames(10, stride=20)) == [Window(0, 10), Window(20, 30), Window(40, 50)]


def test_a_shot_without_a_usable_frame_is_in_the_account() -> None:
    windows = clip_windows([0, 40, 44, 80], FPS, in_frames(20, margin=3))
    assert Window(43, 43, "cut") in windows


def test_clips_beyond_the_limit_are_counted_not_forgotten() -> None:
    windows = clip_windows([0, 50], FPS, in_frames(10, max_clips=2))
    assert [window.reason for window in windows] == [None, None, "max_clips", "max_clips", "max_clips"]


@pytest.mark.parametrize(
    ("fps", "expected"), [(Fraction(24000, 1001), 48), (Fraction(25), 50), (Fraction(30000, 1001), 60), (60, 120)]
)
def test_seconds_become_the_nearest_number_of_frames(fps: Fraction, expected: int) -> None:
    assert WindowFrames.at(Fraction(fps), ClipSettings(length_s=2.0)).length == expected


# mutation tried: `now - self._frames.margin` -> `now` in WindowCursor.push makes both tests below red
def test_frame_by_frame_the_cursor_says_what_the_pure_function_says() -> None:
    for seed in range(400):
        boundaries, settings = _random_case(random.Random(seed))
        closed, fed = _follow(WindowCursor(WindowFrames.at(FPS, settings)), boundaries)
        assert closed == clip_windows(boundaries, FPS, settings), seed
        for window in closed:
            assert fed.get(window.start, []) == list(range(window.start, window.stop)), (seed, window)


def test_no_window_crosses_a_boundary_and_every_shot_is_accounted() -> None:
    for seed in range(400):
        boundaries, settings = _random_case(random.Random(seed))
        margin = WindowFrames.at(FPS, settings).margin
        windows = clip_windows(boundaries, FPS, settings)
        for window in windows:
            if window.reason is None:
                near = [cut for cut in boundaries[1:-1] if window.start - margin < cut < window.stop + margin]
                assert not near, (seed, window)
        ends = [end for _, end in pairwise(boundaries)]
        assert len(windows) >= len(ends), seed


def _random_case(rng: random.Random) -> tuple[list[int], ClipSettings]:
    count = rng.randint(1, 120)
    cuts = sorted(rng.sample(range(1, count), min(count - 1, rng.randint(0, 6)))) if count > 1 else []
    length = rng.randint(1, 30)
    settings = in_frames(length, rng.choice([None, rng.randint(1, 40)]), rng.randint(1, 12), rng.randint(0, 5))
    return [0, *cuts, count], settings


def _follow(cursor: WindowCursor, boundaries: list[int]) -> tuple[list[Window], dict[int, list[int]]]:
    """Play the boundaries as frames; returns the candidates, and the frames that each window was fed."""
    closed: list[Window] = []
    fed: dict[int, list[int]] = {}
    open_starts: list[int] = []
    next_frame = 0

    def obey(steps: list) -> None:
        nonlocal next_frame
        for step in steps:
            if step.kind == "open":
                open_starts.append(step.start)
            elif step.kind == "close":
                closed.append(step.window)
                if step.start >= 0:
                    open_starts.remove(step.start)
            elif step.kind == "void":
                open_starts.remove(step.start)
            else:
                if step.kind == "feed":
                    for start in open_starts:
                        fed.setdefault(start, []).append(next_frame)
                next_frame += 1

    for frame in range(boundaries[-1]):
        obey(cursor.push(frame in boundaries[1:-1]))
    obey(cursor.finish())
    assert not open_starts
    assert next_frame == boundaries[-1]
    return closed, fed
