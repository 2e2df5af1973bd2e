"""Our pose stage against bare forward passes: ``python -m tests.benchmarks.pose_stage [FOLDER]``.

Peers: the same detector and pose model in float32 in the forms of `bare_models`, run over prepared tensors: no
decoding, resizing, suppression, cropping or keypoint decoding. Each takes its best batch size and layout (or streams)
by CPU time. Ours: `PoseEstimator.estimate` on images, everything included, with its default batches, on the photos as
given and on those without people. Bare time of a set: its images times a detection plus the persons found times a
crop. A peer whose outputs differ from the eager modules' is left out. Persons: boxes that get a pose, near-duplicates
included. Ours runs on every backend; the one that builds take by default is compared with every form.
"""

from __future__ import annotations

import lposekit.pose  # noqa: F401 - before torch: lets the threads that OpenMP has waiting sleep, as in a build

# isort: split
import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lposekit.pose.backend import Backend
from lposekit.pose.estimator import PoseEstimator
from lposekit.pose.models import load_detector, load_pose_model
from lposekit.records import PoseFailure
from tests.benchmarks import bare_models
from tests.benchmarks.bare_models import Candidate, Candidates, Model, RawDetector, RawPose
from tests.benchmarks.ground_truth import add_model_arguments, load_photos
from tests.benchmarks.peers import add_peers
from tests.benchmarks.rounds import Spread, Timing, alternate, ratio, table, timed_here, versions
from tests.benchmarks.same_as_mmpose import peer_models

ITEMS = 32
"""Images and crops that a bare pass goes over: a multiple of every batch size."""
LIMITS = {"scores": 1e-3, "boxes, px": 0.1, "heatmaps": 1e-3}
"""How far outputs may lie from those of the eager modules."""
OURS = "our modules, bare"
FORMS: dict[str, Callable[[Model, int], Candidates]] = {
    "onnxruntime": bare_models.onnxruntime,
    "OpenVINO": bare_models.openvino,
    "torch.compile": bare_models.compiled,
    "torch, folded": bare_models.folded,
    "torch, eager (weak)": bare_models.eager,
    OURS: bare_models.ours,
}
BACKENDS: tuple[Backend, ...] = ("openvino", "torch")
"""Ours, the default of builds on a CPU first."""
CLOCKS = {"wall_s": "wall", "cpu_s": "CPU"}
Pair = tuple[Candidate, Candidate]


def prepare(estimator: PoseEstimator, weights_dir: Path | None, images: Sequence[np.ndarray]) -> tuple[Model, Model]:
    """Both models, with inputs made of these images and the persons found in them (again from the first, if few)."""
    stock = peer_models(estimator, weights_dir)
    detector, pose = estimator.detector, estimator.pose_model
    requests = [(im, box) for im, boxes in zip(images, found_boxes(estimator, images), strict=True) for box in boxes]
    letterboxed = detector.prepare([images[i % len(images)] for i in range(ITEMS)])
    crops = pose.prepare([requests[i % len(requests)] for i in range(ITEMS)])
    parts = (
        load_detector(estimator.detector_entry, weights_dir).part,
        load_pose_model(estimator.pose_entry, weights_dir).part,
    )
    images_B3SS, crops_N3HW = (
        part.normalize(torch.from_numpy(pixels)).clone(memory_format=torch.contiguous_format)
        for part, pixels in zip(parts, (letterboxed.pixels_BSSC, crops.pixels_NHWC), strict=True)
    )
    return (
        Model("detector", RawDetector(stock[0]).eval(), RawDetector(parts[0].detector).eval(), images_B3SS),
        Model("pose model", RawPose(stock[1]).eval(), RawPose(parts[1].estimator).eval(), crops_N3HW),
    )


def found_boxes(estimator: PoseEstimator, images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The boxes of each image that get a pose."""
    every = replace(estimator, settings=replace(estimator.settings, duplicate_oks=None))
    answers = every.estimate(images)
    assert not any(isinstance(answer, PoseFailure) for answer in answers)
    return [[person.bbox_xyxy for person in answer] for answer in answers if not isinstance(answer, PoseFailure)]


def best(candidates: Candidates) -> Candidate:
    """The setting with the least CPU time, which a busy machine disturbs less; the others are freed."""
    least_s, chosen = float("inf"), None
    for candidate in candidates:
        candidate.forward(candidate.parts[0])
        spent = timed_here(candidate.run)
        if spent.cpu_s < least_s:
            least_s, chosen = spent.cpu_s, candidate
    assert chosen is not None
    return chosen


def ready_forms(models: tuple[Model, Model], threads: int, names: Sequence[str]) -> dict[str, Pair]:
    """Each form at its best; those that cannot run here are named with the reason."""
    found: dict[str, Pair] = {}
    for name in names:
        try:
            pair = tuple(best(FORMS[name](model, threads)) for model in models)
        except Exception as error:  # noqa: BLE001 - a peer that does not run must not end the others
            reason = (str(error).strip() or "no message").splitlines()[0]
            print(f"left out, {name}: {type(error).__name__}: {reason}")
            continue
        found[name] = pair  # type: ignore[assignment]
    return found


def agreeing(models: tuple[Model, Model], forms: dict[str, Pair]) -> dict[str, Pair]:
    """The forms whose outputs are those of the eager modules; prints the largest differences."""
    rows, kept = [], {}
    expected = [model.named([model.stock(model.inputs)]) for model in models]
    for name, pair in forms.items():
        far: dict[str, float] = {}
        for model, candidate, want in zip(models, pair, expected, strict=True):
            got = model.named(candidate.run())
            far |= {what: float((got[what] - want[what]).abs().max()) for what in want}
        rows.append([name, *(f"{distance:.1e}" for distance in far.values())])
        if all(far[what] <= LIMITS[what] for what in far):
            kept[name] = pair
        else:
            print(f"left out, {name}: its outputs are not those of the eager modules")
    print(f"\nLargest difference from the eager modules' outputs over {ITEMS} images and {ITEMS} crops:")
    print(table(["form", *LIMITS], rows))
    return kept


Rounds = dict[str, list[Timing]]


def measure(
    estimators: dict[Backend, PoseEstimator], forms: dict[str, Pair], sets: dict[str, list[np.ndarray]], rounds: int
) -> Rounds:
    works: dict[str, Callable[[], Timing]] = {}
    for name, pair in forms.items():
        works |= {f"{name}/{i}": partial(timed_here, candidate.run) for i, candidate in enumerate(pair)}
    for backend, estimator in estimators.items():
        for label, images in sets.items():
            works[f"{label}/{backend}"] = partial(timed_here, partial(estimator.estimate, images))
    return alternate(works, rounds)


def clocked(timings: Sequence[Timing], clock: str) -> list[float]:
    return [getattr(timing, clock) for timing in timings]


def bare_s(rounds: Rounds, names: Sequence[str], clock: str, counts: Sequence[int]) -> list[float]:
    """Bare seconds of a set in each round, with the detector of one form and the pose model of another."""
    columns = [clocked(rounds[f"{name}/{i}"], clock) for i, name in enumerate(names)]
    return [sum(n * spent / ITEMS for n, spent in zip(counts, row, strict=True)) for row in zip(*columns, strict=True)]


def strongest(rounds: Rounds, peers: Sequence[str], clock: str) -> list[str]:
    """The form with the fastest detector and the one with the fastest pose model."""
    return [min(peers, key=lambda p: Spread.of(clocked(rounds[f"{p}/{i}"], clock)).middle) for i in range(2)]


def show_bare(rounds: Rounds, forms: dict[str, Pair], threads: int) -> None:
    print(f"\nBare forward passes, {threads} thread(s), float32, milliseconds of one detection and of one crop:")
    rows = []
    for name, pair in forms.items():
        cells: list[Any] = [name]
        for i, candidate in enumerate(pair):
            spent = [Spread.of(clocked(rounds[f"{name}/{i}"], clock), 1e3 / ITEMS) for clock in CLOCKS]
            cells += [candidate.setting, *spent]
        rows.append(cells)
    headings = [f"{of}: {what}" for of in ("detection", "crop") for what in ("batch", "wall ms", "CPU ms")]
    print(table(["form", *headings], rows))


def show_ours(rounds: Rounds, counts: dict[str, tuple[int, int]], threads: int) -> None:
    print(f"\nOurs, `PoseEstimator.estimate`, {threads} thread(s), everything included:")
    rows = []
    for backend in BACKENDS:
        for label, (images, persons) in counts.items():
            spent = [Spread.of(clocked(rounds[f"{label}/{backend}"], clock), 1e3 / images) for clock in CLOCKS]
            rows.append([backend, label, images, persons, *spent])
    print(table(["backend", "photos", "images", "persons", "wall ms an image", "CPU ms an image"], rows))


def show_ratios(
    rounds: Rounds, forms: dict[str, Pair], counts: dict[str, tuple[int, int]], threads: int
) -> dict[str, dict[str, list[float]]]:
    """Bare over ours, the strongest first."""
    peers = [name for name in forms if name != OURS]
    if not peers:
        print("\nno peer ran here: no ratios")
        return {}
    mixes: dict[str, dict[str, list[str]]] = {"strongest": {c: strongest(rounds, peers, c) for c in CLOCKS}}
    mixes |= {name: {clock: [name, name] for clock in CLOCKS} for name in forms}
    print(f"\nBare / ours, {threads} thread(s); below 1: the bare passes alone are faster than all of our pose stage.")
    for clock, (detector, pose) in mixes["strongest"].items():
        print(f"strongest by {CLOCKS[clock]} time: detector in {detector}, pose model in {pose}")
    ratios: dict[str, dict[str, list[Spread]]] = {}
    for backend in BACKENDS:
        for label in counts:
            ours = rounds[f"{label}/{backend}"]
            ratios[f"{label}, ours in {backend}"] = {
                name: [ratio(bare_s(rounds, names[c], c, counts[label]), clocked(ours, c)) for c in CLOCKS]
                for name, names in mixes.items()
                if backend == BACKENDS[0] or name == "strongest"
            }
    rows = [[label, name, *cells] for label, of_set in ratios.items() for name, cells in of_set.items()]
    print(table(["photos", "bare form", "by wall time", "by CPU time"], rows))
    for label, of_set in ratios.items():
        wall, cpu = of_set["strongest"]
        print(f"{threads} thread(s), {label}: strongest bare / ours: wall {wall}, CPU {cpu}", flush=True)
    return {
        label: {name: [round(c.middle, 3) for c in cells] for name, cells in of_set.items()}
        for label, of_set in ratios.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--max-images", type=int, default=1000, help="of each set, for a quick look")
    options = parser.parse_args()
    add_peers()
    photos = load_photos(options.folder)[0]
    chosen = {"as given": photos, "without people": [photo for photo in photos if not photo.people_visible]}
    sets = {label: [photo.rgb_HWC for photo in some[: options.max_images]] for label, some in chosen.items()}
    pair = options.detector, options.pose_model
    estimator = PoseEstimator.load(*pair, weights_dir=options.weights_dir)
    print(
        f"Pose stage, {options.detector} and {options.pose_model}, against bare forward passes of the same weights\n"
        "in float32 on prepared tensors, each form at its best batch size and layout (or streams) by CPU time. Bare\n"
        "passes leave out resizing, box decoding, suppression, cropping and keypoint decoding; ours does all of it.\n"
        "Threads that wait sleep (OMP_WAIT_POLICY=PASSIVE, onnxruntime without spinning)."
    )
    print(versions("torch", "onnxruntime", "openvino", "onnx", "mmdet", "mmpose", "opencv-python-headless"))
    results = {}
    with torch.inference_mode():
        counts = {label: (len(images), sum(map(len, found_boxes(estimator, images)))) for label, images in sets.items()}
        models = prepare(estimator, options.weights_dir, sets["as given"])
        for threads in options.threads:
            torch.set_num_threads(threads)
            forms = agreeing(models, ready_forms(models, threads, options.forms))
            estimators: dict[Backend, PoseEstimator] = {
                backend: PoseEstimator.load(*pair, weights_dir=options.weights_dir, threads=threads, backend=backend)
                for backend in reversed(BACKENDS)  # each sets OpenCV's threads for the process: the default one last
            }
            rounds = measure(estimators, forms, sets, options.rounds)
            show_bare(rounds, forms, threads)
            show_ours(rounds, counts, threads)
            results[f"threads{threads}"] = show_ratios(rounds, forms, counts, threads)
    print(json.dumps({"benchmark": "pose_stage", "bare_over_ours_wall_cpu": results}))


if __name__ == "__main__":
    main()
