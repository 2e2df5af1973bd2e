"""What the image build needs of a pose model. Free of torch, so that a stub can stand in without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lposekit.json_values import JsonValue
from lposekit.records import Person, PoseFailure
from lposekit.stage_times import StageTimes


class Estimator(Protocol):
    """Finds the persons of images, and their keypoints."""

    @property
    def keypoint_format(self) -> str:
        """Key of `lposekit.keypoints.KEYPOINT_FORMATS`."""
        ...

    @property
    def keypoint_score_threshold(self) -> float:
        """Raw score from which a keypoint counts as detected (a property of the model)."""
        ...

    def estimate(
        self, images_rgb: Sequence[npt.NDArray[np.uint8]], times: StageTimes | None = None
    ) -> list[list[Person] | PoseFailure]:
        """The persons of each image (uint8 [H, W, 3], RGB), best box first; a `PoseFailure` for one that failed.

        `times` gets the seconds of `detect` and `pose`.

        Raises:
            ValueError: something that is no such image was passed: a bug of the caller, which stops the job.
        """
        ...

    def card(self) -> dict[str, JsonValue]:
        """What the dataset card says about the models: names, hashes, licences, thresholds, versions."""
        ...


def check_images(images_rgb: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Refuse what is no image.

    Raises:
        ValueError: an entry is not uint8 [H, W, 3] with at least one pixel.
    """
    for i, image in enumerate(images_rgb):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(
                f"image {i} of {len(images_rgb)} is {image.dtype} {image.shape}: uint8 [H, W, 3] (RGB) is needed"
            )
