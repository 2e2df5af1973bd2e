"""Contract of the scores of embeddings and pixels: built cases have the values that their definitions give."""

from __future__ import annotations

import numpy as np
import pytest

from lposekit.scores import disco
from lposekit.scores.embeddings import consecutive_consistency, pairwise_consistency, text_score
from lposekit.scores.frames import flicker, l1, psnr, ssim
from lposekit.scores.frechet import Gaussian, frechet_distance


def turned(degrees: list[float]) -> np.ndarray:
    """Embeddings of two numbers at these angles, of other lengths."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def grey(*levels: int, side: int = 16) -> np.ndarray:
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def noisy(frames: int = 2, side: int = 16) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (frames, side, side, 3)).astype(np.uint8)


def test_equal_frames_are_consistent_by_both_definitions() -> None:
    # Mutation tried: the diagonal left in the mean over pairs.
    assert consecutive_consistency(turned([30, 30, 30])) == pytest.approx(1)
    assert pairwise_consistency(turned([30, 30, 30])) == pytest.approx(1)


def test_both_definitions_differ_where_a_clip_drifts() -> None:
    # Mutation tried: either one for the other.
    drifting = turned([0, 30, 60])
    neighbours, ends = np.cos(np.deg2rad(30)), np.cos(np.deg2rad(60))
    assert consecutive_consistency(drifting) == pytest.approx(neighbours)
    assert pairwise_consistency(drifting) == pytest.approx((2 * neighbours + ends) / 3)


def test_one_frame_has_no_consistency() -> None:
    # Mutation tried: without the check, NaN.
    for measure in (consecutive_consistency, pairwise_consistency):
        with pytest.raises(ValueError, match="two"):
            measure(turned([0]))


def test_the_text_score_is_the_mean_cosine_in_per_cent_and_may_be_negative() -> None:
    # Mutation tried: clamped at 0.
    assert text_score(turned([0, 60]), np.array([2.0, 0])) == pytest.approx(75)
    assert text_score(turned([180]), np.array([2.0, 0])) == pytest.approx(-100)


def test_differences_of_pixels_do_not_wrap_around() -> None:
    # Mutation tried: uint8 in, uint8 subtracted.
    assert flicker(grey(0, 200, 0)) == pytest.approx(200)
    assert l1(grey(0), grey(255)) == pytest.approx(1)
    assert l1(grey(10), grey(4)) == pytest.approx(6 / 255)
    assert psnr(grey(0), grey(255)) == pytest.approx(0)
    assert psnr(grey(10), grey(0)) == psnr(grey(0), grey(10)) == pytest.approx(20 * np.log10(25.5))


def test_equal_frames_have_psnr_100_and_ssim_1() -> None:
    # Mutation tried: infinity, which JSON cannot say.
    assert psnr(noisy(), noisy()) == 100
    assert ssim(noisy(), noisy()) == pytest.approx(1)
    assert disco.ssim(noisy(), noisy()) == pytest.approx(1)
    assert ssim(noisy(), noisy()[::-1]) < 0.5


def test_the_l1_of_disco_is_divided_by_the_image_size() -> None:
    # Mutation tried: without the division.
    assert disco.l1(grey(10), grey(4)) == pytest.approx(6 / 256)
    assert disco.l1(grey(10, side=32), grey(4, side=32)) == pytest.approx(6 / 1024)


def test_the_ssim_of_disco_sees_no_colour() -> None:
    # Mutation tried: over the colour channels.
    red, green = grey(0, side=32), grey(0, side=32)
    red[..., :16, 0], green[..., :16, 1] = 196, 100  # alike in grey
    assert disco.ssim(red, green) > 0.99
    assert ssim(red, green) < 0.9


def test_every_run_of_16_frames_is_a_clip_of_disco() -> None:
    # Mutation tried: runs that do not overlap.
    assert [list(run) for run in disco.runs_of_frames(18)] == [list(range(i, i + 16)) for i in range(3)]
    assert disco.runs_of_frames(15) == []


def test_the_frechet_distance_of_known_gaussians() -> None:
    # Mutations tried: without the factor 2, without the means, sqrt(A) sqrt(B) for sqrt(AB).
    a = Gaussian(np.array([1.0, 2.0]), np.diag([4.0, 9.0]))
    b = Gaussian(np.array([4.0, 6.0]), np.diag([1.0, 16.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 1)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned_a, turned_b = (Gaussian(turn @ g.mean_D, turn @ g.covariance_DD @ turn.T) for g in (a, b))
    assert frechet_distance(turned_a, turned_b) == pytest.approx(27)
    # two that do not share their axes: the trace of the root by its closed form for 2 x 2
    crossed = Gaussian(np.zeros(2), turn @ np.diag([4.0, 1.0]) @ turn.T)
    plain = Gaussian(np.zeros(2), np.diag([9.0, 1.0]))
    product = crossed.covariance_DD @ plain.covariance_DD
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    assert frechet_distance(crossed, plain) == pytest.approx(5 + 10 - 2 * root)


def test_the_frechet_distance_of_samples() -> None:
    # Mutation tried: the root of fewer samples than features taken by `cholesky`.
    features = np.random.default_rng(0).normal(size=(20, 64))
    assert frechet_distance(Gaussian.of(features), Gaussian.of(features)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(Gaussian.of(features), Gaussian.of(features + 3)) == pytest.approx(64 * 9)
    with pytest.raises(ValueError, match="two"):
        Gaussian.of(features[:1])
