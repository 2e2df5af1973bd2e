"""From a pose head's output to keypoints, for a whole batch at once.

Does what MMPose's codecs `MSRAHeatmap` and `SimCCLabel` do one person at a time; tests hold the two equal.
Legend: N persons, K keypoints, h w size of a heatmap, X Y length of SimCC's vectors. Places are in input (crop) pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def decode_heatmaps(heatmaps_NKhw: Tensor, input_size_wh: tuple[int, int]) -> Tensor:
    """The maximum of each heatmap, moved by a quarter pixel towards its higher neighbour.

    Returns:
        [N, K, 3], x, y and the maximum. A heatmap without a positive value gives the place (-1, -1), as MMPose does.
    """
    height, width = heatmaps_NKhw.shape[2:]
    flat = rearrange(heatmaps_NKhw, "n k h w -> n k (h w)")
    score, index = flat.max(dim=2)
    found = score > 0
    x = torch.where(found, index % width, -1)
    y = torch.where(found, index // width, -1)

    def step(offset: int, inside: Tensor) -> Tensor:
        """Sign of the slope between the two neighbours; 0 where they are not both inside."""
        ahead = flat.gather(2, torch.where(inside, index + offset, 0)[..., None])[..., 0]
        behind = flat.gather(2, torch.where(inside, index - offset, 0)[..., None])[..., 0]
        return (ahead - behind).sign()

    # MMPose's bounds: the first two columns (rows) and the last are left alone, and so are points on the other border
    x_inside = (x > 1) & (x < width - 1) & (y > 0) & (y < height)
    y_inside = (y > 1) & (y < height - 1) & (x > 0) & (x < width)
    x = x + 0.25 * step(1, x_inside)
    y = y + 0.25 * step(width, y_inside)
    return torch.stack([x * (input_size_wh[0] / width), y * (input_size_wh[1] / height), score], dim=2)


def decode_simcc(x_NKX: Tensor, y_NKY: Tensor, split_ratio: float) -> Tensor:
    """The maximum of each pair of vectors; the score is the smaller of the two maxima (unnormalised).

    Returns:
        [N, K, 3], x, y and score. Without a positive score the place is that of index -1, as MMPose has it.
    """
    x_score, x = x_NKX.max(dim=2)
    y_score, y = y_NKY.max(dim=2)
    score = torch.minimum(x_score, y_score)
    found = score > 0
    x = torch.where(found, x, -1) / split_ratio
    y = torch.where(found, y, -1) / split_ratio
    return torch.stack([x, y, score], dim=2)
