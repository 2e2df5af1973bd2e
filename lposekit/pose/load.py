"""The two models of an estimator, on the backend that was chosen. Imports torch only where torch is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lposekit.errors import LposekitError
from lposekit.pose.backend import ENGINE, Backend
from lposekit.pose.detector import DetectorFacts, PersonDetector
from lposekit.pose.topdown import PoseFacts, TopDownPose
from lposekit.pose.zoo import DetectorEntry, PoseEntry, Precision

Facts = TypeVar("Facts", DetectorFacts, PoseFacts)


@dataclass(frozen=True)
class LoadedPair:
    """Both models, and the sha256 of the files that their weights came from."""

    detector: PersonDetector
    pose_model: TopDownPose
    detector_sha256: str
    pose_sha256: str


def load_on_torch(
    entries: tuple[DetectorEntry, PoseEntry],
    weights_dir: Path | None,
    device: str,
    precisions: tuple[Precision, Precision],
    box_score_threshold: float,
    threads: int | None,
) -> LoadedPair:
    """Both models, run by torch.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    import cv2
    import torch

    from lposekit.pose import models

    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    detector = models.load_detector(entries[0], weights_dir, precisions[0])
    pose = models.load_pose_model(entries[1], weights_dir, precisions[1])
    return LoadedPair(
        models.on_torch_detector(detector.part, detector.facts, device, box_score_threshold),
        models.on_torch_pose(pose.part, pose.facts, device),
        detector.sha256,
        pose.sha256,
    )


def load_on_openvino(
    entries: tuple[DetectorEntry, PoseEntry],
    weights_dir: Path | None,
    box_score_threshold: float,
    threads: int | None,
) -> LoadedPair:
    """Both models, run by OpenVINO: `threads` calls at a time, of one thread each; None: one a core.

    Raises:
        WeightsError: the weights cannot be had, or do not fit. LposekitError: it is not installed, or computes other
            numbers than torch here.
    """
    import cv2

    try:
        import openvino  # noqa: F401  (its libraries load here or nowhere)
    except ImportError as error:
        raise LposekitError(
            f"the backend {ENGINE} was chosen, and cannot be loaded here ({error}). Install it on every node "
            "(`lposekit doctor` prints the command), or give --pose.backend torch."
        ) from error
    from lposekit.pose.exported import exported
    from lposekit.pose.openvino_network import OpenVinoNetwork

    cv2.setNumThreads(1)  # its work is shared out by images
    streams = threads or len(os.sched_getaffinity(0))
    found, posed = (exported(entry, weights_dir) for entry in entries)
    detector_facts, pose_facts = _facts(DetectorFacts, found.facts), _facts(PoseFacts, posed.facts)
    return LoadedPair(
        PersonDetector(OpenVinoNetwork(found.model(), streams, _only), detector_facts, box_score_threshold),
        TopDownPose(OpenVinoNetwork(posed.model(), streams, partial(_decoded, pose_facts)), pose_facts),
        found.sha256,
        posed.sha256,
    )


def _facts(kind: type[Facts], values: Mapping[str, Any]) -> Facts:
    """From JSON, which knows no tuples."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return kind(**plain)


def _only(outputs: Sequence[Any]) -> Any:
    return outputs[0]


def _decoded(facts: PoseFacts, outputs: Sequence[Any]) -> Any:
    from lposekit.pose.decode_host import decode_heatmaps, decode_simcc

    if facts.split_ratio is not None:
        return decode_simcc(outputs[0], outputs[1], facts.split_ratio)
    return decode_heatmaps(outputs[0], facts.input_size_wh)


def load_pair(
    backend: Backend,
    entries: tuple[DetectorEntry, PoseEntry],
    weights_dir: Path | None,
    *,
    device: str,
    precisions: tuple[Precision, Precision],
    box_score_threshold: float,
    threads: int | None,
) -> LoadedPair:
    """Both models on a backend.

    Raises:
        WeightsError, LposekitError: they cannot be loaded.
    """
    if backend == "torch":
        return load_on_torch(entries, weights_dir, device, precisions, box_score_threshold, threads)
    return load_on_openvino(entries, weights_dir, box_score_threshold, threads)
