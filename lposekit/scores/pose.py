"""How well the poses found in images are those that were asked for: OKS, AP, PCK.

Arrays: ``17x3`` = COCO's 17 body keypoints of one person, (x, y, score), in pixels; P persons asked for, Q found. Of a
person asked for, joints with a score above 0 count; of a person found, all do, whatever their score.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.keypoints import COCO17_SIGMAS

Keypoints = npt.NDArray[np.floating]

PCK_SHARE = 0.2
"""Of the person's longer side: how far from its place a joint may be found."""


@dataclass(frozen=True, slots=True)
class Found:
    """A person found in an image. score: how sure the models are; only its order counts."""

    keypoints_17x3: Keypoints
    score: float


@dataclass(frozen=True, slots=True)
class Posed:
    """The persons of one image: asked for, and found."""

    asked_P: Sequence[Keypoints]
    found_Q: Sequence[Found]


@dataclass(frozen=True, slots=True)
class Average:
    """COCO's figures over all images, 0..1: average precision over OKS 0.50 to 0.95, at 0.50, at 0.75, and average
    recall."""

    ap: float
    ap50: float
    ap75: float
    ar: float


def asked_area(keypoints_17x3: Keypoints) -> float:
    """The scale of a person asked for: the area of the box around the joints that count, in square pixels."""
    left, top, right, bottom = _box(keypoints_17x3)
    return (right - left) * (bottom - top)


def oks(asked_17x3: Keypoints, found_17x3: Keypoints) -> float:
    """COCO's object keypoint similarity, 0..1: mean of exp(-d^2 / (2 area (2 sigma)^2)) over the joints asked for."""
    counts = asked_17x3[:, 2] > 0
    squared = ((asked_17x3[:, :2] - found_17x3[:, :2]).astype(np.float64) ** 2).sum(-1)[counts]
    sigmas = 2 * np.array(COCO17_SIGMAS)[counts]
    return float(np.exp(-squared / (2 * sigmas**2 * max(asked_area(asked_17x3), 1e-9))).mean())


def average_precision(images: Sequence[Posed]) -> Average | None:
    """COCO's keypoint AP by pycocotools; None if no image asks for a person.

    The area of a person, OKS's scale, is that of `asked_area`: there is no mask, and COCO's own area is a mask's.
    """
    asked = [_annotation(person, number) for number, image in enumerate(images) for person in image.asked_P]
    found = [
        {"image_id": number, "category_id": 1, "keypoints": _flat(person.keypoints_17x3), "score": person.score}
        for number, image in enumerate(images)
        for person in image.found_Q
    ]
    if not asked:
        return None
    if not found:
        return Average(0.0, 0.0, 0.0, 0.0)
    figures = _coco_figures(len(images), asked, found)
    return Average(ap=float(figures[0]), ap50=float(figures[1]), ap75=float(figures[2]), ar=float(figures[5]))


def _coco_figures(num_images: int, asked: list[dict[str, Any]], found: list[dict[str, Any]]) -> npt.NDArray[Any]:
    """The ten figures of COCO's evaluation of keypoints."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress
        truth: Any = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(num_images)],
            "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
            "annotations": [{**annotation, "id": number} for number, annotation in enumerate(asked, 1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def _annotation(keypoints_17x3: Keypoints, image: int) -> dict[str, Any]:
    left, top, right, bottom = _box(keypoints_17x3)
    labelled_17x3 = np.concatenate([keypoints_17x3[:, :2], 2 * (keypoints_17x3[:, 2:] > 0)], axis=1)
    return {
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": _flat(np.where(labelled_17x3[:, 2:] > 0, labelled_17x3, 0)),
        "num_keypoints": int((keypoints_17x3[:, 2] > 0).sum()),
        "bbox": [left, top, right - left, bottom - top],
        "area": asked_area(keypoints_17x3),
    }


def joints_in_place(image: Posed) -> tuple[int, int]:
    """How many of the joints asked for are found in their place, and how many were asked for: PCK@0.2 is the sum of
    the former over that of the latter.

    In its place: within `PCK_SHARE` of the longer side of the box around the person's joints (Yang and Ramanan 2013).
    Persons are matched one to one, the most alike (OKS) first; the joints of one who has no match are not found.
    """
    right = 0
    for asked_17x3, found_17x3 in matched(image):
        counts = asked_17x3[:, 2] > 0
        away = np.hypot(*(asked_17x3[counts, :2] - found_17x3[counts, :2]).T)
        left, top, right_edge, bottom = _box(asked_17x3)
        right += int((away <= PCK_SHARE * max(right_edge - left, bottom - top)).sum())
    return right, sum(int((person[:, 2] > 0).sum()) for person in image.asked_P)


def matched(image: Posed) -> list[tuple[Keypoints, Keypoints]]:
    """Pairs of a person asked for and the one found for him, at most as many as the fewer of the two."""
    alike = [
        (-oks(asked, found.keypoints_17x3), p, q)
        for p, asked in enumerate(image.asked_P)
        for q, found in enumerate(image.found_Q)
    ]
    pairs, used_p, used_q = [], set[int](), set[int]()
    for _, p, q in sorted(alike):
        if p not in used_p and q not in used_q:
            used_p.add(p)
            used_q.add(q)
            pairs.append((image.asked_P[p], image.found_Q[q].keypoints_17x3))
    return pairs


def _box(keypoints_17x3: Keypoints) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the joints that count."""
    places = keypoints_17x3[keypoints_17x3[:, 2] > 0, :2].astype(np.float64)
    left, top = places.min(0).tolist()
    right, bottom = places.max(0).tolist()
    return left, top, right, bottom


def _flat(keypoints_17x3: Keypoints) -> list[float]:
    return [float(value) for value in keypoints_17x3.reshape(-1)]
