"""Find persons in batches of images with an MMDet one-stage detector (RTMDet).

Legend: B images, A anchors (places that may hold a box), P boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange

from lposekit.pose.preprocess import Letterboxed, Normalizer, letterbox


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image, best first: `xyxy_P4` float32 in image pixels, `score_P` float32."""

    xyxy_P4: npt.NDArray[np.float32]
    score_P: npt.NDArray[np.float32]


class PersonDetector:
    """A built MMDet model behind batched pre- and post-processing that equals MMDet's test pipeline.

    Unlike MMDet it drops candidates below `score_threshold` before suppression and not after it. That is exact: a box
    is only ever suppressed by one with a higher score.
    """

    def __init__(
        self, module: torch.nn.Module, config: Any, input_size_px: int, normalizer: Normalizer, score_threshold: float
    ) -> None:
        self.module: Any = module
        self.test_cfg = config.model.test_cfg
        self.bgr = not config.model.data_preprocessor.get("bgr_to_rgb", False)
        self.input_size_px = input_size_px
        self.normalizer = normalizer
        self.score_threshold = score_threshold
        self._priors_A2: torch.Tensor | None = None

    def prepare(self, images_rgb: Sequence[npt.NDArray[np.uint8]]) -> Letterboxed:
        """Work that needs no model; may run in a thread ahead of it."""
        return letterbox(images_rgb, self.input_size_px, self.bgr)

    def detect(self, batch: Letterboxed) -> list[Boxes]:
        """The persons of each image.

        Raises:
            ArithmeticError: scores are not finite. Silence would read as "nobody there".
        """
        scores_by_level, distances_by_level = self.module(self.normalizer(batch.pixels_BSSC))
        logits_BA = torch.cat([rearrange(s, "b 1 h w -> b (h w)") for s in scores_by_level], 1)
        distances_BA4 = torch.cat([rearrange(d, "b c h w -> b (h w) c") for d in distances_by_level], 1)
        scores_BA = logits_BA.float().sigmoid()
        if not bool(scores_BA.isfinite().all()):
            raise ArithmeticError("the person detector gave scores that are not finite")
        image, anchor = torch.nonzero(scores_BA >= self.score_threshold, as_tuple=True)
        boxes = self._box_coder().decode(
            self._priors(scores_by_level)[anchor],
            distances_BA4[image, anchor].float(),
            max_shape=(self.input_size_px, self.input_size_px),
        )
        image_N, boxes_N4, scores_N = image.cpu(), boxes.cpu(), scores_BA[image, anchor].cpu()
        return [
            self._suppress(boxes_N4[image_N == i], scores_N[image_N == i], scale_2)
            for i, scale_2 in enumerate(batch.scale_B2)
        ]

    def _suppress(self, boxes_P4: torch.Tensor, scores_P: torch.Tensor, scale_2: npt.NDArray[np.float32]) -> Boxes:
        """Back to image pixels, then greedy suppression, in MMDet's order."""
        from mmcv.ops import nms

        boxes_P4 = boxes_P4 * torch.from_numpy(1.0 / np.tile(scale_2, 2))
        if len(boxes_P4) == 0:  # mmcv's compiled nms does not take nothing
            return Boxes(boxes_P4.numpy(), scores_P.numpy())
        _, kept = nms(boxes_P4, scores_P, self.test_cfg.nms.iou_threshold)
        kept = kept[: self.test_cfg.max_per_img]
        return Boxes(boxes_P4[kept].numpy(), scores_P[kept].numpy())

    def _box_coder(self) -> Any:
        return self.module.bbox_head.bbox_coder

    def _priors(self, scores_by_level: Sequence[torch.Tensor]) -> torch.Tensor:
        if self._priors_A2 is None:  # the input size is fixed, so these never change
            sizes = [level.shape[2:] for level in scores_by_level]
            generator = self.module.bbox_head.prior_generator
            levels = generator.grid_priors(sizes, dtype=torch.float32, device=scores_by_level[0].device)
            self._priors_A2 = torch.cat(levels)
        return self._priors_A2
