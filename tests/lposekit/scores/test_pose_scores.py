"""Contract of the pose scores: a perfect pose has AP 1 and PCK 1, a shifted one the OKS of COCO's formula and the AP
that follows from it, and what is not asked for does not count."""

from __future__ import annotations

import numpy as np
import pytest

from lposekit.keypoints import COCO17_SIGMAS
from lposekit.scores.pose import Found, Posed, asked_area, average_precision, joints_in_place, oks


def person(left: float = 10, top: float = 20, side: float = 100) -> np.ndarray:
    """17 joints spread over a square of that side, all of them visible."""
    xy = np.random.default_rng(0).uniform(0, 1, (17, 2))
    xy[0], xy[1] = (0, 0), (1, 1)
    return np.concatenate([xy * side + (left, top), np.ones((17, 1))], axis=1)


def shifted(keypoints_17x3: np.ndarray, x: float) -> np.ndarray:
    return keypoints_17x3 + np.array([x, 0, 0])


def test_perfect_poses_have_ap_1_and_all_joints_in_place() -> None:
    # Mutation tried: joints asked for as invisible (v = 0): no AP.
    images = [Posed([person()], [Found(person(), 0.5)]), Posed([person(), person(200)], [Found(person(200), 1)])]
    average = average_precision(images[:1])
    assert average is not None
    assert average.ap == pytest.approx(1)
    assert joints_in_place(images[0]) == (17, 17)
    # of two persons, one is not found
    assert joints_in_place(images[1]) == (17, 34)


def test_a_shifted_pose_has_the_oks_of_the_formula() -> None:
    # Mutations tried: sigma for 2 sigma, the scale's root for the scale.
    x = 7.0
    expected = np.mean([np.exp(-(x**2) / (2 * 100 * 100 * (2 * sigma) ** 2)) for sigma in COCO17_SIGMAS])
    assert asked_area(person()) == pytest.approx(100 * 100)
    assert oks(person(), shifted(person(), x)) == pytest.approx(expected)


@pytest.mark.parametrize("x", [2.0, 5.0, 9.0, 14.0])
def test_ap_counts_the_thresholds_that_the_oks_of_the_formula_reaches(x: float) -> None:
    # Mutation tried: `area` of the annotations doubled.
    alike = oks(person(), shifted(person(), x))
    average = average_precision([Posed([person()], [Found(shifted(person(), x), 1)])])
    assert average is not None
    assert average.ap == pytest.approx(np.mean([alike >= limit for limit in np.linspace(0.5, 0.95, 10)]))
    assert average.ap50 == pytest.approx(float(alike >= 0.5))


def test_joints_that_were_not_asked_for_do_not_count() -> None:
    # Mutation tried: all 17 joints counted.
    asked = person()
    asked[5:, 2] = 0
    asked[5:, :2] = 999
    assert oks(asked, person()) == pytest.approx(1)
    assert joints_in_place(Posed([asked], [Found(person(), 1)])) == (5, 5)
    average = average_precision([Posed([asked], [Found(person(), 1)])])
    assert average is not None
    assert average.ap == pytest.approx(1)


def test_nobody_found_is_ap_0_and_nobody_asked_for_is_no_ap() -> None:
    # Mutation tried: an Average of zeros for both.
    average = average_precision([Posed([person()], [])])
    assert average is not None
    assert average.ap == average.ar == 0
    assert average_precision([Posed([], [Found(person(), 1)])]) is None


def test_persons_who_were_not_asked_for_lower_the_ap() -> None:
    # Mutation tried: images without persons left out of the evaluation.
    images = [Posed([person()], [Found(person(), 0.4)]), Posed([], [Found(person(), 0.9)])]
    average = average_precision(images)
    assert average is not None
    assert average.ap == pytest.approx(0.5, abs=0.01)


def test_a_joint_is_in_place_within_a_fifth_of_the_longer_side() -> None:
    # Mutation tried: a tenth.
    assert joints_in_place(Posed([person()], [Found(shifted(person(), 19.9), 1)])) == (17, 17)
    assert joints_in_place(Posed([person()], [Found(shifted(person(), 20.1), 1)])) == (0, 17)


def test_each_found_person_is_matched_to_the_one_he_is_most_alike() -> None:
    # Mutation tried: matched in the order of the lists.
    image = Posed([person(), person(60)], [Found(person(60), 1), Found(person(), 1)])
    assert joints_in_place(image) == (34, 34)
