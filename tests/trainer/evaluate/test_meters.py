"""Contract of the meters with networks: our pose estimator gives its own poses AP 1 and shifted ones less; FID and FVD
are the Frechet distance of what the named network gives; LPIPS is that of its formula."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lposekit.errors import UsageError
from lposekit.pose.tracks import PersonTrack, PoseTracks
from lposekit.scores.frechet import Gaussian, frechet_distance
from tests.support.fixtures import fixture_path
from trainer.evaluate.meters.frechet import fid_meter, fvd_meter, i3d_input
from trainer.evaluate.meters.lpips import DEPTHS, WIDTHS, LpipsMeter
from trainer.evaluate.meters.meter import Judged
from trainer.evaluate.meters.pose import PoseMeter
from trainer.evaluate.protocol import Pair

CPU = torch.device("cpu")


def pair(num_frames: int = 1, tracks: PoseTracks | None = None, key: str = "000000000") -> Pair:
    tracks = tracks or PoseTracks(Fraction(1), 64, 64, num_frames, "coco17", (), {})
    return Pair(key, "a woman", 1, tuple(range(num_frames)), tracks)


def noisy(frames: int, seed: int = 0, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3)).astype(np.uint8)


# --- poses -----------------------------------------------------------------------------------------------------------


def test_the_estimators_own_poses_have_ap_1_and_shifted_images_less() -> None:
    # Mutation tried: real and drawn exchanged.
    from skimage.data import astronaut

    from lposekit.pose.estimator import PoseEstimator

    weights = fixture_path("weights")
    estimator = PoseEstimator.load("rtmdet-nano-rebuilt", "tinypose", weights_dir=weights, threads=1)
    photo_HWC = np.ascontiguousarray(astronaut())
    [[person]] = estimator.estimate([photo_HWC])  # pyright: ignore
    left, top, right, bottom = person.bbox_xyxy
    box = np.array([[left, top, right - left, bottom - top, person.bbox_score]], np.float32)
    info = {"keypoint_score_threshold": estimator.keypoint_score_threshold}
    tracks = PoseTracks(Fraction(1), 512, 512, 1, "coco17", (PersonTrack(1, person.keypoints_K3[None], box),), info)
    meter, posed = PoseMeter(estimator), pair(tracks=tracks)
    shifted = np.roll(photo_HWC, 60, axis=1)[None]
    found = meter.measure(Judged(posed, shifted, photo_HWC[None]))
    figures = meter.summarise([posed], [found])
    assert figures["real"]["ap"] == pytest.approx(1)  # pyright: ignore
    assert figures["real"]["pck"] == found["real_pck"] == 1  # pyright: ignore
    assert figures["drawn"]["ap"] < 0.5  # pyright: ignore
    assert figures["drawn"]["persons"] == 1  # pyright: ignore
    identity = meter.identity()
    assert len(identity["pose_model"]["sha256"]) == 64  # pyright: ignore
    assert "versions" not in identity


# --- FID and FVD -----------------------------------------------------------------------------------------------------


class Images(nn.Module):
    """Takes what Inception's file takes: mean and spread of each colour."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8
        assert return_features
        flat = images.float().flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], 1)


class Clips(nn.Module):
    """Takes what I3D's file takes: mean of each colour in the first and the last frame."""

    def forward(self, clips: torch.Tensor, rescale: bool, resize: bool, return_features: bool = False) -> torch.Tensor:
        assert clips.shape[1] == 3
        assert clips.shape[3] == 224
        assert not rescale
        assert not resize
        assert return_features
        return torch.cat([clips[:, :, 0].mean((2, 3)), clips[:, :, -1].mean((2, 3))], 1)


def scripted(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def test_fid_is_the_frechet_distance_of_the_features_of_all_frames(tmp_path: Path) -> None:
    # Mutation tried: features of each clip averaged first.
    meter = fid_meter(scripted(Images(), tmp_path / "net.pt"), CPU)
    judged = [Judged(pair(3), noisy(3, seed) // (seed + 1), noisy(3, seed + 9)) for seed in range(4)]
    found = [meter.measure(each) for each in judged]

    def features(frames: list[np.ndarray]) -> Gaussian:
        flat = np.concatenate(frames).astype(np.float64).reshape(12, -1, 3)
        return Gaussian.of(np.concatenate([flat.mean(1), flat.std(1, ddof=1)], axis=1))

    expected = frechet_distance(
        features([each.drawn_FHWC for each in judged]), features([each.real_FHWC for each in judged])
    )  # pyright: ignore
    figures = meter.summarise([each.pair for each in judged], found)
    assert figures["distance"] == pytest.approx(expected, rel=1e-4)
    assert figures["samples"] == 12
    same = meter.measure(Judged(pair(3), noisy(3), noisy(3)))
    assert meter.summarise([pair(3)], [same])["distance"] == pytest.approx(0, abs=1e-6)


def test_fvd_takes_whole_clips_and_by_disco_every_run_of_16_frames(tmp_path: Path) -> None:
    # Mutation tried: runs for both.
    file = scripted(Clips(), tmp_path / "net.pt")
    clips = [Judged(pair(18), noisy(18, seed), noisy(18, seed + 5)) for seed in range(2)]
    for definitions, samples in (("usual", 2), ("disco", 6)):
        meter = fvd_meter(file, definitions, 18, CPU)  # pyright: ignore
        figures = meter.summarise([each.pair for each in clips], [meter.measure(each) for each in clips])
        assert figures["samples"] == samples
        assert figures["distance"] >= 0  # pyright: ignore


def test_clips_that_are_too_short_for_fvd_are_refused_at_once(tmp_path: Path) -> None:
    # Mutation tried: without the check, the error is the network's.
    file = scripted(Clips(), tmp_path / "net.pt")
    for definitions, frames in (("usual", 9), ("disco", 15)):
        with pytest.raises(UsageError, match=f"clips of {frames} frames"):
            fvd_meter(file, definitions, frames, CPU)  # pyright: ignore


def test_i3d_gets_the_middle_square_of_224_pixels_in_minus_1_to_1() -> None:
    # Mutation tried: 0..1.
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 255  # the middle
    assert i3d_input(frames, "usual").shape == (3, 2, 224, 224)
    assert i3d_input(frames, "usual").mean() > 0.98
    assert i3d_input(frames, "disco").mean() == pytest.approx(0, abs=0.02)  # squeezed, so black is in it


def test_a_file_that_is_no_network_is_one_error(tmp_path: Path) -> None:
    # Mutation tried: RuntimeError passed on.
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no TorchScript file"):
        fid_meter(tmp_path / "net.pt", CPU)


def test_the_check_value_of_fvd() -> None:
    # Black against white, 8 clips of 30 frames of 64 x 64: 151.26 by common_metrics_on_video_quality's README.
    file = Path(os.environ.get("LPOSEKIT_WEIGHTS", "weights")) / "i3d_torchscript.pt"
    if not file.is_file():
        pytest.skip(f"no {file}: the network of FVD is not published where this machine can fetch it")
    meter = fvd_meter(file, "usual", 30, CPU)
    black, white = np.zeros((30, 64, 64, 3), np.uint8), np.full((30, 64, 64, 3), 255, np.uint8)
    found = [meter.measure(Judged(pair(30), black, white))] * 8
    assert meter.summarise([pair(30)] * 8, found)["distance"] == pytest.approx(151.26, abs=0.5)


# --- LPIPS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lpips_weights(tmp_path: Path) -> Path:
    """Random weights under the published names, in two files."""
    generator, vgg, number, channels = torch.Generator().manual_seed(0), {}, 0, 3
    for width, depth in zip(WIDTHS, DEPTHS, strict=True):
        for _ in range(depth):
            vgg[f"features.{number}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) / channels**0.5
            vgg[f"features.{number}.bias"] = torch.zeros(width)
            number, channels = number + 2, width
        number += 1
    assert number == 31  # as many layers as torchvision's VGG-16 has
    vgg["classifier.0.weight"] = torch.zeros(1)  # there, and not needed
    heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=generator) for i, w in enumerate(WIDTHS)}
    torch.save(vgg, tmp_path / "vgg16.pth")
    torch.save(heads, tmp_path / "heads.pth")
    return tmp_path


def test_lpips_of_equal_images_is_0_and_grows_with_their_distance(lpips_weights: Path) -> None:
    # Mutation tried: the features of one image alone.
    meter = LpipsMeter(lpips_weights, "usual", CPU)

    def lpips(drawn: np.ndarray) -> float:
        return float(meter.measure(Judged(pair(1), drawn, noisy(1)))["lpips"])  # pyright: ignore

    near = np.clip(noisy(1).astype(int) + noisy(1, 1) // 16, 0, 255).astype(np.uint8)
    assert lpips(noisy(1)) == pytest.approx(0, abs=1e-7)
    assert 0 < lpips(near) < lpips(noisy(1, 1))


def test_lpips_of_disco_gives_the_network_another_range(lpips_weights: Path) -> None:
    # Mutation tried: the same range for both.
    clip = Judged(pair(1), noisy(1, 1), noisy(1))
    usual, disco = (LpipsMeter(lpips_weights, d, CPU).measure(clip)["lpips"] for d in ("usual", "disco"))  # pyright: ignore
    assert usual != pytest.approx(disco)


def test_lpips_weights_that_are_incomplete_are_named(lpips_weights: Path) -> None:
    # Mutation tried: without the check.
    (lpips_weights / "heads.pth").unlink()
    with pytest.raises(UsageError, match=r"lacks 5 of 31 tensors, lin0\.model\.1\.weight"):
        LpipsMeter(lpips_weights, "usual", CPU)
