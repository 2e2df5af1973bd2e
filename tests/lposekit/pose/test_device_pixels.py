"""Contract of the path of a GPU, run on a CPU as the device `cpu:0`: images go to the device once and stay for both
models; pixels are those of OpenCV within a level or two of 255; the number of operations does not grow with the images;
numbers come back in one copy a batch of each model.
"""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lposekit.pose import device_pixels
from lposekit.pose.device_pixels import cut_there, letterbox_there, upload
from lposekit.pose.estimator import PoseEstimator
from lposekit.pose.preprocess import Cutter, letterbox
from lposekit.pose.torch_network import TorchNetwork
from lposekit.records import Person, PoseFailure
from tests.benchmarks.ground_truth import load_photos
from tests.support.fixtures import fixture_path

pytestmark = pytest.mark.timeout(600)
DEVICE = "cpu:0"
"""Not `cpu`: whatever is not the plain CPU takes the path of a GPU."""


def photos(count: int) -> list[np.ndarray]:
    found, _ = load_photos(fixture_path("data/images"))
    return [photo.rgb_HWC for photo in sorted(found, key=lambda photo: -len(photo.boxes_xyxy))[:count]]


def load(device: str, **changes: Any) -> PoseEstimator:
    pair = "rtmdet-nano-rebuilt", "tinypose"
    return PoseEstimator.load(*pair, weights_dir=fixture_path("weights"), device=device, **changes)


class CountedOperations(TorchDispatchMode):
    """How many operations torch is asked for: on a GPU, each is a kernel, or none (views)."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


# Mutations tried: half a pixel left out of start_B2; the edge's clamp; `fill_x` and `fill_y` exchanged.
@pytest.mark.parametrize("bgr", [False, True])
def test_letterboxed_pixels_are_those_of_opencv(bgr: bool) -> None:
    images = [*photos(4), np.full((3, 900, 3), 200, np.uint8), np.arange(300, dtype=np.uint8).reshape(10, 10, 3)]
    here = letterbox(images, 320, bgr)
    there = letterbox_there(upload(images, DEVICE), 320, bgr)
    apart = np.abs(there.pixels_BSSC.numpy().astype(int) - here.pixels_BSSC)
    assert apart.max() <= 2
    assert (apart > 1).mean() < 1e-3
    np.testing.assert_allclose(there.scale_B2, here.scale_B2, rtol=1e-6)


# Mutations tried: `- 1` left out with UDP; black replaced by the edge's pixel.
@pytest.mark.parametrize("use_udp", [False, True])
def test_cut_pixels_are_those_of_opencv(use_udp: bool) -> None:
    images = photos(3)
    boxes = np.array([[30, 40, 200, 380], [-40.5, 10.25, 90, 120], [5, 5, 480, 460]], np.float32)
    cutter = Cutter((192, 256), 1.25, use_udp, bgr=True)
    here = cutter.cut(list(zip(images, boxes, strict=True)))
    there = cut_there(list(zip(upload(images, DEVICE), boxes, strict=True)), (192, 256), 1.25, use_udp, bgr=True)
    apart = np.abs(there.pixels_NHWC.numpy().astype(int) - here.pixels_NHWC)
    assert np.percentile(apart, 99) <= 2
    assert apart.mean() < 0.3
    np.testing.assert_array_equal(there.center_N2, here.center_N2)
    np.testing.assert_array_equal(there.size_N2, here.size_N2)


def test_operations_do_not_grow_with_the_images() -> None:
    # Mutation tried: a loop over the images with torch.nn.functional.interpolate.
    images, counts = photos(1) * 12, []
    for some in (images[:1], images):
        held = upload(some, DEVICE)
        with CountedOperations() as operations:
            letterbox_there(held, 320, bgr=True)
            cut_there([(image, np.array([9, 9, 90, 120], np.float32)) for image in held], (192, 256), 1.25, False, True)
        counts.append(operations.count)
    assert counts[0] == counts[1] <= 220


# Mutations tried: upload again for the crops; a copy for each image's boxes.
def test_a_batch_goes_there_in_one_copy_and_each_models_numbers_come_back_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: dict[str, list[int]] = {"to_device": [], "to_host": []}

    def counted(name: str) -> Any:
        copy = getattr(device_pixels, name)

        def call(tensor: torch.Tensor, *rest: Any) -> Any:
            copies[name].append(tensor.numel() * tensor.element_size())
            return copy(tensor, *rest)

        return call

    estimator = PoseEstimator.load(
        "rtmdet-nano-rebuilt", "tinypose", weights_dir=fixture_path("weights"), device=DEVICE
    )
    for name in copies:
        monkeypatch.setattr(device_pixels, name, counted(name))
    monkeypatch.setattr("lposekit.pose.torch_network.to_host", device_pixels.to_host)
    images = photos(6)
    found = estimator.estimate(images)
    assert sum(len(persons) for persons in found if not isinstance(persons, PoseFailure)) > 6
    large = [num_bytes for num_bytes in copies["to_device"] if num_bytes > 10_000]
    assert large == [sum(image.size for image in images)]
    assert len(copies["to_device"]) == 3  # the images, and where the squares and the crops lie in them
    assert len(copies["to_host"]) == 2  # of the detector, and of the pose model


def test_the_path_of_a_gpu_finds_the_same_persons() -> None:
    images = photos(5)
    plain = PoseEstimator.load("rtmdet-nano-rebuilt", "tinypose", weights_dir=fixture_path("weights"))
    settings = dataclasses.replace(plain.settings, device=DEVICE, batch_size=3)
    there = PoseEstimator.load(
        "rtmdet-nano-rebuilt", "tinypose", weights_dir=fixture_path("weights"), settings=settings
    )
    moved = []
    for a, b in zip(plain.estimate(images), there.estimate(images), strict=True):
        assert isinstance(a, list)
        assert isinstance(b, list)
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert np.abs(one.bbox_xyxy - other.bbox_xyxy).max() < 2
            detected = one.keypoints_K3[:, 2] >= plain.keypoint_score_threshold
            moved.append(np.abs(one.keypoints_K3 - other.keypoints_K3)[detected, :2].max(-1))
    assert np.median(np.concatenate(moved)) <= 0.05


# Mutation tried: one staging buffer for all threads.
def test_two_threads_at_once_get_the_answers_of_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = load(DEVICE)
    parts = [photos(8)[start : start + 4] for start in (0, 4)]
    alone = [as_numbers(estimator.estimate(part)) for part in parts]
    both_staged, copy = threading.Barrier(2), device_pixels.to_device

    def copy_once_both_are_staged(tensor: torch.Tensor, device: str) -> torch.Tensor:
        if tensor.dtype == torch.uint8:
            both_staged.wait(timeout=60)
        return copy(tensor, device)

    monkeypatch.setattr(device_pixels, "to_device", copy_once_both_are_staged)
    with ThreadPoolExecutor(2) as pool:
        together = [as_numbers(answer) for answer in pool.map(estimator.estimate, parts)]
    assert together == alone
    assert alone[0] != alone[1]


# Mutation tried: no lock -> the first thread puts the settings back while the second's kernels are launched.
def test_kernels_are_launched_repeatable_whatever_another_thread_does() -> None:
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    was_repeatable: list[bool] = []

    class Module:
        def __call__(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
            if not first_in.is_set():
                first_in.set()
                second_in.wait(timeout=0.5)  # in vain: the second one is let in when this one is out
            else:
                second_in.set()
                first_out.wait(timeout=60)
                was_repeatable.append(torch.backends.cudnn.deterministic)
            return pixels_BHWC

    network = TorchNetwork(cast(torch.nn.Module, Module()), DEVICE)
    pixels_BHWC = np.zeros((1, 2, 2, 3), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(network, pixels_BHWC)
        assert first_in.wait(timeout=60)
        second = pool.submit(network, pixels_BHWC)
        first.result()
        first_out.set()
        second.result()
    assert was_repeatable == [True]


def as_numbers(answer: list[list[Person] | PoseFailure]) -> list[Any]:
    """What can be compared to the last bit."""
    return [
        persons if isinstance(persons, PoseFailure) else [person.keypoints_K3.tolist() for person in persons]
        for persons in answer
    ]
