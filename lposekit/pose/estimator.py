"""Find persons and their keypoints in batches of images: what MMPose's inferencer does, several times faster.

Images are letterboxed and go through the detector in batches; the persons found in all of them are cut out and go
through the pose model in batches that cross images. Without a box there is no pose: MMPose's own inferencer takes the
whole image as a person then. Boxes and keypoints are those of MMDet's and MMPose's own pipelines.

Determinism: the same images in the same order, with the same settings and thread count, give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from lposekit.json_values import JsonValue
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, is_valid_person
from lposekit.pose.detector import Boxes, PersonDetector
from lposekit.pose.isolate import run_isolated
from lposekit.pose.models import load_detector, load_pose_model
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

    `threads`: of torch and OpenCV in this process, and of preparation ahead of a GPU; None leaves them alone.
    Other batch sizes and thread counts give other last digits. `box_score_threshold`: None takes the detector's own.
    `batch_size`: images of one forward pass of the detector. `crop_batch_size`: persons of one of the pose model.
    `duplicate_oks`: of two persons whose poses are more alike than this (OKS), the surer one stays; None: both do.
    """

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
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
            cv2.setNumThreads(chosen.threads)
        box_score = chosen.box_score_threshold
        box_score = entries[0].box_score_threshold if box_score is None else box_score
        found = load_detector(entries[0], weights_dir, chosen.device, chosen.precision, box_score)
        posed = load_pose_model(entries[1], weights_dir, chosen.device, pose_precision(entries[1], chosen.precision))
        sha256 = {detector: found.sha256, pose_model: posed.sha256}
        return cls(found.model, posed.model, *entries, sha256, chosen)

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
        with torch.inference_mode(), _repeatable(self.settings.device):
            with times.stage("detect"):
                found = self._in_batches(
                    images_rgb, self.settings.batch_size, self.detector.prepare, self.detector.detect
                )
            requests: list[tuple[int, CutRequest, float]] = []
            for i, boxes in enumerate(found):
                if isinstance(boxes, Boxes):
                    height, width = images_rgb[i].shape[:2]
                    requests += [(i, (images_rgb[i], box), score) for box, score in self._gate(boxes, width, height)]
            with times.stage("pose"):
                poses = self._in_batches(
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
        items: Sequence[Item],
        size: int,
        prepare: Callable[[Sequence[Item]], Prepared],
        run: Callable[[Prepared], list[Result]],
    ) -> list[Result | PoseFailure]:
        """`run(prepare(batch))` over batches, failing items alone.

        With a GPU, threads prepare the next batches while one runs. On a CPU the models keep all threads busy, and
        preparing ahead would only take turns with them.
        """
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        results: list[Result | PoseFailure] = []
        if self.settings.device == "cpu":
            for batch in batches:
                results += run_isolated(lambda part: run(prepare(part)), batch)
            return results
        workers = self.settings.threads or 4
        with ThreadPoolExecutor(workers) as pool:
            ahead = {i: pool.submit(prepare, batch) for i, batch in enumerate(batches[:workers])}
            for i, batch in enumerate(batches):
                future = ahead.pop(i)
                if i + workers < len(batches):
                    ahead[i + workers] = pool.submit(prepare, batches[i + workers])
                # the batch as a whole takes what was prepared; its halves, if it fails, prepare anew
                results += run_isolated(lambda part: run(future.result() if part is batch else prepare(part)), batch)  # noqa: B023
        return results

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


def _repeatable(device: str) -> AbstractContextManager[None]:
    """On a GPU: the same algorithms in every process, and float32 that is float32 (no TF32)."""
    if device == "cpu":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
