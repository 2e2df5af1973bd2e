"""A pose model without a model, for tests of everything around it: it reads what to answer from the image itself.

The upper edge of an image is a row of 16 squares of 16 pixels, black (0) or white (1), which survive JPEG and say: how
many persons, how many of their keypoints are detected, how to misbehave, and a number that comes back in the keypoints'
places, so that image, text and pose can be checked to belong together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lposekit.json_values import JsonValue
from lposekit.pose.protocol import check_images
from lposekit.records import Person, PoseFailure
from lposekit.stage_times import StageTimes

NAME = "stub"
KEYPOINT_FORMAT = "coco17"
KEYPOINT_SCORE_THRESHOLD = 0.5
BOX_SCORE_THRESHOLD = 0.5
SQUARE_PX = 16
NUM_BITS = 16
BEHAVIOURS = ("well", "raise", "wrong_shape", "exit", "memory", "sleep")
FIELDS = {"num_persons": (0, 2), "num_detected": (2, 7), "behaviour": (7, 10), "number": (10, 16)}
"""Name -> first bit and the one after the last, lowest bit first."""


def encode_bits(num_persons: int, num_detected: int, behaviour: str, number: int) -> list[int]:
    """The 16 bits of an image's upper edge."""
    values = {"num_persons": num_persons, "num_detected": num_detected, "number": number}
    values["behaviour"] = BEHAVIOURS.index(behaviour)
    return [values[name] >> bit & 1 for name, (first, end) in FIELDS.items() for bit in range(end - first)]


def decode_bits(rgb_HWC: npt.NDArray[np.uint8]) -> dict[str, int]:
    """What the upper edge of an image says; zeros for an image that is too narrow to say anything."""
    middle = SQUARE_PX // 2
    bits = [int(rgb_HWC[middle, i * SQUARE_PX + middle].mean() > 127) for i in range(_num_squares(rgb_HWC))]
    bits += [0] * (NUM_BITS - len(bits))
    return {name: sum(bit << i for i, bit in enumerate(bits[first:end])) for name, (first, end) in FIELDS.items()}


def _num_squares(rgb_HWC: npt.NDArray[np.uint8]) -> int:
    height, width = rgb_HWC.shape[:2]
    return NUM_BITS if height >= SQUARE_PX and width >= NUM_BITS * SQUARE_PX else 0


class StubEstimator:
    """An `lposekit.pose.protocol.Estimator` that answers what each image's upper edge says."""

    keypoint_format = KEYPOINT_FORMAT
    keypoint_score_threshold = KEYPOINT_SCORE_THRESHOLD

    def estimate(
        self, images_rgb: Sequence[npt.NDArray[np.uint8]], times: StageTimes | None = None
    ) -> list[list[Person] | PoseFailure]:
        """As the protocol says; an image may also ask for an exception, a death, too much memory, or a pause."""
        check_images(images_rgb)
        with (times or StageTimes()).stage("pose"):
            return [self._answer(image) for image in images_rgb]

    def _answer(self, rgb_HWC: npt.NDArray[np.uint8]) -> list[Person] | PoseFailure:
        encoded = decode_bits(rgb_HWC)
        behaviour = BEHAVIOURS[encoded["behaviour"]] if encoded["behaviour"] < len(BEHAVIOURS) else "well"
        if behaviour == "raise":
            return PoseFailure("RuntimeError: the image asked for it")
        if behaviour == "wrong_shape":
            raise ValueError("the pose model answered (16, 3) keypoints instead of (17, 3)")
        if behaviour == "exit":
            os._exit(1)
        if behaviour == "memory":
            return _out_of_memory()
        if behaviour == "sleep":
            time.sleep(0.5)
        return [_person(i, encoded["num_detected"], encoded["number"]) for i in range(encoded["num_persons"])]

    def card(self) -> dict[str, JsonValue]:
        """What the dataset card says of it."""
        threshold = {"keypoint_score_threshold": KEYPOINT_SCORE_THRESHOLD, "provisional": False}
        return {"detector": {"name": NAME}, "pose_model": {"name": NAME, **threshold}}


def _out_of_memory() -> PoseFailure:
    try:
        np.ones(2**44)  # 128 TiB: refused on every machine
    except MemoryError as error:
        return PoseFailure(f"MemoryError: {error}")
    raise AssertionError("no machine has that much memory")


def _person(i: int, num_detected: int, number: int) -> Person:
    """Person `i` of an image of at least 256 x 128 pixels; `number` is the place of the nose."""
    left = 10.0 + 60 * i
    keypoints_K3 = np.zeros((17, 3), np.float32)
    keypoints_K3[:, 0] = left + np.arange(17) * 3
    keypoints_K3[:, 1] = 20 + np.arange(17) * 6
    keypoints_K3[0, :2] = left, 20 + number
    keypoints_K3[:, 2] = np.where(np.arange(17) < num_detected, 0.9, 0.1)
    return Person(np.array([left, 20, left + 50, 125], np.float32), 0.9 - 0.1 * i, keypoints_K3)
