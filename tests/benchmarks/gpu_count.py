"""What a build of images would reach on 16 cores and one H200, computed from counted work: no GPU was at hand.

    python -m tests.benchmarks.gpu_count [--detector rtmdet-m] [--pose-model hrnet-w48]

Counted here, with random weights, on the path of a GPU with a CPU in its place: operator calls and arithmetic of a
batch, bytes that go there and come back, CPU time of what stays on the host. Assumed: the figures of `ASSUMED`. Each
stage alone could do so many images a second; the lowest is the bottleneck. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lposekit.pose import device_pixels
from lposekit.pose.models import build_detector, build_pose_model, ready_detector, ready_pose_model
from lposekit.pose.nms import nms
from lposekit.pose.zoo import detector_entry, pose_entry
from tests.benchmarks.rounds import table, versions

DEVICE = "cpu:0"
BATCH, PERSONS_AN_IMAGE, CANDIDATES = 16, 1.64, 40
"""Images a batch, as builds have by default; persons an image of the fixtures' photos; boxes above the threshold."""
HEIGHT, WIDTH = 512, 768
ASSUMED = {
    "CPU ms of fetch, decode, resize and encode an image (docs/benchmarks.md, kept connections)": 5.53,
    "cores": 16.0,
    "pose actors, a core each": 2.0,
    "us of CPU an operator call (eager torch, half precision)": 7.0,
    "TFLOP/s that convolutions reach in half precision (30% of 989)": 300.0,
    "GB/s from pinned memory": 50.0,
}


class Calls(TorchDispatchMode):
    """Operator calls but views: each is at least one kernel."""

    VIEWS = ("view", "expand", "unsqueeze", "select", "slice", "unbind", "permute", "transpose", "detach", "split")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(view in func.__name__ for view in self.VIEWS)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Counted:
    """Work of one batch: of pre-processing there, of the detector, of the pose model."""

    calls: dict[str, int]
    tera_flop: float
    bytes_there: int
    host_ms: float


def calls_of(work: Callable[[], object]) -> int:
    with torch.inference_mode(), Calls() as calls:
        work()
    return calls.count


def flop_of(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def cpu_ms(work: Callable[[], object], passes: int = 5) -> float:
    spent = []
    for _ in range(passes):
        start = time.process_time()
        work()
        spent.append(1e3 * (time.process_time() - start))
    return min(spent)


def count(detector_name: str, pose_name: str) -> Counted:
    torch.set_num_threads(1)
    entries = detector_entry(detector_name), pose_entry(pose_name)
    detector = ready_detector(entries[0], build_detector(entries[0]), DEVICE, "float32", 0.5)
    pose = ready_pose_model(entries[1], build_pose_model(entries[1]), DEVICE, "float32")
    images = [np.zeros((HEIGHT, WIDTH, 3), np.uint8) for _ in range(BATCH)]
    persons = round(BATCH * PERSONS_AN_IMAGE)
    held = device_pixels.upload(images, DEVICE)
    box = np.array([100, 50, 300, 450], np.float32)
    requests = [(held[i % BATCH], box) for i in range(persons)]
    one = detector.prepare(held[:1]).pixels_BSSC, pose.prepare(requests[:1]).pixels_NHWC
    calls = {
        "letterbox, cut": calls_of(lambda: (detector.prepare(held), pose.prepare(requests))),
        detector_name: calls_of(lambda: detector.network(one[0])),
        pose_name: calls_of(lambda: pose.network(one[1])),
    }
    flop = BATCH * flop_of(lambda: detector.network(one[0])) + persons * flop_of(lambda: pose.network(one[1]))
    corner = np.random.default_rng(0).uniform(0, 300, (CANDIDATES, 2)).astype(np.float32)
    boxes, scores = np.concatenate([corner, corner + 150], 1), np.linspace(1, 0.5, CANDIDATES, dtype=np.float32)
    with mock.patch.object(device_pixels, "to_device", lambda staged, device: staged):  # a GPU fetches it itself
        host = cpu_ms(lambda: device_pixels.upload(images, DEVICE))
    host += BATCH * cpu_ms(lambda: nms(boxes, scores, 0.6))
    return Counted(calls, flop, sum(image.size for image in images), host)


def rates(counted: Counted) -> dict[str, float]:
    """Images a second that each stage alone could do."""
    cpu_image_ms, cores, actors, call_us, tera_flop_s, there_gb_s = ASSUMED.values()
    actor_ms = counted.host_ms + 1e-3 * call_us * sum(counted.calls.values())
    return {
        "fetch, decode, encode on the other cores": (cores - actors) * 1e3 / cpu_image_ms,
        "pose actors: operator calls and host work": actors * BATCH * 1e3 / actor_ms,
        "arithmetic on the GPU": BATCH * tera_flop_s / counted.tera_flop,
        "copies to the GPU": BATCH * there_gb_s * 1e9 / counted.bytes_there,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="rtmdet-m")
    parser.add_argument("--pose-model", default="hrnet-w48")
    options = parser.parse_args()
    counted = count(options.detector, options.pose_model)
    found = rates(counted)
    print(
        f"COMPUTED, not measured: no GPU was at hand. {options.detector} and {options.pose_model}, {BATCH} images of\n"
        f"{WIDTH} x {HEIGHT} a batch, {PERSONS_AN_IMAGE} persons an image. Counted here, of a batch: "
        f"{', '.join(f'{name} {number} operator calls' for name, number in counted.calls.items())};\n"
        f"{counted.tera_flop:.2f} TFLOP; {counted.bytes_there / 1e6:.1f} MB to the device; {counted.host_ms:.2f} ms of "
        "CPU on the host."
    )
    print(versions("torch", "mmdet", "mmpose", "numpy"), "\n")
    print(table(["assumed", "value"], [list(pair) for pair in ASSUMED.items()]), "\n")
    lowest = min(found, key=lambda name: found[name])
    rows = [[name, f"{rate:.0f}", "bottleneck" if name == lowest else ""] for name, rate in found.items()]
    print(table(["16 cores and one H200, each stage alone (computed)", "images/s", ""], rows), flush=True)
    print(json.dumps({"benchmark": "gpu_count", "images_s": {name: round(rate) for name, rate in found.items()}}))


if __name__ == "__main__":
    main()
