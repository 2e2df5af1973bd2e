"""How well the pose half finds people, on labelled photos: ``python tests/benchmarks/ground_truth.py [FOLDER]``.

FOLDER holds photos and ``annotations.jsonl`` (one line each: ``file``, ``people_visible``, ``persons`` with ``bbox``
xywh and ``keypoints`` 17 x (x, y, v)). Photos are turned upright and scaled to the stored size (shorter side 512, never
enlarged) in memory; the estimator and the keep rule are those of the image build. Prints what is kept and found, curves
over both thresholds, OKS-AP (pycocotools) with the true boxes and end to end, and the near-duplicates among the stored
persons with and without their suppression; the last line is JSON. A photo whose labelled figure is no real person
counts on both sides, kept or not.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from lposekit.errors import Outcome
from lposekit.keypoints import COCO17_SIGMAS, KEYPOINT_FORMATS, KeepRule, keep_verdict
from lposekit.pose.estimator import EstimatorSettings, PoseEstimator
from lposekit.pose.oks import box_area, oks_matrix, one_skeleton_each
from lposekit.records import Person, PoseFailure
from tests.benchmarks.rounds import table, versions
from tests.support.fixtures import fixtures_root

STORED_SHORTER_SIDE = 512
MIN_LABELLED = 9
CROWDED = 5
"""A photo with as many labelled persons, or with a labelled crowd, is crowded."""
BOX_THRESHOLDS = (0.20, 0.25, 0.30, 0.35, 0.40, 0.50)
KEYPOINT_THRESHOLDS = (0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60)


@dataclass
class Photo:
    """A photo at the stored size; truth in its pixels. ``people_visible`` False: known to be without people."""

    file: str
    rgb_HWC: np.ndarray
    people_visible: bool
    boxes_xyxy: np.ndarray
    keypoints_P173: np.ndarray
    crowd: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.rgb_HWC.shape[1], self.rgb_HWC.shape[0]


def load_photos(folder: Path) -> tuple[list[Photo], list[str]]:
    """The photos that decode, and the names of those that do not."""
    photos, undecodable = [], []
    for line in (folder / "annotations.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            with Image.open(folder / row["file"]) as opened:
                image = to_rgb(ImageOps.exif_transpose(opened))
        except OSError:
            undecodable.append(row["file"])
            continue
        scale = min(1.0, STORED_SHORTER_SIDE / min(image.size))
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        persons = row.get("persons", [])
        boxes = np.array([p["bbox"] for p in persons], np.float32).reshape(-1, 4) * scale
        boxes[:, 2:] += boxes[:, :2]
        keypoints = np.array([p["keypoints"] for p in persons], np.float32).reshape(-1, 17, 3)
        keypoints[..., :2] *= scale
        crowd = np.array([bool(p.get("iscrowd")) for p in persons], bool)
        photos.append(Photo(row["file"], np.asarray(image), row["people_visible"], boxes, keypoints, crowd))
    return photos, undecodable


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; transparent pixels over white, 16-bit grey by its upper byte."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def passes_gate(box: np.ndarray, size: tuple[int, int], rule: KeepRule) -> bool:
    width, height = box[2] - box[0], box[3] - box[1]
    enough_area = width * height >= rule.min_box_area_fraction * size[0] * size[1]
    return bool(enough_area and min(width, height) >= rule.min_box_side_px)


def judged(photo: Photo, rule: KeepRule) -> list[int]:
    """The true persons that a photo should be kept for."""
    labelled = (photo.keypoints_P173[..., 2] > 0).sum(1)
    return [
        i
        for i in range(len(labelled))
        if labelled[i] >= MIN_LABELLED and not photo.crowd[i] and passes_gate(photo.boxes_xyxy[i], photo.size, rule)
    ]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(0.0, float(width)) * max(0.0, float(height))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return shared / (sum(areas) - shared) if shared else 0.0


def oks(person_K3: np.ndarray, truth_K3: np.ndarray, box: np.ndarray) -> float:
    """COCO's object keypoint similarity over the labelled joints; the scale is the box area times 0.53, as is usual
    where no mask is at hand."""
    seen = truth_K3[:, 2] > 0
    squared = ((person_K3[:17, :2] - truth_K3[:, :2]) ** 2).sum(1)
    area = 0.53 * float((box[2] - box[0]) * (box[3] - box[1]))
    exponent = squared / (2 * (2 * np.array(COCO17_SIGMAS)) ** 2 * (area + np.spacing(1)))
    return float(np.exp(-exponent)[seen].mean())


def matched_oks(photo: Photo, persons: list[Person], truth: list[int]) -> list[float]:
    """OKS of the truth's persons that a found box overlaps by at least half; each found box is used once."""
    free, scores = list(range(len(persons))), []
    for i in truth:
        best = max(free, key=lambda j: iou(persons[j].bbox_xyxy, photo.boxes_xyxy[i]), default=None)
        if best is not None and iou(persons[best].bbox_xyxy, photo.boxes_xyxy[i]) >= 0.5:
            free.remove(best)
            scores.append(oks(persons[best].keypoints_K3, photo.keypoints_P173[i], photo.boxes_xyxy[i]))
    return scores


def counts(photos: list[Photo], found: list[list[Person]], rule: KeepRule) -> dict[str, Any]:
    """Photos kept, persons found, and who was missed."""
    kept = [
        keep_verdict(p, *photo.size, rule, KEYPOINT_FORMATS["coco17"]) == Outcome.KEPT
        for photo, p in zip(photos, found, strict=True)
    ]
    positive = [i for i, photo in enumerate(photos) if judged(photo, rule)]
    negative = [i for i, photo in enumerate(photos) if not photo.people_visible]
    scores = [
        s
        for photo, p in zip(photos, found, strict=True)
        for s in matched_oks(photo, valid(p, rule), judged(photo, rule))
    ]
    hits, false = sum(kept[i] for i in positive), sum(kept[i] for i in negative)
    return {
        "positives": len(positive),
        "kept": hits,
        "kept_share": hits / max(1, len(positive)),
        "negatives": len(negative),
        "no_people_kept": false,
        "precision": hits / max(1, hits + false),
        "matched": len(scores),
        "judged_persons": sum(len(judged(photo, rule)) for photo in photos),
        "oks_share": float(np.mean(np.array(scores) >= 0.5)) if scores else 0.0,
        "mean_oks": float(np.mean(scores)) if scores else 0.0,
        "missed": [photos[i].file for i in positive if not kept[i]],
        "wrong": [photos[i].file for i in negative if kept[i]],
        "others": len(photos) - len(positive) - len(negative),
        "others_kept": sum(kept) - hits - false,
    }


def valid(persons: list[Person], rule: KeepRule) -> list[Person]:
    return [p for p in persons if p.bbox_score >= rule.box_score_threshold]


def average_precision(photos: list[Photo], results: list[dict[str, Any]]) -> dict[str, float]:
    """OKS-AP by pycocotools over the photos that have labelled persons."""
    annotations = []
    labelled = [i for i, photo in enumerate(photos) if len(photo.boxes_xyxy)]
    for i in labelled:
        photo = photos[i]
        for box, keypoints, crowd in zip(photo.boxes_xyxy, photo.keypoints_P173, photo.crowd, strict=True):
            width, height = float(box[2] - box[0]), float(box[3] - box[1])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [float(box[0]), float(box[1]), width, height],
                    "area": 0.53 * width * height,
                    "iscrowd": int(crowd),
                    "keypoints": keypoints.astype(float).ravel().tolist(),
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                }
            )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "width": photos[i].size[0], "height": photos[i].size[1]} for i in labelled],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        of_labelled = cast(Any, [r for r in results if r["image_id"] in set(labelled)])
        evaluation = COCOeval(truth, truth.loadRes(of_labelled), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75"), map(float, evaluation.stats[:3]), strict=True)) | {
        "AR": float(evaluation.stats[5])
    }


def result_row(image_id: int, keypoints_K3: np.ndarray, box_score: float) -> dict[str, Any]:
    """A COCO result; scored as MMPose does: box score times the mean of the keypoint scores above its 0.2."""
    sure = keypoints_K3[:17, 2][keypoints_K3[:17, 2] > 0.2]
    score = box_score * float(sure.mean() if len(sure) else 0.0)
    rows = keypoints_K3[:17].astype(float).ravel().tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": rows, "score": score}


def with_true_boxes(estimator: PoseEstimator, photos: list[Photo]) -> list[dict[str, Any]]:
    requests = [(i, (photo.rgb_HWC, box)) for i, photo in enumerate(photos) for box in photo.boxes_xyxy]
    model = estimator.pose_model
    poses = model.estimate(model.prepare([request for _, request in requests]))
    return [result_row(i, pose, 1.0) for (i, _), pose in zip(requests, poses, strict=True)]


def curves(photos: list[Photo], found: list[list[Person]], chosen: KeepRule) -> str:
    """Photos kept and wrongly kept over the keypoint threshold (rows) and the box threshold (columns)."""
    rows = []
    for threshold in KEYPOINT_THRESHOLDS:
        cells = [f"{threshold:.2f}"]
        for box in BOX_THRESHOLDS:
            rule = dataclasses.replace(chosen, keypoint_score_threshold=threshold, box_score_threshold=box)
            figures = counts(photos, found, rule)
            cells.append(f"{figures['kept']}, {figures['no_people_kept']}")
        rows.append(cells)
    return table(["keypoint >=", *(f"box >= {box:.2f}" for box in BOX_THRESHOLDS)], rows)


def show(figures: dict[str, Any], curve: str) -> None:
    """The figures as tables; names of photos below them."""
    print(
        table(
            ["photos", "number", "kept", "share"],
            [
                ["with a person to keep", figures["positives"], figures["kept"], figures["kept_share"]],
                ["without people", figures["negatives"], figures["no_people_kept"], ""],
                ["neither", figures["others"], figures["others_kept"], ""],
            ],
        )
    )
    print(f"precision over the first two rows: {figures['precision']:.2f}")
    print(f"missed: {', '.join(figures['missed']) or 'none'}; wrongly kept: {', '.join(figures['wrong']) or 'none'}\n")
    found = [figures[name] for name in ("judged_persons", "matched", "oks_share", "mean_oks")]
    print(table(["persons to find", "found (overlap >= 0.5)", "of these OKS >= 0.5", "mean OKS"], [found]))
    print()
    names = {"found boxes": "end_to_end", "true boxes": "true_boxes"}
    rows = [[label, *figures[name].values()] for label, name in names.items()]
    print(table(["OKS-AP on", *figures["true_boxes"]], rows))
    print(f"\nkept of {figures['positives']} with a person to keep, and of {figures['negatives']} without people:")
    print(curve)


def near_duplicates(
    photos: list[Photo], both: list[list[Person]], rule: KeepRule, threshold: float
) -> dict[str, dict[str, Any]]:
    """What is stored of kept photos, with and without the suppression of near-duplicates; crowded photos apart.

    ``both``: the persons of each photo before suppression. A pair is near-duplicate if its OKS on joints detected in
    both exceeds the threshold.
    """
    coco = KEYPOINT_FORMATS["coco17"]
    single = [one_skeleton_each(p, threshold, rule.keypoint_score_threshold, coco) for p in both]
    crowded = [sum(~photo.crowd) >= CROWDED or bool(photo.crowd.any()) for photo in photos]
    figures: dict[str, dict[str, Any]] = {}
    for label, persons in (("both", both), ("one", single)):
        for name, wanted in (("crowded", True), ("others", False)):
            at = [i for i, is_crowded in enumerate(crowded) if is_crowded == wanted]
            kept = [i for i in at if keep_verdict(persons[i], *photos[i].size, rule, coco) == Outcome.KEPT]
            truth = [matched_oks(photos[i], persons[i], judged(photos[i], rule)) for i in at]
            everyone = [matched_oks(photos[i], persons[i], labelled(photos[i])) for i in at]
            figures[f"{label}, {name}"] = {
                "photos": len(at),
                "kept": len(kept),
                "persons": sum(len(persons[i]) for i in kept),
                "pairs": sum(pairs_above(persons[i], rule, threshold) for i in kept),
                "found": sum(map(len, truth)),
                "found_oks_50": sum(score >= 0.5 for scores in truth for score in scores),
                "found_of_all_labelled": sum(map(len, everyone)),
                "all_labelled_oks_50": sum(score >= 0.5 for scores in everyone for score in scores),
                "kept_files": [photos[i].file for i in kept],
            }
    return figures


def labelled(photo: Photo) -> list[int]:
    """Every true person with a labelled joint, however small."""
    return [i for i, keypoints in enumerate(photo.keypoints_P173) if (keypoints[:, 2] > 0).any() and not photo.crowd[i]]


def pairs_above(persons: list[Person], rule: KeepRule, threshold: float) -> int:
    if len(persons) < 2:
        return 0
    poses, areas = np.stack([p.keypoints_K3 for p in persons]), np.array([box_area(p) for p in persons])
    alike = oks_matrix(poses, poses, areas, areas, rule.keypoint_score_threshold, KEYPOINT_FORMATS["coco17"])
    return int((np.triu(np.nan_to_num(alike), 1) > threshold).sum())


def show_duplicates(figures: dict[str, dict[str, Any]], threshold: float) -> None:
    names = [name for name in next(iter(figures.values())) if name != "kept_files"]
    rows = [[label, *(row[name] for name in names)] for label, row in figures.items()]
    print(f"\nnear-duplicates (OKS > {threshold}) among the stored persons, both of a pair stored, or one:")
    print(table(["", *names], rows))
    same = all(figures[f"both, {n}"]["kept_files"] == figures[f"one, {n}"]["kept_files"] for n in ("crowded", "others"))
    print(f"the same photos are kept: {'yes' if same else 'NO'}")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What the pose benchmarks have in common; by default the photos and the weights of the fixtures' folder."""
    parser.add_argument("folder", type=Path, nargs="?", default=fixtures_root() / "data" / "images")
    parser.add_argument("--detector", default="rtmdet-nano-rebuilt")
    parser.add_argument("--pose-model", default="tinypose")
    parser.add_argument("--weights-dir", type=Path, default=fixtures_root() / "weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--box-score-threshold", type=float, help="default: the zoo entry's")
    parser.add_argument("--keypoint-score-threshold", type=float, help="default: the zoo entry's")
    parser.add_argument("--num-threads", type=int, default=2)
    options = parser.parse_args()
    photos, undecodable = load_photos(options.folder)
    # everything that any threshold of the curves could want; the gate's sizes stay
    settings = EstimatorSettings(
        box_score_threshold=min(BOX_THRESHOLDS), threads=options.num_threads, duplicate_oks=None
    )
    estimator = PoseEstimator.load(
        options.detector, options.pose_model, weights_dir=options.weights_dir, settings=settings
    )
    answers = estimator.estimate([photo.rgb_HWC for photo in photos])
    answered = [[] if isinstance(answer, PoseFailure) else answer for answer in answers]
    threshold = options.keypoint_score_threshold or estimator.keypoint_score_threshold
    box = options.box_score_threshold or estimator.detector_entry.box_score_threshold
    rule = KeepRule(threshold, box_score_threshold=box)
    both = [valid(persons, rule) for persons in answered]
    # as the build has it: near-duplicates are looked for among those who count
    oks_threshold, coco = EstimatorSettings().duplicate_oks or 1.0, KEYPOINT_FORMATS["coco17"]
    found = [one_skeleton_each(persons, oks_threshold, threshold, coco) for persons in both]
    at_any_threshold = [one_skeleton_each(persons, oks_threshold, threshold, coco) for persons in answered]
    figures = counts(photos, found, rule)
    end_to_end = [result_row(i, p.keypoints_K3, p.bbox_score) for i, persons in enumerate(found) for p in persons]
    figures["end_to_end"] = average_precision(photos, end_to_end)
    figures["true_boxes"] = average_precision(photos, with_true_boxes(estimator, photos))
    print(
        f"{options.detector} and {options.pose_model} with the keep rule of the image build (box >= "
        f"{rule.box_score_threshold}, keypoint >= {threshold}, flip test {estimator.pose_entry.flip_test})\n"
        f"against the labels of {len(photos)} photos; not decoded: {', '.join(undecodable) or 'none'}."
    )
    print(versions("torch", "mmdet", "mmpose", "pycocotools", "opencv-python-headless", "pillow"))
    show(figures, curves(photos, at_any_threshold, rule))
    figures["near_duplicates"] = near_duplicates(photos, both, rule, oks_threshold)
    show_duplicates(figures["near_duplicates"], oks_threshold)
    print(json.dumps({"benchmark": "ground_truth", **figures}))


if __name__ == "__main__":
    main()
