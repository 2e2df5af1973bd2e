"""From a pose head's output to keypoints in numpy: the same as `lposekit.pose.decode` does in torch, to the last bit.

Legend: N persons, K keypoints, h w size of a heatmap, X Y length of SimCC's vectors. Places are in input (crop) pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def decode_heatmaps(heatmaps_NKhw: Floats, input_size_wh: tuple[int, int]) -> Floats:
    """The maximum of each heatmap, moved by a quarter pixel towards its higher neighbour.

    Returns:
        [N, K, 3], x, y and the maximum. A heatmap without a positive value gives the place (-1, -1), as MMPose does.
    """
    count, joints, height, width = heatmaps_NKhw.shape
    flat = heatmaps_NKhw.reshape(count * joints, height * width)
    rows = np.arange(len(flat))
    index = flat.argmax(axis=1)
    score = flat[rows, index]
    found = score > 0
    x, y = np.where(found, index % width, -1), np.where(found, index // width, -1)

    def step(offset: int, inside: npt.NDArray[np.bool_]) -> Floats:
        """Sign of the slope between the two neighbours; 0 where they are not both inside."""
        ahead = flat[rows, np.where(inside, index + offset, 0)]
        behind = flat[rows, np.where(inside, index - offset, 0)]
        return np.sign(ahead - behind)

    # MMPose's bounds: the first two columns (rows) and the last are left alone, and so are points on the other border
    x_inside = (x > 1) & (x < width - 1) & (y > 0) & (y < height)
    y_inside = (y > 1) & (y < height - 1) & (x > 0) & (x < width)
    keypoints = np.empty((len(flat), 3), np.float32)
    keypoints[:, 0] = (x + np.float32(0.25) * step(1, x_inside)) * (input_size_wh[0] / width)
    keypoints[:, 1] = (y + np.float32(0.25) * step(width, y_inside)) * (input_size_wh[1] / height)
    keypoints[:, 2] = score
    return keypoints.reshape(count, joints, 3)


def decode_simcc(x_NKX: Floats, y_NKY: Floats, split_ratio: float) -> Floats:
    """The maximum of each pair of vectors; the score is the smaller of the two maxima (unnormalised).

    Returns:
        [N, K, 3], x, y and score. Without a positive score the place is that of index -1, as MMPose has it.
    """
    score = np.minimum(x_NKX.max(axis=2), y_NKY.max(axis=2))
    places = [np.where(score > 0, each.argmax(axis=2), -1) / split_ratio for each in (x_NKX, y_NKY)]
    return np.stack([*places, score], axis=2).astype(np.float32)
