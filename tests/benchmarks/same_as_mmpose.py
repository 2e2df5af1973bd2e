"""Our batched path against MMDet's and MMPose's own: ``python -m tests.benchmarks.same_as_mmpose [FOLDER]``.

On all photos of a folder with ``annotations.jsonl``, for batch sizes 1, 7 and 32, float32: our boxes against MMDet's
``inference_detector``, our keypoints against MMPose's ``inference_topdown`` on the same boxes. Prints the largest
differences beside what the project asks for, and how far keypoints move in half precision (99th percentile of detected
ones). The last line is JSON. Models as in `ground_truth.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lposekit.pose.checkpoint import load_weights
from lposekit.pose.estimator import PoseEstimator, pose_precision
from lposekit.pose.models import BuiltModel, load_config, load_pose_model, on_torch_pose
from lposekit.pose.zoo import Precision
from lposekit.records import PoseFailure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.ground_truth import add_model_arguments, load_photos
from tests.benchmarks.rounds import table, versions

BATCHES = (1, 7, 32)
LIMITS = {"boxes_px": 0.05, "box_scores": 1e-4, "keypoints_px": 0.05, "scores": 1e-4}
"""What the project asks for. In half precision: 0.5 px at the 99th percentile."""


def peer_models(estimator: PoseEstimator, weights_dir: Path | None) -> tuple[Any, Any]:
    """MMDet's and MMPose's own models: plain modules, as ``init_detector`` and ``init_model`` make them."""
    from mmpose.apis.inference import dataset_meta_from_config

    from lposekit.pose.models import build_detector, build_pose_model

    models = []
    for entry, build in ((estimator.detector_entry, build_detector), (estimator.pose_entry, build_pose_model)):
        built: BuiltModel = build(entry)  # type: ignore[operator]
        built.module.load_state_dict(load_weights(entry.weights, weights_dir).state)
        module: Any = built.module
        module.cfg = load_config(entry)
        models.append(module)
    models[1].dataset_meta = dataset_meta_from_config(models[1].cfg)
    return models[0], models[1]


def peer_boxes(detector: Any, rgb_HWC: np.ndarray, threshold: float) -> np.ndarray:
    from mmdet.apis import inference_detector
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        found = inference_detector(detector, rgb_HWC[..., ::-1].copy()).pred_instances
    return np.concatenate([found.bboxes.numpy(), found.scores.numpy()[:, None]], 1)[found.scores.numpy() >= threshold]


def peer_keypoints(pose_model: Any, rgb_HWC: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    from mmpose.apis import inference_topdown

    samples = [s.pred_instances for s in inference_topdown(pose_model, rgb_HWC[..., ::-1].copy(), boxes_xyxy)]
    return np.stack([np.concatenate([s.keypoints[0], s.keypoint_scores[0][:, None]], 1) for s in samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--num-threads", type=int, default=1)
    options = parser.parse_args()
    images = [photo.rgb_HWC for photo in load_photos(options.folder)[0]]
    everything = {"min_box_area_fraction": 0.0, "min_box_side_px": 0.0, "threads": options.num_threads}
    estimator = PoseEstimator.load(options.detector, options.pose_model, weights_dir=options.weights_dir, **everything)
    detector, pose_model = peer_models(estimator, options.weights_dir)
    boxes = [peer_boxes(detector, image, estimator.box_score_threshold) for image in images]
    expected = [
        peer_keypoints(pose_model, im, b[:, :4]) if len(b) else None for im, b in zip(images, boxes, strict=True)
    ]
    print(
        f"{options.detector} and {options.pose_model}, float32, {len(images)} photos, {sum(map(len, boxes))} persons:\n"
        "ours in batches against MMDet's inference_detector and MMPose's inference_topdown, one image at a time;\n"
        "keypoints on the same boxes. Largest differences:"
    )
    print(versions("torch", "mmdet", "mmpose", "onedl-mmengine", "mmcv-lite", "opencv-python-headless", "numpy"))
    rows = {}
    for batch in BATCHES:
        sizes = replace(estimator.settings, batch_size=batch, crop_batch_size=batch, duplicate_oks=None)
        ours = replace(estimator, settings=sizes)
        # keypoints not from the answers, but again on exactly the peer's boxes
        rows[f"batch {batch}"] = compare(ours.estimate(images), boxes) | on_peer_boxes(
            ours, images, boxes, expected, batch
        )
    worst = {name: max(row[name] for row in rows.values()) for name in LIMITS}
    headings = ["", "boxes, px", "box scores", "keypoints, px", "keypoint scores"]
    shown = {**rows, "asked for, at most": LIMITS}
    print(table(headings, [[label, *(f"{row[name]:.1e}" for name in LIMITS)] for label, row in shown.items()]))
    half = half_precision(estimator, images, boxes, options.weights_dir)
    print("\nKeypoints moved by half precision, 99th percentile (asked for: at most 0.5 px):")
    print(table(["", "px"], list(half.items())), flush=True)
    print(json.dumps({"benchmark": "same_as_mmpose", "persons": sum(map(len, boxes)), **worst, "half_px_p99": half}))


def compare(answers: list[Any], boxes: list[np.ndarray]) -> dict[str, float]:
    """Largest difference of the boxes and their scores; a different number of boxes is an infinite one."""
    worst = {"boxes_px": 0.0, "box_scores": 0.0}
    for persons, peer in zip(answers, boxes, strict=True):
        if isinstance(persons, PoseFailure) or len(persons) != len(peer):
            worst["boxes_px"] = float("inf")
        elif persons:
            rows = np.stack([[*person.bbox_xyxy, person.bbox_score] for person in persons])
            worst["boxes_px"] = max(worst["boxes_px"], float(np.abs(rows - peer)[:, :4].max()))
            worst["box_scores"] = max(worst["box_scores"], float(np.abs(rows - peer)[:, 4].max()))
    return worst


def on_peer_boxes(
    estimator: PoseEstimator, images: list[np.ndarray], boxes: list[np.ndarray], expected: list[Any], batch: int
) -> dict[str, float]:
    """Largest difference of the keypoints and their scores."""
    requests = [(image, box[:4]) for image, found in zip(images, boxes, strict=True) for box in found]
    model, ours = estimator.pose_model, []
    for start in range(0, len(requests), batch):
        ours += list(model.estimate(model.prepare(requests[start : start + batch])))
    difference = np.abs(np.stack(ours) - np.concatenate([e for e in expected if e is not None]))
    return {"keypoints_px": float(difference[..., :2].max()), "scores": float(difference[..., 2].max())}


def half_precision(
    estimator: PoseEstimator, images: list[np.ndarray], boxes: list[np.ndarray], weights_dir: Path | None
) -> dict[str, float]:
    """How far the detected keypoints of the first 32 persons move: in the model itself in half precision, and when half
    precision is asked for; whether the model runs in it then is the zoo's decision."""
    requests = [(image, box[:4]) for image, found in zip(images, boxes, strict=True) for box in found][:32]
    exact = estimator.pose_model.estimate(estimator.pose_model.prepare(requests))
    detected = exact[..., 2] >= estimator.keypoint_score_threshold

    def moved_px(precision: Precision) -> float:
        loaded = load_pose_model(estimator.pose_entry, weights_dir, precision)
        model = on_torch_pose(loaded.part, loaded.facts, "cpu")
        coarse = model.estimate(model.prepare(requests))
        return float(np.percentile(np.abs(exact - coarse)[..., :2].max(-1)[detected], 99))

    shipped = pose_precision(estimator.pose_entry, "half")
    return {"the model in half precision": moved_px("half"), f"asked for half, it runs in {shipped}": moved_px(shipped)}


if __name__ == "__main__":
    main()
