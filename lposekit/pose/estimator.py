"""Find persons and their keypoints in batches of images: what MMPose's inferencer does, several times faster.

Images are letterboxed and go through the detector in batches; the persons found in all of them are cut out and go
through the pose model in batches that cross images. Without a box there is no pose: MMPose's own inferencer takes the
whole image as a person then. Boxes and keypoints are those of MMDet's and MMPose's own pipelines.

Determinism: the same images in the same order, with the same settings and thread count, give the same numbers. Free of
torch, unless torch is the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lposekit.json_values import JsonValue
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, is_valid_person
from lposekit.pose.backend import Backend, backend_card, cpu_kind
from lposekit.pose.detector import Boxes, PersonDetector
from lposekit.pose.isolate import run_isolated
from lposekit.pose.load import load_pair
from lposekit.pose.network import Network
from lposekit.pose.oks import one_skeleton_each
from lposekit.pose.protocol import Estimator, check_images
from lposekit.pose.topdown import CutRequest, TopDownPose
from lposekit.pose.weights import how_checked
from lposekit.pose.zoo import DetectorEntry, PoseEntry, Precision, detector_entry, pose_entry
from lposekit.records import Person, PoseFailure
from lposekit.shards.card import CHECKED_BY
from lposekit.stage_times import StageTimes
from lposekit.versions import installed_versions

__all__ = ["Estimator", "EstimatorSettings", "PoseEstimator"]

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")
_PACKAGES = (
    "torch",
    "mmpose",
    "mmdet",
    "onedl-mmengine",
    "mmengine",
    "mmcv",
    "mmcv-lite",
    "opencv-python-headless",
    "numpy",
)


@dataclass(frozen=True)
class EstimatorSettings:
    """How a `PoseEstimator` runs. Thresholds and sizes are in pixels of the images it is given.

    `threads`: of the backend and OpenCV in this process; None leaves torch's alone, and gives another backend one a
    core. With torch, other batch sizes and thread counts give other last digits.
    `box_score_threshold`: None takes the detector's own.
    `batch_size`: images of one forward pass of the detector. `crop_batch_size`: persons of one of the pose model.
    `duplicate_oks`: of two persons whose poses are more alike than this (OKS), the surer one stays; None: both do.
    """

    backend: Backend = "torch"
    device: str = "cpu"
    precision: Precision = "float32"
    threads: int | None = None
    box_score_threshold: float | None = None
    min_box_area_fraction: float = 0.01
    min_box_side_px: float = 48.0
    batch_size: int = 16
    crop_batch_size: int = 32
    duplicate_oks: float | None = 0.7


@dataclass(frozen=True)
class PoseEstimator:
    """A person detector and a pose model, ready to run. Make one with `PoseEstimator.load`."""

    detector: PersonDetector
    pose_model: TopDownPose
    detector_entry: DetectorEntry
    pose_entry: PoseEntry
    sha256: dict[str, str]
    settings: EstimatorSettings

    @classmethod
    def load(
        cls,
        detector: str,
        pose_model: str,
        *,
        weights_dir: Path | None = None,
        settings: EstimatorSettings | None = None,
        **changes: Any,
    ) -> PoseEstimator:
        """Load two models of the zoo, by name; `changes` are fields of `EstimatorSettings`.

        Raises:
            UsageError: no model has that name.
            WeightsError: the weights cannot be had (see `lposekit.pose.weights`).
        """
        chosen = settings or EstimatorSettings(**changes)
        entries = detector_entry(detector), pose_entry(pose_model)
        box_score = chosen.box_score_threshold
        pair = load_pair(
            chosen.backend,
            entries,
            weights_dir,
            device=chosen.device,
            precisions=(chosen.precision, pose_precision(entries[1], chosen.precision)),
            box_score_threshold=entries[0].box_score_threshold if box_score is None else box_score,
            threads=chosen.threads,
        )
        sha256 = {detector: pair.detector_sha256, pose_model: pair.pose_sha256}
        return cls(pair.detector, pair.pose_model, *entries, sha256, chosen)

    @property
    def keypoint_format(self) -> str:
        return self.pose_entry.keypoint_format

    @property
    def keypoint_score_threshold(self) -> float:
        return self.pose_entry.keypoint_score_threshold

    @property
    def box_score_threshold(self) -> float:
        """Score from which a box counts as a person."""
        return self.detector.score_threshold

    def estimate(
        self, images_rgb: Sequence[npt.NDArray[np.uint8]], times: StageTimes | None = None
    ) -> list[list[Person] | PoseFailure]:
        """The persons of each image (uint8 [H, W, 3], RGB), best box first. `times` gets `detect` and `pose`.

        Of near-duplicates, the surer one is given (see `EstimatorSettings.duplicate_oks`).

        An image that the models fail on (an error, no memory, numbers that are not finite) gets a `PoseFailure`, and
        the others of its batch are not touched by it.

        Raises:
            ValueError: something that is no such image was passed.
        """
        check_images(images_rgb)
        times = times or StageTimes()
        if self.settings.device == "cpu":
            return self._estimate(images_rgb, times)
        from lposekit.pose.device_pixels import own_queue, upload

        def on_device(images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Person] | PoseFailure]:
            with own_queue(self.settings.device):
                return self._estimate(upload(images, self.settings.device), times)

        size = self.settings.batch_size
        batches = [images_rgb[start : start + size] for start in range(0, len(images_rgb), size)]
        return [answer for batch in batches for answer in run_isolated(on_device, batch)]

    def _estimate(self, images: Sequence[Any], times: StageTimes) -> list[list[Person] | PoseFailure]:
        """`images`: uint8 [H, W, 3], or of one upload to the device."""
        with times.stage("detect"):
            network, size = self.detector.network, self.settings.batch_size
            found = self._in_batches(network, images, size, self.detector.prepare, self.detector.detect)
        requests: list[tuple[int, CutRequest, float]] = []
        for i, boxes in enumerate(found):
            if isinstance(boxes, Boxes):
                height, width = images[i].shape[:2]
                requests += [(i, (images[i], box), score) for box, score in self._gate(boxes, width, height)]
        with times.stage("pose"):
            poses = self._in_batches(
                self.pose_model.network,
                [request for _, request, _ in requests],
                self.settings.crop_batch_size,
                self.pose_model.prepare,
                lambda crops: list(self.pose_model.estimate(crops)),
            )
        persons: list[list[Person] | PoseFailure] = [b if isinstance(b, PoseFailure) else [] for b in found]
        for (i, (_, box), score), pose in zip(requests, poses, strict=True):
            so_far = persons[i]
            if isinstance(pose, PoseFailure):
                persons[i] = pose
            elif not isinstance(so_far, PoseFailure):
                so_far.append(Person(box, score, pose))
        return [found if isinstance(found, PoseFailure) else self._one_skeleton_each(found) for found in persons]

    def _one_skeleton_each(self, persons: list[Person]) -> list[Person]:
        threshold = self.settings.duplicate_oks
        if threshold is None:
            return persons
        return one_skeleton_each(
            persons, threshold, self.keypoint_score_threshold, KEYPOINT_FORMATS[self.keypoint_format]
        )

    def _gate(self, boxes: Boxes, width: int, height: int) -> list[tuple[npt.NDArray[np.float32], float]]:
        """The boxes that are sure and large enough to count: only these get a pose."""
        chosen = self.settings
        rule = KeepRule(
            self.keypoint_score_threshold,
            box_score_threshold=self.box_score_threshold,
            min_box_area_fraction=chosen.min_box_area_fraction,
            min_box_side_px=chosen.min_box_side_px,
        )
        nothing_yet = np.zeros((0, 3), np.float32)
        candidates = [Person(b, float(s), nothing_yet) for b, s in zip(boxes.xyxy_P4, boxes.score_P, strict=True)]
        return [(p.bbox_xyxy, p.bbox_score) for p in candidates if is_valid_person(p, width, height, rule)]

    def _in_batches(
        self,
        network: Network,
        items: Sequence[Item],
        size: int,
        prepare: Callable[[Sequence[Item]], Prepared],
        run: Callable[[Prepared], list[Result]],
    ) -> list[Result | PoseFailure]:
        """`run(prepare(batch))` over batches, failing items alone; where the network has several streams, in as many
        threads. Otherwise it keeps all threads busy by itself, or a GPU together with a second caller."""
        size = network.batch_size or size
        batches = [items[start : start + size] for start in range(0, len(items), size)]

        def run_batch(batch: Sequence[Item]) -> list[Result | PoseFailure]:
            return run_isolated(lambda part: run(prepare(part)), batch)

        if network.streams == 1:
            return [result for batch in batches for result in run_batch(batch)]
        with ThreadPoolExecutor(network.streams) as pool:
            return [result for results in pool.map(run_batch, batches) for result in results]

    def card(self) -> dict[str, JsonValue]:
        """What the dataset card says about the models and how they were run."""
        detector, pose, chosen = self.detector_entry, self.pose_entry, self.settings
        return {
            "detector": {**_weights_card(detector, self.sha256), "input_size_px": detector.input_size_px},
            "pose_model": {
                **_weights_card(pose, self.sha256),
                "input_size_wh": list(pose.input_size_wh),
                "keypoint_format": pose.keypoint_format,
                "score_scale": pose.score_scale,
                "keypoint_score_threshold": pose.keypoint_score_threshold,
                "calibration": pose.calibration,
                "provisional": pose.provisional,
                "flip_test": pose.flip_test,
                "precision": pose_precision(pose, chosen.precision),
            },
            # Keys as in the cards of version 0.1: a folder goes on only with an equal card of its models.
            "settings": {
                "device": chosen.device,
                "precision": chosen.precision,
                "num_threads": chosen.threads,
                "box_score_threshold": self.box_score_threshold,
                "min_box_area_fraction": chosen.min_box_area_fraction,
                "min_box_side_px": chosen.min_box_side_px,
                "detector_batch": chosen.batch_size,
                "pose_batch": chosen.crop_batch_size,
                # Left out where nothing is suppressed, as it was before there was such a setting.
                **({} if chosen.duplicate_oks is None else {"duplicate_oks": chosen.duplicate_oks}),
            },
            "versions": installed_versions(_PACKAGES),
            "backend": backend_card(chosen.backend, chosen.threads, chosen.device),
            **({"cpus": [cpu_kind()]} if chosen.device == "cpu" else {}),
        }


def pose_precision(entry: PoseEntry, asked: Precision) -> Precision:
    """The precision that a pose model runs in: float32 where a lower one was seen to move its keypoints."""
    return asked if entry.half_precision else "float32"


def _weights_card(entry: DetectorEntry | PoseEntry, sha256: dict[str, str]) -> dict[str, JsonValue]:
    weights = entry.weights
    return {
        "name": entry.name,
        "config": entry.config,
        "weights": weights.file,
        "sha256": sha256[entry.name],
        CHECKED_BY: how_checked(weights, sha256[entry.name]),
        "url": weights.url,
        "licence": weights.licence,
        "source": weights.source,
    }
