"""Scores from embeddings of images and texts, such as those of CLIP.

Shape letters: F frames, D width of an embedding. Embeddings need no length of their own: only their directions count.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.floating]


def text_score(images_FD: Embeddings, text_D: Embeddings) -> float:
    """The CLIP score of a clip: 100 times the cosine of image and text, the mean over its frames; -100..100.

    Neither clamped at 0 nor scaled by 2.5, as in Tune-A-Video's evaluation (loveu-tgve-2023, `run_eval.py`).
    """
    return float(100 * (_directions(images_FD) @ _directions(text_D)).mean())


def consecutive_consistency(images_FD: Embeddings) -> float:
    """Mean cosine of every frame and the next, -1..1: the frame consistency of Follow-Your-Pose and ControlVideo.

    Raises:
        ValueError: fewer than two frames.
    """
    _refuse_one(images_FD)
    unit_FD = _directions(images_FD)
    return float((unit_FD[:-1] * unit_FD[1:]).sum(-1).mean())


def pairwise_consistency(images_FD: Embeddings) -> float:
    """Mean cosine over all pairs of different frames, -1..1: the frame consistency of Tune-A-Video's evaluation.

    Raises:
        ValueError: fewer than two frames.
    """
    _refuse_one(images_FD)
    unit_FD = _directions(images_FD)
    cosine_FF = unit_FD @ unit_FD.T
    count = len(unit_FD)
    return float((cosine_FF.sum() - np.trace(cosine_FF)) / (count * (count - 1)))


def _refuse_one(images_FD: Embeddings) -> None:
    if len(images_FD) < 2:
        raise ValueError("the consistency of frames needs two of them")


def _directions(vectors: Embeddings) -> npt.NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), 1e-12)
