"""Contract: the windows of a long clip cover every frame, are all of full length, and end with the clip."""

from __future__ import annotations

import itertools

import pytest

from trainer.inference.seams import window_borders
from trainer.inference.windows import DenoisingWindow, WindowPlan

SIZES = [(9, 8, 2), (27, 24, 4), (40, 16, 4), (41, 16, 8), (240, 32, 8), (33, 32, 0), (7, 3, 2), (5, 1, 0)]


@pytest.mark.parametrize(("num_frames", "length", "overlap"), SIZES)
@pytest.mark.parametrize("method", ["average", "reuse"])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 17])
def test_every_frame_is_held_and_every_window_is_full(
    num_frames: int, length: int, overlap: int, method: str, step: int
) -> None:
    # Mutations tried: `last` left out of `window_starts`; 0 left out of it; `range(offset, last + advance, advance)`.
    windows = WindowPlan(num_frames, length, overlap, method).windows(step)  # pyright: ignore
    assert {window.stop - window.start for window in windows} == {length}
    assert windows[0].start == 0
    assert windows[-1].stop == num_frames
    counted = {frame for window in windows for frame in range(window.counts_from, window.stop)}
    assert counted == set(range(num_frames))
    if method == "average":
        shared = [early.stop - late.start for early, late in itertools.pairwise(windows)]
        assert min(shared) >= overlap


def test_a_clip_that_fits_is_one_window() -> None:
    for method in ("average", "reuse"):
        assert WindowPlan(32, 32, 8, method).windows(3) == [DenoisingWindow(0, 32, 0)]
        assert WindowPlan(5, 32, 8, method).windows(3) == [DenoisingWindow(0, 5, 0)]


def test_reuse_counts_a_frame_in_the_first_window_that_holds_it() -> None:
    # the paper's: each window advances by half its length; the last one here is flush with the end instead
    # Mutation tried: `known = start + self.length // 2`.
    windows = WindowPlan(18, 8, method="reuse").windows(0)
    assert windows == [
        DenoisingWindow(0, 8, 0),
        DenoisingWindow(4, 12, 8),
        DenoisingWindow(8, 16, 12),
        DenoisingWindow(10, 18, 16),
    ]


def test_the_borders_move_with_the_step() -> None:
    # Mutation tried: `bit_reversed(0)` for every step.
    plan = WindowPlan(240, 32, 8)
    places = {tuple(window_borders(240, plan.windows(step))) for step in range(8)}
    assert len(places) == 8
