"""Contract of choice, resampling, scaling and retargeting of tracks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lposekit.errors import UsageError
from lposekit.keypoints import COCO17_NAMES
from lposekit.pose.choose import most_prominent, select_persons
from lposekit.pose.resample import resample, scale_tracks
from lposekit.pose.retarget import retarget
from lposekit.pose.tracks import PoseTracks
from tests.lposekit.pose.poses import as_track, as_tracks, standing

J = {name: i for i, name in enumerate(COCO17_NAMES)}


def three() -> PoseTracks:
    """1 is in all 10 frames and small, 2 in 8 and large, 3 in one and larger."""
    return as_tracks(
        as_track({frame: standing(10, width=20, height=50) for frame in range(10)}, 10, 1),
        as_track({frame: standing(100) for frame in range(8)}, 10, 2),
        as_track({3: standing(200, width=200, height=300)}, 10, 3),
    )


@pytest.mark.parametrize(
    ("choice", "chosen"), [("largest", [2]), ("longest", [1]), ("all", [1, 2, 3]), ("3", [3]), ("3,1", [3, 1])]
)
def test_persons_are_chosen(choice: str, chosen: list[int]) -> None:
    # Mutation tried: largest by the mean area -> 3, who is in one frame.
    assert [person.id for person in select_persons(three(), choice).persons] == chosen


@pytest.mark.parametrize("choice", ["", "biggest", "4", "1,,2", "-1", "1,4"])
def test_an_unknown_choice_is_refused(choice: str) -> None:
    with pytest.raises(UsageError, match="persons"):
        select_persons(three(), choice)


def test_nobody_to_choose_from_stays_nobody() -> None:
    nobody = PoseTracks(Fraction(25), 8, 8, 3, "coco17", (), {})
    assert [select_persons(nobody, word).persons for word in ("largest", "longest", "all")] == [()] * 3


def test_the_most_prominent_keep_their_order() -> None:
    assert [person.id for person in most_prominent(three(), 2).persons] == [2, 3]


def test_resampling_keeps_moments_and_the_own_rate_changes_nothing() -> None:
    track = as_track({frame: standing(100 + 2 * frame) for frame in range(60)}, 60)
    same = resample(as_tracks(track), Fraction(30)).persons[0]
    assert (same.keypoints_FK3 == track.keypoints_FK3).all()
    half = resample(as_tracks(track), Fraction(15))
    assert half.num_frames == 30
    assert (half.persons[0].keypoints_FK3 == track.keypoints_FK3[::2]).all()
    faster = resample(as_tracks(track), Fraction(45), 20).persons[0]
    np.testing.assert_allclose(faster.boxes_F5[:, 0], 100 + 2 * np.arange(20) / 1.5, rtol=1e-5)


def test_resampling_of_film_rates_is_exact() -> None:
    track = as_track({frame: standing(float(frame)) for frame in range(1000)}, 1000)
    resampled = resample(as_tracks(track, fps=Fraction(30000, 1001)), Fraction(15000, 1001)).persons[0]
    assert (resampled.boxes_F5[:, 0] == np.arange(0, 1000, 2)).all()


def test_resampling_invents_nobody() -> None:
    # Mutation tried: early_N not bounded -> the last frame stands still behind the end.
    track = as_track({frame: standing(100) for frame in (0, 1, 2, 6)}, 7)
    resampled = resample(as_tracks(track, fps=Fraction(10)), Fraction(20), 20).persons[0]
    assert np.flatnonzero(resampled.present_F).tolist() == [0, 1, 2, 3, 4, 11, 12]
    for fps, num_frames in ((Fraction(0), None), (Fraction(10), 0)):
        with pytest.raises(ValueError, match="must be positive"):
            resample(as_tracks(track), fps, num_frames)


def test_scaling_keeps_pixel_centres() -> None:
    scaled = scale_tracks(as_tracks(as_track({0: standing(100)}, 1)), 320, 960)
    assert (scaled.width, scaled.height) == (320, 960)
    before = standing(100).keypoints_K3
    np.testing.assert_allclose(scaled.persons[0].keypoints_FK3[0, :, 0], (before[:, 0] + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(scaled.persons[0].keypoints_FK3[0, :, 1], (before[:, 1] + 0.5) * 2 - 0.5)
    np.testing.assert_allclose(scaled.persons[0].boxes_F5[0, :4], [50, 100, 30, 300])


def limb(keypoints_K3: np.ndarray, a: str, b: str) -> np.ndarray:
    return keypoints_K3[J[b], :2] - keypoints_K3[J[a], :2]


def long_legs() -> np.ndarray:
    reference = standing(0).keypoints_K3.copy()
    for side in ("left", "right"):
        reference[J[f"{side}_knee"], 1] += 20
        reference[J[f"{side}_ankle"], 1] += 40
    return reference


def test_retargeting_takes_the_references_proportions_and_keeps_directions() -> None:
    # Mutation tried: the knee's own move not added to the ankle -> shins of the old length.
    own = as_tracks(as_track({frame: standing(100 + frame, height=300, width=120) for frame in range(5)}, 5))
    new = retarget(own, long_legs(), 0.4).persons[0].keypoints_FK3[2]
    old = own.persons[0].keypoints_FK3[2]
    for a, b in (("left_hip", "left_knee"), ("left_knee", "left_ankle")):
        np.testing.assert_allclose(limb(new, a, b), limb(long_legs(), a, b) * 2, rtol=0.02)
    np.testing.assert_allclose(
        limb(new, "left_shoulder", "left_elbow"), limb(old, "left_shoulder", "left_elbow"), rtol=1e-3
    )
    np.testing.assert_allclose(new[J["left_hip"]], old[J["left_hip"]], rtol=1e-5)


def test_a_foreshortened_arm_stays_foreshortened() -> None:
    pointing = standing(100)
    pointing.keypoints_K3[J["left_wrist"], :2] = pointing.keypoints_K3[J["left_elbow"], :2] + 1
    frames = {frame: standing(100) for frame in range(9)} | {9: pointing}
    new = retarget(as_tracks(as_track(frames, 10)), standing(0).keypoints_K3, 0.4).persons[0].keypoints_FK3[9]
    np.testing.assert_allclose(new, pointing.keypoints_K3, atol=0.01)


def test_a_reference_without_limbs_changes_nothing() -> None:
    reference = standing(0).keypoints_K3.copy()
    reference[:, 2] = 0
    own = as_tracks(as_track({0: standing(100)}, 2))
    np.testing.assert_allclose(
        retarget(own, reference, 0.4).persons[0].keypoints_FK3, own.persons[0].keypoints_FK3, rtol=1e-5
    )


def test_hands_and_face_move_with_wrist_and_nose_at_their_own_size() -> None:
    whole = np.zeros((133, 3), np.float32)
    whole[:17], whole[17:, 2] = standing(100).keypoints_K3, 0.8
    whole[91:112, :2] = whole[9, :2] + np.arange(42).reshape(21, 2)
    reference = whole.copy()
    reference[J["left_wrist"], 1] += 30
    track = as_track({}, 1)
    track = type(track)(1, whole[None], np.array([[100, 50, 60, 150, 0.9]], np.float32))
    poses = PoseTracks(Fraction(25), 640, 480, 1, "wholebody133", (track,), {})
    new = retarget(poses, reference, 0.4).persons[0].keypoints_FK3[0]
    assert abs(new[9, 1] - whole[9, 1]) > 10
    np.testing.assert_allclose(new[91:112, :2] - new[9, :2], whole[91:112, :2] - whole[9, :2], atol=1e-3)
