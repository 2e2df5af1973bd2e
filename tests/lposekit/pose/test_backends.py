"""Contract of the backends: what each runs, what they share, and who may go on with what.

torch is the reference. OpenVINO finds the same persons and decides alike; of its keypoints, half lie within 0.05 px of
those of MMPose's ``inference_topdown`` and 99 in 100 within 0.5 px, in float32. Its numbers do not depend on the images
beside an image, nor on threads. An exported network is checked before it is kept, made anew where it was damaged, and
needs no torch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lposekit.errors import LposekitError, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, keep_verdict
from lposekit.pose import zoo
from lposekit.pose.backend import ENGINE, backend_version, choose_backend, cpu_kind
from lposekit.pose.estimator import PoseEstimator
from lposekit.pose.preprocess import centers_and_sizes, udp_warp_matrix, warp_matrix_of_box
from lposekit.records import Person, PoseFailure
from tests.benchmarks.ground_truth import load_photos
from tests.support.fixtures import fixture_path

pytestmark = pytest.mark.timeout(600)
PAIR = "rtmdet-nano-rebuilt", "tinypose"
MEDIAN_PX, P99_PX = 0.05, 0.5

engine_needed = pytest.mark.skipif(backend_version(ENGINE) is None, reason=f"{ENGINE} is not installed")


def load(backend: str, **changes: Any) -> PoseEstimator:
    return PoseEstimator.load(*PAIR, weights_dir=fixture_path("weights"), backend=backend, **changes)


@pytest.fixture(scope="module")
def on_torch() -> PoseEstimator:
    return load("torch")


@pytest.fixture(scope="module")
def on_engine() -> PoseEstimator:
    return load(ENGINE, threads=1)


def photos(count: int | None = None) -> list[np.ndarray]:
    """The fixtures' photos at the size that builds store, those with most persons first."""
    found, _ = load_photos(fixture_path("data/images"))
    return [photo.rgb_HWC for photo in sorted(found, key=lambda photo: -len(photo.boxes_xyxy))[:count]]


def persons_of(answer: list[Person] | PoseFailure) -> list[Person]:
    assert not isinstance(answer, PoseFailure)
    return answer


# Mutations: bfloat16 (INFERENCE_PRECISION_HINT left out, where the CPU has it); the priors of DetectorPart
# moved by half a stride.
@engine_needed
@pytest.mark.parametrize("count", [12, pytest.param(None, marks=pytest.mark.more)])
def test_the_engine_finds_the_same_persons_and_decides_alike(
    on_torch: PoseEstimator, on_engine: PoseEstimator, count: int | None
) -> None:
    images = photos(count)
    rule = KeepRule(on_torch.keypoint_score_threshold, box_score_threshold=on_torch.box_score_threshold)
    for image, a, b in zip(images, on_torch.estimate(images), on_engine.estimate(images), strict=True):
        expected, found = persons_of(a), persons_of(b)
        assert len(found) == len(expected)
        for one, other in zip(expected, found, strict=True):
            assert np.abs(one.bbox_xyxy - other.bbox_xyxy).max() < 0.1
            assert abs(one.bbox_score - other.bbox_score) < 1e-3
        height, width = image.shape[:2]
        layout = KEYPOINT_FORMATS["coco17"]
        assert keep_verdict(found, width, height, rule, layout) is keep_verdict(expected, width, height, rule, layout)


@engine_needed
@pytest.mark.parametrize("count", [6, pytest.param(None, marks=pytest.mark.more)])
def test_the_engines_keypoints_are_those_of_inference_topdown(
    on_torch: PoseEstimator, on_engine: PoseEstimator, count: int | None
) -> None:
    from tests.benchmarks.same_as_mmpose import peer_keypoints, peer_models

    _, pose_model = peer_models(on_torch, fixture_path("weights"))
    moved = []
    for image, persons in zip(photos(count), on_torch.estimate(photos(count)), strict=True):
        boxes = [person.bbox_xyxy for person in persons_of(persons)]
        if boxes:
            expected = peer_keypoints(pose_model, image, np.stack(boxes))
            model = on_engine.pose_model
            found = model.estimate(model.prepare([(image, box) for box in boxes]))
            moved.append(np.abs(found - expected)[..., :2].max(-1).ravel())
    moved_px = np.concatenate(moved)
    assert len(moved_px) > 17 * 10
    assert np.median(moved_px) <= MEDIAN_PX
    assert np.percentile(moved_px, 99) <= P99_PX


# Mutation tried: `pool.map` replaced by as_completed.
# Mutation: model.reshape([4, ...]) and batches padded with the last item.
@engine_needed
def test_an_images_numbers_depend_neither_on_its_neighbours_nor_on_threads(on_engine: PoseEstimator) -> None:
    images = photos(5)
    two_threads = dataclasses.replace(load(ENGINE, threads=2, batch_size=2, crop_batch_size=1))
    alone = [on_engine.estimate([image])[0] for image in images]
    for a, b in zip(alone, two_threads.estimate(images), strict=True):
        assert [p.keypoints_K3.tolist() for p in persons_of(a)] == [p.keypoints_K3.tolist() for p in persons_of(b)]
        assert [p.bbox_xyxy.tolist() for p in persons_of(a)] == [p.bbox_xyxy.tolist() for p in persons_of(b)]


# Mutation tried: `import torch` in lposekit/pose/isolate.py.
@engine_needed
def test_an_engine_whose_networks_are_at_hand_needs_no_torch(on_engine: PoseEstimator) -> None:
    code = f"""
import sys
import numpy as np
from pathlib import Path
from lposekit.pose.estimator import PoseEstimator
estimator = PoseEstimator.load(*{PAIR!r}, weights_dir=Path({str(fixture_path("weights"))!r}), backend="openvino")
estimator.estimate([np.zeros((90, 90, 3), np.uint8)])
estimator.card()
print([name for name in ("torch", "mmpose", "mmdet", "mmengine", "mmcv") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


# Mutation tried: a Core for each network -> the process dies of SIGSEGV when its child ends.
@engine_needed
def test_engines_that_come_and_go_leave_the_process_able_to_take_signals(on_engine: PoseEstimator) -> None:
    code = f"""
import faulthandler, gc, signal, subprocess, sys
from pathlib import Path
from lposekit.pose.estimator import PoseEstimator
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
weights = Path({str(fixture_path("weights"))!r})
loaded = [PoseEstimator.load(*{PAIR!r}, weights_dir=weights, backend="openvino") for _ in range(2)]
while loaded:
    del loaded[0]
    gc.collect()
subprocess.run([sys.executable, "-c", ""], check=True)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-2000:]


# Mutation tried: drop the comparison of `_digest` in lposekit.pose.exported.
@engine_needed
def test_a_damaged_export_is_made_anew(
    on_engine: PoseEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lposekit.pose.exported import exported
    from lposekit.pose.weights import cache_folder

    entry = zoo.DETECTORS[PAIR[0]]
    [kept] = [path for path in cache_folder().glob(f"{Path(entry.weights.file).stem}*{ENGINE}*") if _is_current(path)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine = cache_folder() / kept.name
    shutil.copytree(kept, mine)
    mine.with_name(f"{mine.name}.123456789.partial").mkdir()  # of an export that was killed
    whole = (mine / "network.bin").read_bytes()
    (mine / "network.bin").write_bytes(whole[:-8] + bytes(8))
    assert exported(entry, fixture_path("weights")).weights == whole
    assert (mine / "network.bin").read_bytes() == whole
    assert [path.name for path in cache_folder().glob("*.partial")] == []


# Mutation: make the folder outside the `try` -> NotADirectoryError.
def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lposekit.pose.exported import exported

    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(LposekitError, match=r"cannot keep the exported network in .*--pose.backend torch"):
        exported(zoo.DETECTORS[PAIR[0]], fixture_path("weights"))


def _is_current(folder: Path) -> bool:
    from lposekit.pose.exported import export_folder

    entry = zoo.DETECTORS[PAIR[0]]
    return folder == export_folder(entry, fixture_path("weights") / "pth" / entry.weights.file, entry.weights.sha256[0])


# Mutation tried: `any(value > limit)` for `not all(value <= limit)` (NaN passes then).
@engine_needed
@pytest.mark.parametrize("wrong", [0.01, np.nan])
def test_an_engine_that_computes_other_numbers_is_refused(wrong: float) -> None:
    from lposekit.pose.export_openvino import require_same

    answer = np.full((2, 10, 5), 0.5, np.float32)
    require_same(zoo.DETECTORS[PAIR[0]], [answer], [answer.copy()])
    other = answer.copy()
    other[1, 3, 4] += wrong
    with pytest.raises(LposekitError, match=r"computes other numbers than torch for rtmdet-nano-rebuilt.*pose.backend"):
        require_same(zoo.DETECTORS[PAIR[0]], [answer], [other])


@engine_needed
def test_auto_means_the_engine_on_a_cpu_in_float32_and_torch_elsewhere() -> None:
    assert choose_backend("auto", "cpu", "float32") == ENGINE
    assert choose_backend("auto", "cuda", "half") == "torch"
    assert choose_backend("auto", "cuda", "float32") == "torch"
    assert choose_backend("auto", "cpu", "bfloat16") == "torch"
    assert choose_backend("torch", "cpu", "float32") == "torch"
    with pytest.raises(UsageError, match="runs in float32 on a CPU"):
        choose_backend("openvino", "cuda", "half")


# Mutation tried: return ENGINE for auto before looking at `held`.
@engine_needed
def test_a_folder_goes_on_with_its_own_backend_or_is_refused_with_both_named() -> None:
    assert choose_backend("auto", "cpu", "float32", held="torch") == "torch"
    assert choose_backend("auto", "cpu", "float32", held=ENGINE) == ENGINE
    with pytest.raises(UsageError, match=r"--pose.backend openvino: the folder was begun with torch"):
        choose_backend("openvino", "cpu", "float32", held="torch")
    with pytest.raises(UsageError, match=r"--pose.backend torch: the folder was begun with openvino"):
        choose_backend("torch", "cpu", "float32", held=ENGINE)


def test_a_missing_engine_is_named_with_the_way_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lposekit.pose.backend.backend_version", lambda name: None)
    assert choose_backend("auto", "cpu", "float32") == "torch"
    with pytest.raises(UsageError, match=r"openvino is not installed. `lposekit doctor` prints the command"):
        choose_backend("openvino", "cpu", "float32")


@engine_needed
def test_the_card_says_what_ran_the_models(on_engine: PoseEstimator, on_torch: PoseEstimator) -> None:
    card = json.loads(json.dumps(on_engine.card()))
    assert card["backend"] == {"name": ENGINE, "version": backend_version(ENGINE), "threads": 1}
    assert card["cpus"] == [cpu_kind()]
    assert card["settings"]["precision"] == card["pose_model"]["precision"] == "float32"
    assert on_torch.card()["backend"]["name"] == "torch"  # type: ignore[index,call-overload]
    assert "pixels" not in on_torch.card()["backend"]  # type: ignore[operator]
    on_gpu = dataclasses.replace(
        on_torch, settings=dataclasses.replace(on_torch.settings, device="cuda")
    )  # only asked for its card
    assert on_gpu.card()["backend"]["pixels"] == "device"  # type: ignore[index,call-overload]
    assert len(cpu_kind()) > 5


# Mutations tried: `b_2 - np.array([-y, x])` in _third_point; padding applied after the aspect ratio.
@pytest.mark.parametrize("padding", [1.0, 1.25])
def test_cuts_are_mmposes_to_the_last_bit(padding: float) -> None:
    from lposekit.pose.openmmlab import ensure_openmmlab

    ensure_openmmlab()
    from mmpose.datasets.transforms import TopdownAffine
    from mmpose.structures.bbox import bbox_xyxy2cs, get_udp_warp_matrix, get_warp_matrix

    rng = np.random.default_rng(6)
    corner = rng.uniform(-50, 900, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 600, (40, 2))], 1).astype(np.float32)
    center, size = bbox_xyxy2cs(boxes, padding=padding)
    size = TopdownAffine._fix_aspect_ratio(size, aspect_ratio=192 / 256)
    center_N2, size_N2 = centers_and_sizes(boxes, padding, 192 / 256)
    np.testing.assert_array_equal(center_N2, center)
    np.testing.assert_array_equal(size_N2, size)
    for c, s in zip(center, size, strict=True):
        plain = get_warp_matrix(c, s, 0.0, output_size=(192, 256))
        np.testing.assert_array_equal(warp_matrix_of_box(c, s, (192, 256)), plain)
        udp = get_udp_warp_matrix(c, s, 0.0, output_size=(192, 256))
        np.testing.assert_allclose(udp_warp_matrix(c, s, (192, 256)), udp, rtol=2e-7)
