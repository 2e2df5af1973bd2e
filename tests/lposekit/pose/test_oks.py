"""Contract of OKS and of one skeleton a person: OKS is COCO's on joints detected in both; near-duplicates go, the surer
one stays; two people who stand close stay two.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.oks import oks_matrix, one_skeleton_each
from lposekit.records import Person
from tests.lposekit.pose.poses import standing

COCO17 = KEYPOINT_FORMATS["coco17"]


def oks(a: Person, b: Person) -> float:
    areas = [np.array([np.prod(p.bbox_xyxy[2:] - p.bbox_xyxy[:2])]) for p in (a, b)]
    return float(oks_matrix(a.keypoints_K3[None], b.keypoints_K3[None], *areas, 0.4, COCO17)[0, 0])


def without_joints(person: Person, joints: list[int], score: float = 0.39) -> Person:
    keypoints_K3 = person.keypoints_K3.copy()
    keypoints_K3[joints, 2] = score
    return replace(person, keypoints_K3=keypoints_K3)


def left_after(*persons: Person) -> list[Person]:
    return one_skeleton_each(persons, 0.7, 0.4, COCO17)


def test_oks_is_what_pycocotools_computes() -> None:
    # Mutation tried: sigmas not doubled.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    a, b = standing(100), standing(108, 54)
    area = 60 * 150
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "area": area,
                "bbox": [100, 50, 60, 150],
                "num_keypoints": 17,
                "keypoints": np.column_stack([a.keypoints_K3[:, :2], np.full(17, 2)]).ravel().tolist(),
            }
        ],
    }
    truth.createIndex()
    found = [{"image_id": 1, "category_id": 1, "score": 1.0, "keypoints": b.keypoints_K3.ravel().tolist()}]
    evaluation = COCOeval(truth, truth.loadRes(found), "keypoints")
    evaluation.params.imgIds, evaluation.params.catIds = [1], [1]
    evaluation._prepare()
    assert oks(a, b) == pytest.approx(float(evaluation.computeOks(1, 1)[0, 0]), abs=1e-6)
    assert 0.1 < oks(a, b) < 0.9


def test_only_joints_detected_in_both_count() -> None:
    person = standing(100)
    moved = without_joints(standing(100), [9])
    moved.keypoints_K3[9, :2] += 300
    assert oks(person, moved) == pytest.approx(1)
    assert np.isnan(oks(without_joints(person, [5, *range(6, 17)]), without_joints(person, list(range(2, 14)))))
    nowhere = replace(person, keypoints_K3=np.full((17, 3), np.nan, np.float32))
    assert np.isnan(oks(person, nowhere))


def test_of_near_duplicates_the_surer_one_stays() -> None:
    # Mutation tried: sorted by box score alone -> the pose with 5 joints stays.
    sure, unsure = standing(100, score=0.7), without_joints(standing(101, score=0.8), list(range(5, 17)))
    assert left_after(unsure, sure) == [sure]
    assert left_after(sure, unsure) == [sure]


def test_the_order_of_those_who_stay_is_kept() -> None:
    persons = [standing(10, score=0.9), standing(300, score=0.5), standing(301, score=0.8), standing(150, score=0.95)]
    assert left_after(*persons) == [persons[0], persons[2], persons[3]]


def test_a_chain_of_likeness_drops_only_those_like_one_who_stays() -> None:
    # b is like a and like c, a is not like c: a and c stay.
    a, b, c = standing(100, score=0.9), standing(105, score=0.6), standing(110, score=0.8)
    assert oks(a, b) > 0.7 > oks(a, c)
    assert left_after(a, b, c) == [a, c]


def test_people_side_by_side_and_people_who_share_few_of_their_joints_stay() -> None:
    # Mutation tried: NaN counted as like -> the last two become one.
    assert len(left_after(standing(100), standing(130))) == 2
    heads_close = [without_joints(standing(100), list(range(2, 8))), without_joints(standing(100), list(range(2, 17)))]
    heads_close[1].keypoints_K3[2:6, 2] = 0.8
    assert len(left_after(*heads_close)) == 2
    assert left_after() == []


def test_a_pose_without_a_joint_of_its_own_is_a_duplicate() -> None:
    # Mutation tried: 3 shared joints asked for always -> both stay.
    sure, head = standing(100, score=0.4), without_joints(standing(101, score=0.6), list(range(2, 17)))
    assert left_after(sure, head) == [sure]
    nothing = without_joints(standing(100), list(range(17)))
    assert len(left_after(sure, nothing)) == 2
