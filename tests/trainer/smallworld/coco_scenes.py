"""Poses of real photos as scenes of the small world: held out in every sense."""

from __future__ import annotations

import json

import numpy as np

from tests.support.fixtures import fixture_path
from trainer.smallworld.draw import SIDE, Light
from trainer.smallworld.scene import MARGIN, Scene
from trainer.smallworld.words import HELD_OUT_WORDS

LIMBS = slice(5, 17)


def coco_scenes() -> list[Scene]:
    """A scene for each person of whom all limb joints are labelled, scaled into the image."""
    lines = (fixture_path("data/images") / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
    labelled = [
        np.array(person["keypoints"]).reshape(-1, 3) for line in lines for person in json.loads(line)["persons"]
    ]
    whole = [each for each in labelled if len(each) == 17 and (each[LIMBS, 2] > 0).all()]
    big = [words for words in HELD_OUT_WORDS if words.size == "big"]
    return [
        Scene(big[i % len(big)], _fitted(each[:, :2], each[:, 2] > 0)[None], Light(0, 0, 0))
        for i, each in enumerate(whole)
    ]


def _fitted(joints_17x2: np.ndarray, labelled_17: np.ndarray) -> np.ndarray:
    """In pixels of the world; a face without labels lies between the shoulders."""
    known = np.where(labelled_17[:, None], joints_17x2, joints_17x2[5:7].mean(0))
    low, high = known.min(0), known.max(0)
    scale = (SIDE - 1 - 4 * MARGIN) / (high - low).max()
    return (known - (low + high) / 2) * scale + (SIDE - 1) / 2
