"""The part of a model that computes with tensors, from pixels to numbers: what torch runs, and what is exported.

Legend: B images or crops, S side of the detector's square, H W height and width, A anchors, K keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lposekit.pose.decode import decode_heatmaps, decode_simcc


class Normalize(nn.Module):
    """Subtracts the mean and divides by the deviation of each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean_C: Sequence[float], std_C: Sequence[float], width: int, dtype: torch.dtype) -> None:
        super().__init__()
        # Rows of W * C values: an inner loop over 3 channels alone is four times slower on a CPU.
        self.register_buffer("mean", torch.tensor(mean_C, dtype=torch.float32).repeat(width))
        self.register_buffer("std", torch.tensor(std_C, dtype=torch.float32).repeat(width))
        self.dtype = dtype

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Float [B, C, H, W] in `channels_last` layout."""
        rows = pixels_BHWC.flatten(2).to(torch.float32)
        rows = rows.sub(self.mean).div(self.std)
        return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2).to(self.dtype)


class DetectorPart(nn.Module):
    """Pixels uint8 [B, S, S, 3] to float [B, A, 5]: left, top, right, bottom in pixels of the square, and score."""

    priors: Tensor

    def __init__(self, detector: Any, normalize: Normalize, input_size_px: int) -> None:
        super().__init__()
        self.detector: Any = detector
        self.normalize = normalize
        self.input_size_px = input_size_px
        generator = detector.bbox_head.prior_generator
        sizes = [(input_size_px // height, input_size_px // width) for width, height in generator.strides]
        levels = generator.grid_priors(sizes, dtype=torch.float32, device="cpu")
        self.register_buffer("priors", torch.cat(levels))

    def forward(self, pixels_BSSC: Tensor) -> Tensor:
        scores_by_level, distances_by_level = self.detector(self.normalize(pixels_BSSC))
        logits_BA = torch.cat([level.flatten(1) for level in scores_by_level], 1).float()
        distances_BA4 = torch.cat([level.flatten(2).transpose(1, 2) for level in distances_by_level], 1).float()
        corners = self.priors - distances_BA4[..., :2], self.priors + distances_BA4[..., 2:]
        boxes_BA4 = torch.cat(corners, 2).clamp(0, self.input_size_px)
        return torch.cat([boxes_BA4, logits_BA.sigmoid()[..., None]], 2)


class PosePart(nn.Module):
    """Pixels uint8 [B, H, W, 3] to the head's answer in float: heatmaps [B, K, h, w], or SimCC's [B, K, X], [B, K, Y].

    With `flip_test`, it is averaged with that for the mirrored crop, as MMPose's heads do.
    """

    def __init__(self, estimator: Any, normalize: Normalize, test_cfg: Any, flip_indices: list[int]) -> None:
        super().__init__()
        self.estimator: Any = estimator
        self.normalize = normalize
        self.flip_test = bool(test_cfg.get("flip_test", False))
        self.flip_mode = test_cfg.get("flip_mode", "heatmap")
        self.shift_heatmap = test_cfg.get("shift_heatmap", False)
        self.flip_indices = flip_indices

    def forward(self, pixels_BHWC: Tensor) -> tuple[Tensor, ...]:
        inputs = self.normalize(pixels_BHWC)
        answer = self._answer(inputs)
        if self.flip_test:
            answer = [(a + b) * 0.5 for a, b in zip(answer, self._mirrored(inputs), strict=True)]
        return tuple(each.float() for each in answer)

    def _answer(self, inputs: Tensor) -> Sequence[Tensor]:
        answer = self.estimator.head(self.estimator.extract_feat(inputs))
        return answer if isinstance(answer, tuple) else (answer,)

    def _mirrored(self, inputs: Tensor) -> Sequence[Tensor]:
        from mmpose.models.utils.tta import flip_heatmaps, flip_vectors

        answer = self._answer(inputs.flip(-1))
        if len(answer) == 2:
            return flip_vectors(*answer, flip_indices=self.flip_indices)
        return [
            flip_heatmaps(
                answer[0],
                flip_mode=self.flip_mode,
                flip_indices=self.flip_indices,
                shift_heatmap=self.shift_heatmap,
            )
        ]


class DecodedPose(nn.Module):
    """Pixels uint8 [B, H, W, 3] to keypoints float [B, K, 3]: x, y in pixels of the crop, and the raw score."""

    def __init__(self, part: PosePart, input_size_wh: tuple[int, int], split_ratio: float | None) -> None:
        super().__init__()
        self.part = part
        self.input_size_wh = input_size_wh
        self.split_ratio = split_ratio

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        answer = self.part(pixels_BHWC)
        if self.split_ratio is not None:
            return decode_simcc(answer[0], answer[1], self.split_ratio)
        return decode_heatmaps(answer[0], self.input_size_wh)
