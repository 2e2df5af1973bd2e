"""Contract of the keep rule and of the keypoint formats: 9 of 17 keypoints keep an image, 8 do
not; only sure and large boxes count; scores and places that are not finite never count; each rule for several persons
is as stated.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lposekit.errors import Outcome
from lposekit.keypoints import (
    KEYPOINT_FORMATS,
    OPENPOSE18_NAMES,
    KeepRule,
    PersonRule,
    flip_keypoints,
    is_valid_person,
    keep_verdict,
    num_detected,
    openpose18_from_coco17,
    reaches,
)
from lposekit.records import Person

COCO17 = KEYPOINT_FORMATS["coco17"]
WIDTH, HEIGHT = 400, 300
RULE = KeepRule(keypoint_score_threshold=0.4)


def person(num: int, box: tuple[float, float, float, float] = (10, 10, 110, 210), score: float = 0.9) -> Person:
    """A person whose first ``num`` keypoints are detected."""
    keypoints_K3 = np.full((17, 3), 50.0, np.float32)
    keypoints_K3[:, 2] = np.where(np.arange(17) < num, 0.4, 0.39)
    return Person(np.array(box, np.float32), score, keypoints_K3)


def verdict(*persons: Person, rule: KeepRule = RULE) -> Outcome:
    return keep_verdict(persons, WIDTH, HEIGHT, rule, COCO17)


@pytest.mark.case(22)
def test_nobody_is_no_person() -> None:
    assert verdict() is Outcome.NO_PERSON


@pytest.mark.parametrize(("num", "outcome"), [(8, Outcome.FEW_KEYPOINTS), (9, Outcome.KEPT), (17, Outcome.KEPT)])
@pytest.mark.case(22)
def test_half_of_the_keypoints_keep_an_image(num: int, outcome: Outcome) -> None:
    # Mutation tried: `>` in place of `>=` in reaches -> exactly half of an even number is dropped (next test).
    assert verdict(person(num)) is outcome


@pytest.mark.case(22)
def test_exactly_half_is_enough() -> None:
    assert reaches(9, 18, 0.5)
    assert not reaches(8, 18, 0.5)
    assert reaches(3, 10, 0.3), "0.1 * 3 is not 0.3 in floating point"
    assert reaches(0, 17, 0.0)
    assert not reaches(16, 17, 1.0)


@pytest.mark.parametrize(
    "unsure",
    [
        person(17, score=0.49),
        person(17, box=(10, 10, 57, 210)),  # 47 pixels wide
        person(17, box=(10, 10, 58, 34)),  # 48 x 24
    ],
)
def test_a_box_that_is_unsure_or_small_does_not_count(unsure: Person) -> None:
    # Mutation tried: min -> max in the test of the sides -> the narrow box counts.
    assert verdict(unsure) is Outcome.NO_PERSON
    assert verdict(unsure, person(17)) is Outcome.KEPT


def test_a_box_of_exactly_the_least_score_and_side_counts() -> None:
    # Mutations tried: `>` in place of `>=` for the score, for the side -> red.
    assert verdict(person(17, box=(10, 10, 58, 210), score=0.5)) is Outcome.KEPT


def test_a_box_below_one_hundredth_of_the_image_does_not_count() -> None:
    small = person(17, box=(0, 0, 60, 60))
    assert is_valid_person(small, 600, 600, RULE)
    assert not is_valid_person(small, 601, 600, RULE)


@pytest.mark.case(22)
def test_scores_and_places_that_are_not_finite_or_outside_never_count() -> None:
    # Mutation tried: without the test of the place -> 17 are detected.
    keypoints_K3 = person(17).keypoints_K3
    keypoints_K3[0, 2] = np.nan
    keypoints_K3[1, 0] = np.nan
    keypoints_K3[2, 0] = -0.1
    keypoints_K3[3, 0] = WIDTH
    keypoints_K3[4, 1] = HEIGHT
    keypoints_K3[5, 1] = np.inf
    keypoints_K3[6, :2] = WIDTH - 0.5, 0  # inside, and so is the next one: the upper and the left edge count
    keypoints_K3[7, :2] = 0, HEIGHT - 0.5
    assert num_detected(keypoints_K3, WIDTH, HEIGHT, 0.4, COCO17.body17) == 11


FEW, ENOUGH = (10, 10, 300, 280), (10, 10, 110, 210)


@pytest.mark.parametrize(
    ("person_rule", "outcome"),
    [
        ("any", Outcome.KEPT),
        ("main", Outcome.FEW_KEYPOINTS),
        ("all", Outcome.FEW_KEYPOINTS),
        ("pooled", Outcome.FEW_KEYPOINTS),
    ],
)
@pytest.mark.case(22)
def test_rules_for_several_persons(person_rule: PersonRule, outcome: Outcome) -> None:
    rule = replace(RULE, person_rule=person_rule)
    assert verdict(person(4, box=FEW), person(12, box=ENOUGH), rule=rule) is outcome
    assert verdict(person(12, box=FEW), person(12, box=ENOUGH), rule=rule) is Outcome.KEPT


def test_pooled_counts_all_persons_together() -> None:
    rule = replace(RULE, person_rule="pooled")
    assert verdict(person(2), person(15), rule=rule) is Outcome.KEPT
    assert verdict(person(2), person(14), rule=rule) is Outcome.FEW_KEYPOINTS


def test_whole_body_models_count_the_body_alone() -> None:
    keypoints_K3 = np.full((133, 3), 50.0, np.float32)
    keypoints_K3[:, 2] = np.where(np.arange(133) < 8, 0.9, 0.0)
    keypoints_K3[17:, 2] = 0.9
    whole = Person(np.array((10, 10, 110, 210), np.float32), 0.9, keypoints_K3)
    found = keep_verdict([whole], WIDTH, HEIGHT, RULE, KEYPOINT_FORMATS["wholebody133"])
    assert found is Outcome.FEW_KEYPOINTS


@pytest.mark.parametrize("name", KEYPOINT_FORMATS)
def test_a_flip_swaps_left_and_right_and_twice_is_the_image_again(name: str) -> None:
    layout = KEYPOINT_FORMATS[name]
    assert len(set(layout.names)) == layout.num_keypoints == {"coco17": 17, "wholebody133": 133}[name]
    keypoints_K3 = np.random.default_rng(0).uniform(0, 99, (2, layout.num_keypoints, 3)).astype(np.float32)
    flipped = flip_keypoints(keypoints_K3, 100, layout)
    left, right = layout.names.index("left_wrist"), layout.names.index("right_wrist")
    assert np.allclose(flipped[:, left, 0], 99 - keypoints_K3[:, right, 0])
    assert np.allclose(flip_keypoints(flipped, 100, layout), keypoints_K3, atol=1e-4)
    swapped = {index for pair in layout.flip_pairs for index in pair}
    assert len(swapped) == 2 * len(layout.flip_pairs)


def test_openpose_has_a_neck_only_between_two_sure_shoulders() -> None:
    keypoints_K3 = np.zeros((17, 3), np.float32)
    keypoints_K3[5], keypoints_K3[6] = (10, 20, 0.9), (30, 40, 0.5)
    assert openpose18_from_coco17(keypoints_K3, 0.4)[1].tolist() == pytest.approx([20, 30, 0.5])
    assert openpose18_from_coco17(keypoints_K3, 0.5)[1, 2] == 0.5, "a shoulder that just reaches the threshold is sure"
    assert openpose18_from_coco17(keypoints_K3, 0.6)[1].tolist() == [0, 0, 0]
    assert openpose18_from_coco17(keypoints_K3, 0.4)[OPENPOSE18_NAMES.index("left_shoulder")].tolist() == pytest.approx(
        [10, 20, 0.9]
    )
