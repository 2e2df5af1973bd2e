"""The Frechet distance between two sets of features, each taken for a Gaussian: FID and FVD.

Eigenvalues of symmetric matrices in place of SciPy's `sqrtm`, whose results turned complex or huge in some versions,
and whose arguments changed in others. Shape letters: N samples, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A mean [D], and a covariance [D, D]."""

    mean_D: npt.NDArray[np.float64]
    covariance_DD: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features_ND: npt.NDArray[np.floating]) -> Gaussian:
        """The Gaussian of some samples; the covariance is the unbiased one.

        Raises:
            ValueError: fewer than two samples.
        """
        if len(features_ND) < 2:
            raise ValueError("a covariance needs two samples")
        exact_ND = features_ND.astype(np.float64)
        return cls(exact_ND.mean(0), np.atleast_2d(np.cov(exact_ND, rowvar=False)))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 sqrt(A B)), 0 or more.

    The trace of sqrt(A B) is that of sqrt(S B S) with S = sqrt(A), which is symmetric: the sum of the roots of its
    eigenvalues. Those that rounding made negative count 0.
    """
    root_DD = _symmetric_root(a.covariance_DD)
    eigenvalues_D = np.linalg.eigvalsh(_symmetric(root_DD @ b.covariance_DD @ root_DD))
    shared = np.sqrt(np.clip(eigenvalues_D, 0, None)).sum()
    apart = ((a.mean_D - b.mean_D) ** 2).sum()
    return max(0.0, float(apart + np.trace(a.covariance_DD) + np.trace(b.covariance_DD) - 2 * shared))


def _symmetric_root(matrix_DD: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    eigenvalues_D, vectors_DD = np.linalg.eigh(_symmetric(matrix_DD))
    return (vectors_DD * np.sqrt(np.clip(eigenvalues_D, 0, None))) @ vectors_DD.T


def _symmetric(matrix_DD: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (matrix_DD + matrix_DD.T) / 2
