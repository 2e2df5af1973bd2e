"""Greedy non-maximum suppression in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_ROWS_AT_ONCE = 1024  # rows of the overlap matrix computed at once: bounds the float temporaries to 1024 x N


def nms(
    boxes_N4: npt.NDArray[np.float32], scores_N: npt.NDArray[np.float32], iou_threshold: float, offset: int = 0
) -> npt.NDArray[np.int64]:
    """Greedy suppression with the meaning of mmcv's compiled `nms`.

    Args:
        boxes_N4: left, top, right, bottom.
        scores_N: among equal scores the earlier box wins.
        iou_threshold: a box goes when its overlap with a kept one is greater than this.
        offset: 0, or 1 where width is counted as right - left + 1.

    Returns:
        Indices of the kept boxes, best score first.
    """
    order = np.argsort(-scores_N, kind="stable")
    suppresses_NN = _overlaps(boxes_N4[order].astype(np.float32), iou_threshold, offset)
    removed_N = np.zeros(len(order), bool)
    kept: list[int] = []
    for i in range(len(order)):
        if not removed_N[i]:
            kept.append(i)
            removed_N |= suppresses_NN[i]
    return order[kept].astype(np.int64)


def _overlaps(boxes_N4: npt.NDArray[np.float32], iou_threshold: float, offset: int) -> npt.NDArray[np.bool_]:
    """Bool [N, N]: which pairs overlap by more than the threshold. Two boxes without area overlap by NaN: not more."""
    left, top, right, bottom = boxes_N4.T
    area = (right - left + offset) * (bottom - top + offset)
    rows = [np.zeros((0, len(boxes_N4)), bool)]
    for start in range(0, len(boxes_N4), _ROWS_AT_ONCE):
        row = slice(start, start + _ROWS_AT_ONCE)
        width = np.minimum(right[row, None], right) - np.maximum(left[row, None], left) + offset
        height = np.minimum(bottom[row, None], bottom) - np.maximum(top[row, None], top) + offset
        shared = width.clip(min=0) * height.clip(min=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            rows.append(shared / (area[row, None] + area - shared) > np.float32(iou_threshold))
    return np.concatenate(rows)
