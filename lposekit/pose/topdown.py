"""Estimate keypoints for batches of persons cut out of images, with an MMPose top-down model. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.pose.network import Network
from lposekit.pose.preprocess import Crops, Cutter

CutRequest = tuple[Any, npt.NDArray[np.float32]]
"""An image (rgb_HWC, or its place on a device) and a person's box in it (xyxy, float32 [4])."""


@dataclass(frozen=True)
class PoseFacts:
    """What of a pose model's configuration is needed around its network.

    `bgr`: its channel order. `padding` enlarges the box (1.25); `use_udp` chooses between MMPose's two warp matrices.
    `split_ratio`: of SimCC's vectors to the crop; None of heatmaps.
    """

    input_size_wh: tuple[int, int]
    bgr: bool
    padding: float
    use_udp: bool
    split_ratio: float | None = None


class TopDownPose:
    """A network of MMPose behind batched cropping that equals `inference_topdown`."""

    def __init__(self, network: Network, facts: PoseFacts) -> None:
        self.network = network
        self.facts = facts
        self.cutter = Cutter(facts.input_size_wh, facts.padding, facts.use_udp, facts.bgr)

    def prepare(self, persons: Sequence[CutRequest]) -> Crops:
        """Cut out, where the network wants its pixels."""
        if self.network.device == "cpu":
            return self.cutter.cut(persons)
        from lposekit.pose.device_pixels import cut_there

        facts = self.facts
        return cut_there(persons, facts.input_size_wh, facts.padding, facts.use_udp, facts.bgr)

    def estimate(self, crops: Crops) -> npt.NDArray[np.float32]:
        """Keypoints float32 [N, K, 3] in pixels of the images: x, y, raw score.

        Raises:
            ArithmeticError: some are not finite. They must not pass for keypoints that were not detected.
        """
        keypoints_NK3 = self.network(crops.pixels_NHWC)
        size_N12, center_N12 = crops.size_N2[:, None], crops.center_N2[:, None]
        places = keypoints_NK3[..., :2] / np.array(self.facts.input_size_wh, np.float32) * size_N12
        keypoints_NK3[..., :2] = places + center_N12 - 0.5 * size_N12
        if not np.isfinite(keypoints_NK3).all():
            raise ArithmeticError("the pose model gave keypoints that are not finite")
        return keypoints_NK3
