"""Contract of lposekit.pose.openmmlab.

MMPose and MMDet import and build models without a compiler, and leave the rest of the process intact: no module named
torchvision, no chumpy, diffusers and CLIP work afterwards. The stand-in nms chooses the boxes that a slow reference
chooses; any other compiled operator raises an error that names it.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from lposekit.pose.openmmlab import MissingOperatorError, ensure_openmmlab, has_compiled_mmcv, nms

pytestmark = pytest.mark.timeout(240)


def reference_nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, offset: int = 0) -> list[int]:
    """Greedy suppression, one pair at a time, in float32 as mmcv does it."""

    def iou(a: np.ndarray, b: np.ndarray) -> np.float32:
        width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]) + offset)
        height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]) + offset)
        area_a = (a[2] - a[0] + offset) * (a[3] - a[1] + offset)
        area_b = (b[2] - b[0] + offset) * (b[3] - b[1] + offset)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.float32(width * height) / np.float32(area_a + area_b - width * height)

    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not any(iou(boxes[k], boxes[i]) > iou_threshold for k in kept):
            kept.append(i)
    return kept


def random_boxes(rng: np.random.Generator, count: int, grid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that overlap a lot; on a grid with few distinct scores there are exact ties of both kinds."""
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(0, 40, (count, 2))
    scores = rng.uniform(0, 1, count)
    if grid:
        corner, size, scores = corner.round(-1), size.round(-1), scores.round(1)
    return np.concatenate([corner, corner + size], 1).astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize("grid", [False, True], ids=["random", "ties"])
@pytest.mark.parametrize("offset", [0, 1])
# Mutation that turns this red: `>=` for `>` in _overlaps (ties), or stable=False with descending=False.
def test_nms_chooses_what_a_slow_reference_chooses(grid: bool, offset: int) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        boxes, scores = random_boxes(rng, int(rng.integers(1, 60)), grid)
        threshold = float(rng.choice([0.3, 0.5, 0.6]))
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, offset)
        assert kept.tolist() == reference_nms(boxes, scores, threshold, offset)


def test_nms_of_nothing_is_nothing() -> None:
    kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.6)
    assert kept.tolist() == []
    assert kept.dtype == torch.int64


# Mutation: return `kept` of the first block only (drop the loop in _overlaps).
def test_nms_of_more_boxes_than_one_block_equals_the_reference() -> None:
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 1300, grid=False)
    boxes *= 20
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    assert kept.tolist() == reference_nms(boxes, scores, 0.5)


def test_mmcv_batched_nms_keeps_classes_apart() -> None:
    """mmcv shifts the boxes of each class away from the others and calls nms once: the class offsets."""
    ensure_openmmlab()
    from mmcv.ops import batched_nms

    rng = np.random.default_rng(11)
    boxes, scores = random_boxes(rng, 80, grid=False)
    labels = rng.integers(0, 3, 80)
    _, kept = batched_nms(
        torch.from_numpy(boxes),
        torch.from_numpy(scores),
        torch.from_numpy(labels),
        {"type": "nms", "iou_threshold": 0.5},
    )
    expected = []
    for label in range(3):
        members = np.flatnonzero(labels == label)
        expected += [int(members[k]) for k in reference_nms(boxes[members], scores[members], 0.5)]
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i])


# Mutation: return a lambda that gives None from _StandInExtension.__getattr__.
def test_any_other_compiled_operator_names_itself() -> None:
    ensure_openmmlab()
    from mmcv.ops import soft_nms

    if has_compiled_mmcv():
        assert len(soft_nms(torch.rand(4, 4), torch.rand(4))) == 2
        return
    with pytest.raises(MissingOperatorError, match="'softnms' needs a compiled mmcv"):
        soft_nms(torch.rand(4, 4), torch.rand(4))


def run_python(code: str) -> str:
    """Run code in a fresh interpreter; its stdout."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# Mutation: put an empty module named torchvision into sys.modules in ensure_openmmlab (diffusers' import fails then).
@pytest.mark.more
def test_diffusers_and_clip_work_after_mmpose_was_imported() -> None:
    out = run_python("""
        import sys, importlib.util
        from lposekit.pose.openmmlab import ensure_openmmlab
        ensure_openmmlab(); ensure_openmmlab()
        import mmdet.models, mmpose.apis
        assert importlib.util.find_spec("mmcv._ext") is not None
        from diffusers import StableDiffusionPipeline
        from transformers import CLIPTextConfig, CLIPTextModel
        import torch
        size = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        CLIPTextModel(CLIPTextConfig(**size))(torch.zeros(1, 3, dtype=torch.long))
        made_up = [m for m in sys.modules if m.partition(".")[0] in ("torchvision", "chumpy")]
        print(StableDiffusionPipeline.__name__, made_up)
    """)
    assert out.split("\n")[0] == "StableDiffusionPipeline []"


# Mutations: no `kept_out` (both are loaded); no deletion at its end (diffusers' import fails).
@pytest.mark.more
def test_models_are_built_without_the_packages_that_only_other_models_use_and_which_can_be_imported_later() -> None:
    out = run_python("""
        import sys
        from lposekit.pose.models import build_detector, build_pose_model
        from lposekit.pose.zoo import detector_entry, pose_entry
        build_detector(detector_entry("rtmdet-nano")), build_pose_model(pose_entry("rtmpose-t"))
        print([name for name in ("transformers", "albumentations") if name in sys.modules])
        from transformers import CLIPTextModel
        print(CLIPTextModel.__name__)
    """)
    assert out.split("\n")[:2] == ["[]", "CLIPTextModel"]


# Mutation: drop `and not has_compiled_mmcv()`.
def test_a_real_compiled_mmcv_is_used_as_it_is(tmp_path) -> None:
    """A file named mmcv/_ext.py stands for the compiled extension (the border: a binary that is not there)."""
    (tmp_path / "_ext.py").write_text("from collections import defaultdict\nMARK = 'real'\n")
    out = run_python(f"""
        import mmcv
        mmcv.__path__.append({str(tmp_path)!r})
        from lposekit.pose.openmmlab import ensure_openmmlab, has_compiled_mmcv
        assert has_compiled_mmcv()
        ensure_openmmlab()
        import importlib
        print(importlib.import_module("mmcv._ext").MARK)
    """)
    assert out.strip() == "real"


# Mutation: drop the deletion from sys.modules in _loads, or alias without trying to import.
def test_an_xtcocotools_that_does_not_load_is_replaced_and_one_that_does_is_kept(tmp_path) -> None:
    package = tmp_path / "xtcocotools"
    package.mkdir()
    (package / "__init__.py").write_text("")
    check = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from lposekit.pose.openmmlab import ensure_openmmlab
        ensure_openmmlab()
        import xtcocotools.mask
        print(xtcocotools.mask.__name__)
    """
    (package / "mask.py").write_text("raise ValueError('numpy.dtype size changed')")
    assert run_python(check).strip() == "pycocotools.mask"
    (package / "mask.py").write_text("")
    assert run_python(check).strip() == "xtcocotools.mask"
