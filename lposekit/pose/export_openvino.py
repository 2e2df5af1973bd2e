"""Export a model's tensor part to OpenVINO, and check it against torch on fixed images before it is ever used."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lposekit.errors import LposekitError
from lposekit.json_values import JsonObject
from lposekit.kept_out import kept_out
from lposekit.pose.models import load_detector, load_pose_model
from lposekit.pose.openvino_core import core
from lposekit.pose.openvino_network import OpenVinoNetwork
from lposekit.pose.tensor_parts import DetectorPart, PosePart
from lposekit.pose.unshuffle import unshuffle
from lposekit.pose.zoo import DetectorEntry, PoseEntry

logger = logging.getLogger(__name__)
LIMITS = {"boxes, px": 0.1, "scores": 1e-3, "keypoints' scores, of the largest": 1e-3}
"""How far the engine's numbers may lie from torch's."""


def export(entry: DetectorEntry | PoseEntry, weights_dir: Path | None, target: Path) -> JsonObject:
    """Write the entry's network to `target` (.xml, with a .bin beside it); returns the facts about it.

    Raises:
        WeightsError: its weights cannot be had. LposekitError: the engine computes other numbers than torch.
    """
    import openvino

    logger.info("exporting %s for openvino %s, once", entry.name, openvino.__version__)
    part: DetectorPart | PosePart
    if isinstance(entry, DetectorEntry):
        loaded = load_detector(entry, weights_dir)
        part, facts, (width, height) = loaded.part, asdict(loaded.facts), (entry.input_size_px,) * 2
    else:
        posed = load_pose_model(entry, weights_dir)
        part, facts, (width, height) = posed.part, asdict(posed.facts), entry.input_size_wh
    images = fixed_images(width, height)
    example = torch.from_numpy(images)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that the tracer takes for constants, as they are
        expected = part(example)
        unshuffle(part)
        # frozen: of a plain module the converter takes four times as long
        traced = torch.jit.freeze(torch.jit.trace(part, (example,), check_trace=False, strict=False))
        with kept_out("openvino_telemetry"):  # by which its converter reports to its makers
            model = openvino.convert_model(traced, example_input=example, input=[(-1, height, width, 3)])
    openvino.save_model(model, target, compress_to_fp16=False)
    expected = [each.numpy() for each in (expected if isinstance(expected, tuple) else (expected,))]
    network = core().read_model(target)
    got = [_output(network, k, images) for k in range(len(expected))]
    require_same(entry, expected, got)
    return facts


def fixed_images(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Two images uint8 [2, H, W, 3] that are the same everywhere: noise, and soft shapes."""
    noise_HWC = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    soft = [127 + 120 * np.sin(x / (9 + 7 * c) + c) * np.cos(y / (13 - 3 * c)) for c in range(3)]
    return np.stack([noise_HWC, np.stack(soft, 2).astype(np.uint8)])


def _output(model: Any, number: int, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return OpenVinoNetwork(model.clone(), 1, lambda outputs: outputs[number])(images)


def require_same(
    entry: DetectorEntry | PoseEntry,
    expected: Sequence[npt.NDArray[np.float32]],
    got: Sequence[npt.NDArray[np.float32]],
) -> None:
    """Refuse an engine whose numbers are not torch's.

    Raises:
        LposekitError: they are further apart than `LIMITS`.
    """
    apart = [np.abs(a - b) for a, b in zip(expected, got, strict=True)]
    if isinstance(entry, DetectorEntry):
        far = {"boxes, px": float(apart[0][..., :4].max()), "scores": float(apart[0][..., 4].max())}
    else:
        largest = max(float(np.abs(each).max()) for each in expected)
        far = {"keypoints' scores, of the largest": max(float(each.max()) for each in apart) / largest}
    logger.info("%s: furthest from torch: %s", entry.name, far)
    if not all(value <= LIMITS[name] for name, value in far.items()):  # NaN is not within the limits either
        raise LposekitError(
            f"openvino computes other numbers than torch for {entry.name} on this CPU ({far}; at most {LIMITS}): not "
            "used. Give --pose.backend torch."
        )
