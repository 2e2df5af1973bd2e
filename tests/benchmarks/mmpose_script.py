"""The pose half of the hand-made pipeline: keypoints of the images in tars, and a tar of those that are kept.

    python -m tests.benchmarks.mmpose_script WORK WEIGHTS --batch 16 [--layout openvino]    two processes
    python -m tests.benchmarks.mmpose_script WORK WEIGHTS --inferencer    one process, MMPoseInferencer
    python -m tests.benchmarks.mmpose_script WORK WEIGHTS --search    fastest of some batch sizes and layouts

It reads WORK/tars/*.tar and writes WORK/kept-0.tar and -1.tar. Written as a competent user of MMPose would: two
single-threaded processes, each with half of the tars; MMDet's and MMPose's own test pipelines and `test_step` over
batches; all persons of a batch of images in one forward pass; `fuse_conv_bn`; no pose where there is no box. The last
line is one line of JSON: when the models were ready, when the last image was done, and the counts.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOX_SCORE, KEYPOINT_SCORE = 0.3, 0.35
MIN_AREA, MIN_SIDE_PX = 0.01, 48
"""The thresholds of `lposekit build-laion-pose` for these models."""
PROCESSES = 2
BATCHES = (8, 16, 32)
ENGINE = "openvino"
LAYOUTS = ("contiguous", "channels_last", ENGINE)
DETECTOR_CONFIG = "demo/mmdetection_cfg/rtmdet_nano_320-8xb32_coco-person.py"


@dataclass(frozen=True)
class Form:
    """How many images go into one batch, and the layout of the models in memory, or the engine that runs them."""

    batch: int
    layout: str

    def flags(self) -> list[str]:
        return ["--batch", str(self.batch), "--layout", self.layout]

    def __str__(self) -> str:
        return f"batches of {self.batch} images, {self.layout}"


class Models:
    """Detector and pose model, fused, on one thread."""

    def __init__(self, weights: Path, form: Form) -> None:
        import cv2
        import torch

        from lposekit.pose.openmmlab import ensure_openmmlab

        ensure_openmmlab()  # without a compiled mmcv, as in this environment, nothing of MMDet can be imported
        from mmcv.cnn import fuse_conv_bn
        from mmdet.apis import init_detector
        from mmengine.dataset import Compose
        from mmengine.registry import DefaultScope
        from mmpose.apis import init_model

        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        files = model_files(weights)
        # Candidates below the threshold go before suppression, not after it: the same boxes for less work.
        only_sure = {"model.test_cfg.score_thr": BOX_SCORE}
        self.detector = init_detector(files["det_model"], files["det_weights"], device="cpu", cfg_options=only_sure)
        with DefaultScope.overwrite_default_scope("mmpose"):
            self.pose_model = init_model(files["pose2d"], files["pose2d_weights"], device="cpu")
            self.pose_pipeline = Compose(self.pose_model.cfg.test_dataloader.dataset.pipeline)
        steps = self.detector.cfg.test_dataloader.dataset.pipeline
        steps[0].type = "mmdet.LoadImageFromNDArray"
        with DefaultScope.overwrite_default_scope("mmdet"):
            self.detector_pipeline = Compose(steps)
        for model in (self.detector, self.pose_model):
            fuse_conv_bn(model)
            if form.layout == "channels_last":
                model.to(memory_format=torch.channels_last)
        if form.layout == ENGINE:
            self._onto_engine()

    def _onto_engine(self) -> None:
        """Let OpenVINO run both networks; everything before and after them stays MMDet's and MMPose's."""
        from tests.benchmarks.bare_models import RawDetector, RawPose

        detect = _compiled(RawDetector(self.detector), (320, 320))
        pose = _compiled(RawPose(self.pose_model), (256, 192))
        levels = len(self.detector.bbox_head.prior_generator.strides)

        def head(images: Any) -> tuple[Any, Any]:
            outputs = detect(images)
            return outputs[:levels], outputs[levels:]

        self.detector.extract_feat = lambda images: images
        self.detector.bbox_head.forward = head
        self.pose_model.extract_feat = lambda images: images
        self.pose_model.head.forward = lambda images: pose(images)[0]

    def persons(self, images_bgr: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """Boxes and keypoints of each image."""
        import numpy as np
        import torch
        from mmengine.dataset import pseudo_collate

        persons: list[list[dict[str, Any]]] = [[] for _ in images_bgr]
        with torch.inference_mode():
            inputs = [self.detector_pipeline({"img": image, "img_id": i}) for i, image in enumerate(images_bgr)]
            found = self.detector.test_step(pseudo_collate(inputs))
            cuts = [(i, box, score) for i, result in enumerate(found) for box, score in _sure(result, images_bgr[i])]
            if not cuts:
                return persons
            crops = [
                self.pose_pipeline(
                    {
                        "img": images_bgr[i],
                        "bbox": box[None],
                        "bbox_score": np.ones(1, np.float32),
                        **self.pose_model.dataset_meta,
                    }
                )
                for i, box, _ in cuts
            ]
            posed = self.pose_model.test_step(pseudo_collate(crops))
        for (i, box, score), result in zip(cuts, posed, strict=True):
            pose = result.pred_instances
            persons[i].append(
                {
                    "box": box.tolist(),
                    "box_score": float(score),
                    "keypoints": pose.keypoints[0].tolist(),
                    "keypoint_scores": pose.keypoint_scores[0].tolist(),
                }
            )
        return persons


def _compiled(module: Any, size_hw: tuple[int, int]) -> Any:
    """A module in OpenVINO, of any batch size, on one thread, not pinned: two processes share the cores."""
    import openvino
    import torch

    example = torch.zeros(2, 3, *size_hw)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(module.eval(), (example,), check_trace=False))
    model = openvino.convert_model(traced, example_input=example, input=[(-1, 3, *size_hw)])
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda images: [torch.from_numpy(output.copy()) for output in compiled([images.numpy()]).values()]


def model_files(weights: Path) -> dict[str, str]:
    import mmpose

    pth = weights / "pth"
    return {
        "pose2d": str(pth / "litehrnet-naive-w40_coco-256x192.py"),
        "pose2d_weights": str(pth / "tinypose_litehrnet-naive-w40_coco-256x192.pth"),
        "det_model": str(Path(mmpose.__file__).parent / ".mim" / DETECTOR_CONFIG),
        "det_weights": str(pth / "rtmdet_nano_320_coco-person.pth"),
    }


def _sure(result: Any, image: Any) -> Iterator[tuple[Any, float]]:
    """The boxes that are sure and large enough to count."""
    boxes, scores = result.pred_instances.bboxes.numpy(), result.pred_instances.scores.numpy()
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    large = (width * height >= MIN_AREA * image.shape[0] * image.shape[1]) & (width >= MIN_SIDE_PX)
    for i in ((scores >= BOX_SCORE) & large & (height >= MIN_SIDE_PX)).nonzero()[0]:
        yield boxes[i], scores[i]


def _is_kept(persons: Iterable[dict[str, Any]], image: Any) -> bool:
    """The 50 % rule: one person has half of the 17 keypoints, sure enough and inside the image."""
    height, width = image.shape[:2]
    for person in persons:
        found = zip(person["keypoints"], person["keypoint_scores"], strict=True)
        if 2 * sum(s >= KEYPOINT_SCORE and 0 <= x < width and 0 <= y < height for (x, y), s in found) >= 17:
            return True
    return False


def pose_tars(models: Models, tars: Sequence[str], batch: int, target: Path) -> dict[str, int]:
    """Keypoints of every image of some tars; the kept ones go into a new tar, with their keypoints."""
    import cv2
    import numpy as np
    import webdataset

    counts = {"images": 0, "kept": 0}
    samples = iter(webdataset.WebDataset(list(tars), shardshuffle=False, empty_check=False))
    with webdataset.TarWriter(str(target)) as writer:
        while chunk := list(itertools.islice(samples, batch)):
            images = [cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR) for sample in chunk]
            for sample, image, persons in zip(chunk, images, models.persons(images), strict=True):
                counts["images"] += 1
                if _is_kept(persons, image):
                    counts["kept"] += 1
                    writer.write({name: sample[name] for name in ("__key__", "jpg", "txt")} | {"pose.json": persons})
    return counts


def _work(number: int, work: Path, weights: Path, form: Form, ready: Any) -> None:
    """One of the processes."""
    models = Models(weights, form)
    ready.wait()
    report: dict[str, Any] = {"ready": time.time()}
    report |= pose_tars(models, _tars(work)[number::PROCESSES], form.batch, work / f"kept-{number}.tar")
    (work / f"pose-{number}.json").write_text(json.dumps(report | {"done": time.time()}))


def _tars(work: Path) -> list[str]:
    return sorted(str(path) for path in (work / "tars").glob("*.tar"))


def two_processes(work: Path, weights: Path, form: Form) -> dict[str, float]:
    """All tars, in two processes that start on their images together."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(PROCESSES)
    processes = [context.Process(target=_work, args=(i, work, weights, form, ready)) for i in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a pose process failed")
    reports = [json.loads((work / f"pose-{i}.json").read_text()) for i in range(PROCESSES)]
    return {
        "ready": max(report["ready"] for report in reports),
        "done": max(report["done"] for report in reports),
        "images": sum(report["images"] for report in reports),
        "kept": sum(report["kept"] for report in reports),
    }


def one_inferencer(work: Path, weights: Path) -> dict[str, float]:
    """The shortest script: MMPoseInferencer, one image at a time on two threads."""
    import cv2
    import numpy as np
    import torch
    import webdataset

    from lposekit.pose.openmmlab import ensure_openmmlab

    ensure_openmmlab()
    from mmpose.apis import MMPoseInferencer

    torch.set_num_threads(PROCESSES)
    inferencer = MMPoseInferencer(**model_files(weights), det_cat_ids=[0], device="cpu")
    report: dict[str, float] = {"ready": time.time(), "images": 0, "kept": 0}
    for sample in webdataset.WebDataset(_tars(work), shardshuffle=False, empty_check=False):
        image = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR)
        (result,) = inferencer(image, bbox_thr=BOX_SCORE, show=False, return_vis=False)
        report["images"] += 1
        report["kept"] += _is_kept(result["predictions"][0], image)
    return report | {"done": time.time()}


def search(work: Path, weights: Path, passes: int = 2) -> list[dict[str, Any]]:
    """CPU milliseconds an image of every form over the tars, the best of some passes; fastest first."""
    forms = [Form(batch, layout) for batch, layout in itertools.product(BATCHES, LAYOUTS)]
    models = {layout: Models(weights, Form(1, layout)) for layout in LAYOUTS}
    times: dict[Form, list[float]] = {form: [] for form in forms}
    for turn in range(passes + 1):
        for form in forms:
            start = time.process_time()
            counts = pose_tars(models[form.layout], _tars(work), form.batch, work / "search.tar")
            if turn:  # the first pass is for warming up
                times[form].append(1000 * (time.process_time() - start) / counts["images"])
    found = [{"batch": form.batch, "layout": form.layout, "cpu_ms": min(times[form])} for form in forms]
    return sorted(found, key=lambda entry: entry["cpu_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layout", choices=LAYOUTS, default="contiguous")
    parser.add_argument("--inferencer", action="store_true")
    parser.add_argument("--search", action="store_true")
    options = parser.parse_args()
    if options.search:
        result: Any = search(options.work, options.weights)
    elif options.inferencer:
        result = one_inferencer(options.work, options.weights)
    else:
        result = two_processes(options.work, options.weights, Form(options.batch, options.layout))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
