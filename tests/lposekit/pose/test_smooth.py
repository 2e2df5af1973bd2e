"""Contract of gap filling and smoothing: short gaps become straight lines, long ones stay; smoothing is scipy's
Savitzky-Golay filter where nothing is missing, does not lag, keeps who is where, and never fails on short tracks.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import savgol_filter

from lposekit.pose.fill import fill_gaps
from lposekit.pose.smooth import jitter, median_shift, smooth
from lposekit.pose.tracks import PersonTrack, empty_track
from tests.lposekit.pose.poses import as_track, as_tracks, standing

NUM_FRAMES = 60


def walker(noise_px: float = 0.0, frames: range = range(NUM_FRAMES)) -> PersonTrack:
    """Somebody who walks to the right and waves; noise from a fixed seed."""
    rng = np.random.default_rng(3)
    track = as_track({frame: standing(100 + 2 * frame) for frame in frames}, NUM_FRAMES)
    track.keypoints_FK3[:, 9, 1] += 30 * np.sin(np.arange(NUM_FRAMES) / 5)
    track.keypoints_FK3[..., :2] += rng.normal(0, noise_px, track.keypoints_FK3[..., :2].shape)
    return track


def test_it_is_savitzky_and_golays_filter_where_nothing_is_missing() -> None:
    # Mutation tried: the right-hand sides all taken with u ** 0.
    before = walker(noise_px=3.0)
    after = smooth(as_tracks(before), 9, 0.4).persons[0]
    expected = savgol_filter(before.keypoints_FK3[..., :2].astype(np.float64), 9, 2, axis=0)
    np.testing.assert_allclose(after.keypoints_FK3[4:-4, :, :2], expected[4:-4], atol=1e-3)


def test_smoothing_does_not_lag_and_undoes_noise() -> None:
    clean, noisy = as_tracks(walker()), as_tracks(walker(noise_px=2.0))
    smoothed = smooth(noisy, 9, 0.4)
    backwards = smooth(as_tracks(_reversed(noisy.persons[0])), 9, 0.4).persons[0]
    np.testing.assert_allclose(_reversed(backwards).keypoints_FK3, smoothed.persons[0].keypoints_FK3, atol=1e-3)
    assert (jitter(smoothed, 0.4) or 9) < (jitter(noisy, 0.4) or 0) / 2
    assert (median_shift(clean, smoothed, 0.4) or 9) < (median_shift(clean, noisy, 0.4) or 0)


def _reversed(track: PersonTrack) -> PersonTrack:
    return PersonTrack(track.id, track.keypoints_FK3[::-1].copy(), track.boxes_F5[::-1].copy())


def test_scores_and_who_is_where_stay() -> None:
    track = walker(noise_px=2.0, frames=range(5, 30))
    track.keypoints_FK3[10, 3] = (np.nan, np.nan, 0)
    after = smooth(as_tracks(track), 9, 0.4).persons[0]
    assert (after.present_F == track.present_F).all()
    assert (after.keypoints_FK3[..., 2] == track.keypoints_FK3[..., 2]).all()
    assert np.isnan(after.keypoints_FK3[10, 3, :2]).all()
    assert np.isfinite(after.keypoints_FK3[11, 3, :2]).all()


def test_an_unsure_joint_hardly_pulls_at_its_neighbours() -> None:
    # Mutation tried: weights all 1 -> the frame beside the outlier moves by 10 px and more.
    track = walker()
    track.keypoints_FK3[20, 7] = (track.keypoints_FK3[20, 7, 0] + 100, 0, 0.01)
    after = smooth(as_tracks(track), 9, 0.4).persons[0]
    assert np.abs(after.keypoints_FK3[21, 7, :2] - walker().keypoints_FK3[21, 7, :2]).max() < 3


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("window", [0, 1, 4, 9, 99])
def test_short_videos_and_wide_windows_do_no_harm(num_frames: int, window: int) -> None:
    track = as_track({frame: standing(100 + frame) for frame in range(num_frames)}, num_frames)
    after = smooth(as_tracks(track), window, 0.4).persons[0]
    np.testing.assert_allclose(after.keypoints_FK3, track.keypoints_FK3, atol=1e-2)


def test_nobody_stays_nobody() -> None:
    nobody = as_tracks(empty_track(1, 10, 17))
    assert not smooth(fill_gaps(nobody, 5, 0.4), 9, 0.4).persons[0].present_F.any()
    assert jitter(nobody, 0.4) is None
    assert median_shift(nobody, nobody, 0.4) is None


def test_jitter_is_the_second_difference_by_the_boxs_height() -> None:
    # 3 px once in 10 frames: second differences 3, 6, 3 of 8, box of 150 px
    track = as_track({frame: standing(100) for frame in range(10)}, 10)
    track.keypoints_FK3[5, :, 0] += 3
    assert jitter(as_tracks(track), 0.4) == pytest.approx(12 / 8 / 150)
    assert jitter(as_tracks(track), 0.9) is None, "no joint is that sure"


def test_short_gaps_of_a_person_become_straight_lines_and_long_ones_stay() -> None:
    # Mutation tried: `<` in place of `<=` in gaps -> the gap of 4 stays.
    frames = {0: standing(100, score=0.9), 5: standing(150, score=0.6), 11: standing(160)}
    filled = fill_gaps(as_tracks(as_track(frames, 12)), 4, 0.4).persons[0]
    assert filled.present_F.tolist() == [True] * 6 + [False] * 5 + [True]
    np.testing.assert_allclose(filled.boxes_F5[:6, 0], [100, 110, 120, 130, 140, 150], rtol=1e-5)
    np.testing.assert_allclose(filled.boxes_F5[1:5, 4], 0.6)
    np.testing.assert_allclose(filled.keypoints_FK3[2, :, 0], standing(120).keypoints_K3[:, 0], rtol=1e-5)


def test_a_joint_unseen_for_a_moment_is_filled_and_a_joint_unseen_for_long_is_not() -> None:
    track = as_track({frame: standing(100 + frame) for frame in range(20)}, 20)
    track.keypoints_FK3[5:7, 0] = (0, 0, 0.1)
    track.keypoints_FK3[10:18, 0] = (0, 0, 0.1)
    filled = fill_gaps(as_tracks(track), 4, 0.4).persons[0]
    np.testing.assert_allclose(filled.keypoints_FK3[5, 0], standing(105).keypoints_K3[0], rtol=1e-5)
    assert (filled.keypoints_FK3[10:18, 0, 2] == np.float32(0.1)).all()
    assert (track.keypoints_FK3[5, 0] == np.array([0, 0, 0.1], np.float32)).all(), "the input stays as it is"
