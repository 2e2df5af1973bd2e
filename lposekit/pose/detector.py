"""Find persons in batches of images with an MMDet one-stage detector (RTMDet). Free of torch.

Legend: B images, A anchors (places that may hold a box), P boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lposekit.pose.network import Network
from lposekit.pose.nms import nms
from lposekit.pose.preprocess import Letterboxed, letterbox


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image, best first: `xyxy_P4` float32 in image pixels, `score_P` float32."""

    xyxy_P4: npt.NDArray[np.float32]
    score_P: npt.NDArray[np.float32]


@dataclass(frozen=True)
class DetectorFacts:
    """What of a detector's configuration is needed around its network. `bgr`: its channel order."""

    input_size_px: int
    bgr: bool
    iou_threshold: float
    max_boxes: int


class PersonDetector:
    """A network of MMDet behind batched pre- and post-processing that equals MMDet's test pipeline.

    Unlike MMDet it drops candidates below `score_threshold` before suppression and not after it. That is exact: a box
    is only ever suppressed by one with a higher score.
    """

    def __init__(self, network: Network, facts: DetectorFacts, score_threshold: float) -> None:
        self.network = network
        self.facts = facts
        self.score_threshold = score_threshold

    def prepare(self, images_rgb: Sequence[Any]) -> Letterboxed:
        """Letterboxed, where the network wants its pixels; `images_rgb` as `on_device` gives them."""
        size_px, bgr = self.facts.input_size_px, self.facts.bgr
        if self.network.device == "cpu":
            return letterbox(images_rgb, size_px, bgr)
        from lposekit.pose.device_pixels import letterbox_there

        return letterbox_there(images_rgb, size_px, bgr)

    def detect(self, batch: Letterboxed) -> list[Boxes]:
        """The persons of each image.

        Raises:
            ArithmeticError: numbers are not finite. Silence would read as "nobody there".
        """
        candidates_BA5 = self.network(batch.pixels_BSSC)
        if not np.isfinite(candidates_BA5).all():
            raise ArithmeticError("the person detector gave numbers that are not finite")
        return [
            self._suppress(candidates_A5[candidates_A5[:, 4] >= self.score_threshold], scale_2)
            for candidates_A5, scale_2 in zip(candidates_BA5, batch.scale_B2, strict=True)
        ]

    def _suppress(self, candidates_P5: npt.NDArray[np.float32], scale_2: npt.NDArray[np.float32]) -> Boxes:
        """Back to image pixels, then greedy suppression, in MMDet's order."""
        boxes_P4 = (candidates_P5[:, :4] * np.reciprocal(np.tile(scale_2, 2))).astype(np.float32)
        scores_P = candidates_P5[:, 4]
        kept = nms(boxes_P4, scores_P, self.facts.iou_threshold)[: self.facts.max_boxes]
        return Boxes(boxes_P4[kept], scores_P[kept])
