"""Which meters judge, by the settings; and why others do not. All are loaded before anything is drawn: what is missing
is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import torch

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from trainer.evaluate.meters.meter import Meter
from trainer.evaluate.meters.motion import MotionMeter
from trainer.evaluate.meters.pixels import PixelMeter
from trainer.evaluate.protocol import Protocol
from trainer.evaluate.settings import EvaluateSettings
from trainer.run.distributed import choose_device

NO_REAL = "no real frames: name the dataset that holds them (--real)"
HELD = "still ones of images, held over several frames, which no real clip shows"
POSE_NONE = "none"


def choose_meters(settings: EvaluateSettings, protocol: Protocol, *, has_real: bool) -> tuple[list[Meter], JsonObject]:
    """The meters, and by name of a score why it is left out.

    Raises:
        UsageError: weights that were named are not there, or are others.
    """
    device = choose_device(settings.compute.device)
    meters: list[Meter] = [MotionMeter()]
    left_out: dict[str, str] = {}
    if settings.clip is None:
        left_out["CLIP score, frame consistency"] = "no CLIP model was named (--clip)"
    else:
        meters.append(_clip_meter(settings.clip, device))
    if settings.pose_model == POSE_NONE:
        left_out["pose accuracy"] = "left out on request (--pose-model none)"
    else:
        meters.append(_pose_meter(settings, device.type))
    if not has_real:
        _refuse_unused(settings)
        left_out["L1, PSNR, SSIM, LPIPS, FID, FVD, the ceiling of the pose accuracy"] = (
            f"the poses are {HELD}" if protocol.held else NO_REAL
        )
        return meters, left_out
    meters += [PixelMeter(settings.definitions), *_meters_of_features(settings, protocol, device)]
    for name in ("lpips", "fid", "fvd"):
        if getattr(settings, name) is None:
            left_out[name.upper()] = f"its weights were not named (--{name})"
    return meters, left_out


def _clip_meter(name: str, device: torch.device) -> Meter:
    try:
        from trainer.evaluate.meters.clip import ClipMeter
    except ImportError as error:  # transformers 4 prepares images with torchvision alone
        raise UsageError(
            f"--clip {name}: needs transformers 5 or newer, here is {version('transformers')} ({error}). Install "
            "lposekit[evaluate], or leave --clip out."
        ) from error
    return ClipMeter(name, device)


def _refuse_unused(settings: EvaluateSettings) -> None:
    for name in ("lpips", "fid", "fvd"):
        if getattr(settings, name) is not None:
            raise UsageError(f"--{name}: compares with real frames, and there are none. Name the clips with --real.")


def _meters_of_features(settings: EvaluateSettings, protocol: Protocol, device: torch.device) -> Iterator[Meter]:
    from trainer.evaluate.meters.frechet import fid_meter, fvd_meter
    from trainer.evaluate.meters.lpips import LpipsMeter

    if settings.lpips is not None:
        yield LpipsMeter(settings.lpips, settings.definitions, device)
    if settings.fid is not None:
        yield fid_meter(settings.fid, device)
    if settings.fvd is not None:
        yield fvd_meter(settings.fvd, settings.definitions, protocol.num_frames, device)


def _pose_meter(settings: EvaluateSettings, device: str) -> Meter:
    from lposekit.pose.at_hand import require_weights
    from lposekit.pose.estimator import EstimatorSettings, PoseEstimator
    from lposekit.pose.zoo import detector_entry, pose_entry
    from trainer.evaluate.meters.pose import PoseMeter

    entries = detector_entry(settings.detector), pose_entry(settings.pose_model)
    require_weights([entry.weights for entry in entries], settings.weights_dir)
    chosen = EstimatorSettings(
        device=device,
        threads=settings.compute.threads,
        box_score_threshold=settings.pose.box_score_threshold,
        min_box_area_fraction=settings.pose.min_box_area_fraction,
        min_box_side_px=0.0,
        batch_size=settings.pose.batch_size,
    )
    return PoseMeter(
        PoseEstimator.load(settings.detector, settings.pose_model, weights_dir=settings.weights_dir, settings=chosen)
    )
