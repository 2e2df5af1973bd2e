"""Contract of lposekit.pose.estimator and its parts.

Boxes are those of MMDet's own test pipeline, keypoints those of MMPose's ``inference_topdown``, for every batch size;
nobody found means no pose; an image that fails, fails alone; the same images give the same numbers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from lposekit.keypoints import KeepRule, is_valid_person
from lposekit.pose import decode_host, isolate, zoo
from lposekit.pose.decode import decode_heatmaps, decode_simcc
from lposekit.pose.detector import Boxes, PersonDetector
from lposekit.pose.estimator import EstimatorSettings, PoseEstimator, pose_precision
from lposekit.pose.isolate import run_isolated
from lposekit.pose.models import build_pose_model, load_pose_model, on_torch_pose, ready_pose_model
from lposekit.pose.network import Network
from lposekit.pose.topdown import TopDownPose
from lposekit.records import Person, PoseFailure
from tests.support.fixtures import fixture_path

pytestmark = pytest.mark.timeout(600)
PAIR = "rtmdet-nano-rebuilt", "tinypose"
WITHOUT_PEOPLE = "skimage_coffee.png"


def photos(count: int) -> list[np.ndarray]:
    """Photos of several sizes, labelled ones with people first."""
    folder = fixture_path("data/images")
    rows = [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()]
    rows = sorted((row for row in rows if row["persons"] and row["width"] < 1000), key=lambda row: -len(row["persons"]))
    return [np.asarray(Image.open(folder / row["file"]).convert("RGB")) for row in rows[:count]]


@pytest.fixture(scope="module")
def estimator() -> PoseEstimator:
    return PoseEstimator.load(*PAIR, weights_dir=fixture_path("weights"))


def with_settings(estimator: PoseEstimator, **changes: Any) -> PoseEstimator:
    return dataclasses.replace(estimator, settings=dataclasses.replace(estimator.settings, **changes))


class Peer:
    """MMDet and MMPose themselves, through their own Python interfaces."""

    def __init__(self, weights: Path) -> None:
        import mmpose
        from mmdet.apis import init_detector
        from mmpose.apis import init_model

        wheel = Path(mmpose.__file__).parent / ".mim"
        pth = weights / "pth"
        self.detector = init_detector(
            str(wheel / zoo.DETECTORS[PAIR[0]].config), str(pth / zoo.DETECTORS[PAIR[0]].weights.file), device="cpu"
        )
        self.pose_model = init_model(
            str(pth / "litehrnet-naive-w40_coco-256x192.py"),
            str(pth / zoo.POSE_MODELS[PAIR[1]].weights.file),
            device="cpu",
        )

    def boxes(self, rgb_HWC: np.ndarray, threshold: float) -> list[tuple[np.ndarray, float]]:
        from mmdet.apis import inference_detector
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope("mmdet"):
            found = inference_detector(self.detector, rgb_HWC[..., ::-1].copy()).pred_instances
        pairs = zip(found.bboxes.numpy(), found.scores.tolist(), strict=True)
        return [(box, score) for box, score in pairs if score >= threshold]

    def keypoints(self, rgb_HWC: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        from mmpose.apis import inference_topdown

        samples = inference_topdown(self.pose_model, rgb_HWC[..., ::-1].copy(), boxes)
        rows = [(s.pred_instances.keypoints[0], s.pred_instances.keypoint_scores[0]) for s in samples]
        return np.stack([np.concatenate([places, scores[:, None]], 1) for places, scores in rows])


@pytest.fixture(scope="module")
def peer_answers(estimator: PoseEstimator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Photos of several sizes, with the boxes [P, 5] and keypoints [P, K, 3] that MMDet and MMPose find in them."""
    peer, answers = Peer(fixture_path("weights")), []
    rule = KeepRule(0.0, box_score_threshold=estimator.box_score_threshold)
    for image in photos(9):
        height, width = image.shape[:2]
        boxes = [
            [*box, score]
            for box, score in peer.boxes(image, estimator.box_score_threshold)
            if is_valid_person(Person(box, score, np.zeros((0, 3), np.float32)), width, height, rule)
        ]
        if boxes:
            rows = np.array(boxes, np.float32)
            answers.append((image, rows, peer.keypoints(image, rows[:, :4])))
    return answers


# Mutations: INTER_AREA in letterbox; bgr=False; padding 1.2; UDP's warp matrix; no quarter-pixel step.
@pytest.mark.parametrize(
    "batch", [pytest.param(1, marks=pytest.mark.more), 7, pytest.param(32, marks=pytest.mark.more)]
)
def test_boxes_and_keypoints_are_those_of_mmdet_and_mmpose(
    estimator: PoseEstimator, peer_answers: list[tuple[np.ndarray, np.ndarray, np.ndarray]], batch: int
) -> None:
    images = [image for image, _, _ in peer_answers]
    assert len({image.shape for image in images}) > 3
    assert sum(len(boxes) for _, boxes, _ in peer_answers) > 20
    found = with_settings(estimator, batch_size=batch, crop_batch_size=batch, duplicate_oks=None).estimate(images)
    for persons, (_, boxes, keypoints) in zip(found, peer_answers, strict=True):
        assert not isinstance(persons, PoseFailure)
        assert len(persons) == len(boxes)
        ours = np.stack([[*person.bbox_xyxy, person.bbox_score] for person in persons])
        assert np.abs(ours - boxes)[:, :4].max() < 0.01
        assert np.abs(ours - boxes)[:, 4].max() < 1e-4
        # boxes that differ by 1e-4 px may round a crop's pixels otherwise: scores to 0.02, on the same boxes see below
        scores = np.stack([person.keypoints_K3[:, 2] for person in persons])
        assert np.abs(scores - keypoints[..., 2]).max() < 0.02
    requests = [(image, box[:4]) for image, boxes, _ in peer_answers for box in boxes]
    model, ours = estimator.pose_model, []
    for start in range(0, len(requests), batch):
        ours += list(model.estimate(model.prepare(requests[start : start + batch])))
    difference = np.abs(np.stack(ours) - np.concatenate([keypoints for _, _, keypoints in peer_answers]))
    assert difference[..., :2].max() < 0.05
    assert difference[..., 2].max() < 1e-4


# Mutation: average the maxima instead of the heatmaps, or leave out shift_heatmap.
@pytest.mark.parametrize("name", ["hrnet-w32", "rtmpose-t", "tinypose"])
@pytest.mark.parametrize("flip_test", [False, True])
def test_keypoints_of_other_heads_are_those_of_inference_topdown(name: str, flip_test: bool) -> None:
    from mmpose.apis import inference_topdown
    from mmpose.apis.inference import dataset_meta_from_config

    entry = dataclasses.replace(zoo.POSE_MODELS[name], flip_test=flip_test)
    torch.manual_seed(2)
    built = build_pose_model(entry)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    boxes = np.array([[5, 5, 60, 80], [30.5, 10.25, 119, 88]], np.float32)
    module: Any = built.module
    module.cfg, module.dataset_meta = built.config, dataset_meta_from_config(built.config)
    samples = inference_topdown(module, image[..., ::-1].copy(), boxes)
    model = ready_pose_model(entry, built, "cpu", "float32")
    ours = model.estimate(model.prepare([(image, box) for box in boxes]))
    for sample, pose in zip(samples, ours, strict=True):
        assert np.abs(sample.pred_instances.keypoints[0] - pose[:, :2]).max() < 0.05
        assert np.abs(sample.pred_instances.keypoint_scores[0] - pose[:, 2]).max() < 1e-4


@pytest.mark.parametrize("case", ["random", "border", "nothing", "ties"])
# Mutation: `x >= 1` for `x > 1` in decode_heatmaps; drop the -1 for scores of 0.
def test_batched_decoding_equals_mmposes_codecs(case: str) -> None:
    from mmpose.codecs import MSRAHeatmap, SimCCLabel

    rng = np.random.default_rng(4)
    heatmaps = rng.standard_normal((6, 17, 64, 48)).astype(np.float32)
    if case == "border":
        for k in range(17):
            heatmaps[:, k, [0, 1, 2, 61, 62, 63][k % 6], [0, 1, 2, 45, 46, 47][k // 3]] = 9
    elif case == "nothing":
        heatmaps = -np.abs(heatmaps)
    elif case == "ties":
        heatmaps = heatmaps.round()
    codec = MSRAHeatmap(input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
    peers = [codec.decode(h) for h in heatmaps]
    in_torch = decode_heatmaps(torch.from_numpy(heatmaps), (192, 256)).numpy()
    for ours in (in_torch, decode_host.decode_heatmaps(heatmaps, (192, 256))):
        for one, expected in zip(ours, peers, strict=True):
            np.testing.assert_array_equal(one[:, :2], expected[0][0])
            np.testing.assert_array_equal(one[:, 2], expected[1][0])
    x, y = heatmaps[:, :, 0], heatmaps[:, :, :, 0]
    simcc = SimCCLabel(input_size=(24, 32), sigma=4.9, simcc_split_ratio=2.0, normalize=False, use_dark=False)
    places, scores = simcc.decode(x.copy(), y.copy())
    in_torch = decode_simcc(torch.from_numpy(x.copy()), torch.from_numpy(y.copy()), 2.0).numpy()
    for ours in (in_torch, decode_host.decode_simcc(x, y, 2.0)):
        np.testing.assert_array_equal(ours[..., :2], places)
        np.testing.assert_array_equal(ours[..., 2], scores)


def test_nobody_found_means_no_pose(estimator: PoseEstimator) -> None:
    coffee = np.asarray(Image.open(fixture_path("data/images") / WITHOUT_PEOPLE).convert("RGB"))
    grey = np.full((300, 400, 3), 127, np.uint8)
    assert (
        estimator.estimate([coffee, grey, np.zeros((1, 1, 3), np.uint8), np.zeros((3, 2000, 3), np.uint8)]) == [[]] * 4
    )
    assert estimator.estimate([]) == []


# Mutation: leave out `if is_valid_person(...)` in _gate.
def test_only_sure_and_large_boxes_get_a_pose(estimator: PoseEstimator) -> None:
    images = photos(4)
    everyone = with_settings(estimator, duplicate_oks=None).estimate(images)
    strict = with_settings(estimator, min_box_side_px=150.0, min_box_area_fraction=0.05, duplicate_oks=None).estimate(
        images
    )
    for image, all_of_them, few in zip(images, everyone, strict, strict=True):
        assert not isinstance(all_of_them, PoseFailure)
        assert not isinstance(few, PoseFailure)
        sides = [person.bbox_xyxy[2:] - person.bbox_xyxy[:2] for person in all_of_them]
        area = image.shape[0] * image.shape[1]
        expected = [i for i, s in enumerate(sides) if s.min() >= 150 and s.prod() >= 0.05 * area]
        assert [p.bbox_score for p in few] == [all_of_them[i].bbox_score for i in expected]
        assert [p.bbox_score for p in all_of_them] == sorted((p.bbox_score for p in all_of_them), reverse=True)


def test_the_same_images_give_the_same_numbers(estimator: PoseEstimator) -> None:
    images = photos(3)
    first, second = estimator.estimate(images), estimator.estimate(images)
    for a, b in zip(first, second, strict=True):
        assert isinstance(a, list)
        assert isinstance(b, list)
        assert all(np.array_equal(p.keypoints_K3, q.keypoints_K3) for p, q in zip(a, b, strict=True))
        assert all(np.array_equal(p.bbox_xyxy, q.bbox_xyxy) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_a_bug_and_raises(estimator: PoseEstimator, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image 1 of 2 is .*: uint8 \[H, W, 3\]"):
        estimator.estimate([np.zeros((9, 9, 3), np.uint8), image])


class _Faulty:
    """A network that misbehaves for pixels that are all white: the border, a broken model."""

    device, streams, batch_size = "cpu", 1, None

    def __init__(self, inner: Network, fault: str) -> None:
        self.inner = inner
        self.fault = fault

    def __call__(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        marked = pixels_BHWC.min((1, 2, 3)) > 250
        if marked.any() and self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if marked.any() and self.fault == "error":
            raise RuntimeError("kernel failed")
        numbers = self.inner(pixels_BHWC)
        if self.fault == "nan":
            numbers[marked] = np.nan
        return numbers


@pytest.mark.parametrize("fault", ["memory", "error", "nan"])
# Mutation: drop the isfinite check of PersonDetector.detect ("nan" then reads as nobody there), or return the failure
# for the whole batch in run_isolated.
def test_an_image_that_the_detector_fails_on_fails_alone(
    estimator: PoseEstimator, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolate, "MEMORY_WAIT_S", 0.0)
    whole = estimator.detector
    detector = PersonDetector(_Faulty(whole.network, fault), whole.facts, whole.score_threshold)
    broken = dataclasses.replace(estimator, detector=detector)
    images = [*photos(3), np.full((200, 200, 3), 255, np.uint8), *photos(2)]
    found = broken.estimate(images)
    assert [isinstance(answer, PoseFailure) for answer in found] == [False, False, False, True, False, False]
    expected = estimator.estimate(images)
    numbers = [(len(found[i]), len(expected[i])) for i in (0, 1, 2, 4, 5)]  # type: ignore[arg-type]
    assert all(ours == whole for ours, whole in numbers)
    assert max(numbers)[0] > 0


# Mutation: drop the isfinite check of TopDownPose.estimate.
def test_keypoints_that_are_not_finite_fail_their_image_only(estimator: PoseEstimator) -> None:
    whole = estimator.pose_model
    model = TopDownPose(_Faulty(whole.network, "nan"), whole.facts)
    box = np.array([60, 60, 120, 140], np.float32)
    requests = [(np.full((200, 200, 3), 255, np.uint8), box), (photos(1)[0], box)]
    white, person = run_isolated(lambda part: list(model.estimate(model.prepare(part))), requests)
    assert isinstance(white, PoseFailure)
    assert "not finite" in white.detail
    assert not isinstance(person, PoseFailure)


def test_half_precision_stays_near_float32(estimator: PoseEstimator) -> None:
    """Half a pixel for nine of ten detected keypoints of a few persons; benchmarks measure the 99th percentile."""
    [image] = photos(1)
    boxes = estimator.detector.detect(estimator.detector.prepare([image]))[0].xyxy_P4[:2]
    loaded = load_pose_model(zoo.POSE_MODELS[PAIR[1]], fixture_path("weights"), "half")
    half = on_torch_pose(loaded.part, loaded.facts, "cpu")
    models = estimator.pose_model, half
    exact, coarse = (model.estimate(model.prepare([(image, box) for box in boxes])) for model in models)
    detected = exact[..., 2] >= estimator.keypoint_score_threshold
    moved = np.abs(exact - coarse)[..., :2].max(-1)[detected]
    assert float(np.percentile(moved, 90)) < 0.5
    assert float(np.abs(exact - coarse)[..., 2][detected].max()) < 0.02


@pytest.mark.case(76)
def test_the_card_names_models_hashes_thresholds_and_versions(estimator: PoseEstimator) -> None:
    card = json.loads(json.dumps(estimator.card()))
    assert card["detector"]["sha256"] == zoo.DETECTORS[PAIR[0]].weights.sha256[0]
    assert card["pose_model"]["sha256"] == zoo.POSE_MODELS[PAIR[1]].weights.sha256[0]
    assert card["pose_model"]["checked_by"] == card["detector"]["checked_by"] == "sha256"
    assert card["pose_model"]["keypoint_score_threshold"] == estimator.keypoint_score_threshold
    assert card["settings"]["box_score_threshold"] == estimator.box_score_threshold
    assert {"provisional", "score_scale", "licence", "flip_test"} <= set(card["pose_model"])
    assert {"torch", "mmpose", "mmdet"} <= set(card["versions"])
    assert EstimatorSettings().box_score_threshold is None


# Mutation: return the persons as they are in _one_skeleton_each.
def test_a_person_seen_twice_gets_one_skeleton(estimator: PoseEstimator) -> None:
    image = photos(1)[0]
    boxes = estimator.detector.detect(estimator.detector.prepare([image]))[0]
    shifts_21 = np.array([[0], [1.5]], np.float32)
    twice = Boxes(boxes.xyxy_P4[:1] + shifts_21, np.array([0.8, 0.9], np.float32))

    class SeesDouble:
        score_threshold = estimator.detector.score_threshold
        network = estimator.detector.network
        prepare = staticmethod(estimator.detector.prepare)

        @staticmethod
        def detect(_: Any) -> list[Boxes]:
            return [twice]

    double = dataclasses.replace(estimator, detector=cast(Any, SeesDouble()))
    [both] = with_settings(double, duplicate_oks=None).estimate([image])
    [one] = double.estimate([image])
    assert isinstance(both, list)
    assert isinstance(one, list)
    assert [person.bbox_score for person in both] == pytest.approx([0.8, 0.9])
    assert [person.bbox_score for person in one] == pytest.approx([0.9])


def test_the_card_says_nothing_of_duplicates_where_none_are_dropped(estimator: PoseEstimator) -> None:
    # Cards of version 0.1 have no such key, and a folder goes on only with an equal card of its models.
    assert estimator.card()["settings"]["duplicate_oks"] == 0.7
    assert "duplicate_oks" not in with_settings(estimator, duplicate_oks=None).card()["settings"]


# Mutation: remove the line from lposekit/pose/__init__.py.
def test_waiting_threads_sleep_and_the_stub_needs_no_torch() -> None:
    code = (
        "import os, sys, lposekit.pose.stub, lposekit.pose.protocol, lposekit.pose.zoo;"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    plain = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=plain)
    assert done.stdout.strip() == "PASSIVE False", done.stderr


def test_a_model_whose_keypoints_half_precision_moves_runs_in_float32() -> None:
    # Mutation tried: half_precision=True in TinyPose's entry -> its parameters are float16.
    loaded = PoseEstimator.load(*PAIR, weights_dir=fixture_path("weights"), precision="half")
    assert loaded.card()["pose_model"]["precision"] == "float32"
    assert loaded.card()["settings"]["precision"] == "half"
    assert pose_precision(zoo.POSE_MODELS["hrnet-w48"], "half") == "half"
