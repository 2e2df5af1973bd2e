"""Contract of lposekit.pose.zoo and lposekit.pose.models.

Every entry's model is built from the config inside the mmpose wheel, runs, and answers in the entry's keypoint format;
addresses, input sizes and configs are those that the wheel states. Making a model faster leaves its numbers alone.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lposekit.errors import UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.fuse import fuse_conv_norm, keep_channels_last
from lposekit.pose.models import build_detector, build_pose_model, load_config, ready_detector, ready_pose_model
from lposekit.pose.openmmlab import ensure_openmmlab
from lposekit.pose.unshuffle import unshuffle
from lposekit.pose.zoo import DETECTORS, POSE_MODELS, detector_entry, pose_entry

pytestmark = pytest.mark.timeout(240)


def wheel_folder() -> Path:
    ensure_openmmlab()
    import mmpose

    return Path(mmpose.__file__).parent / ".mim"


@pytest.mark.parametrize("name", DETECTORS)
# Mutation: a wrong input_size_px in the entry.
def test_every_detector_is_built_and_runs_once(name: str) -> None:
    entry = DETECTORS[name]
    built = build_detector(entry)
    [resize] = [step for step in built.config.test_dataloader.dataset.pipeline if step["type"] == "Resize"]
    assert tuple(resize["scale"]) == (entry.input_size_px, entry.input_size_px)
    detector = ready_detector(entry, built, "cpu", "float32", score_threshold=0.0)
    boxes = detector.detect(detector.prepare([np.zeros((30, 50, 3), np.uint8)]))
    assert len(boxes) == 1
    assert boxes[0].xyxy_P4.shape == (len(boxes[0].score_P), 4)


@pytest.mark.parametrize("name", POSE_MODELS)
def test_every_pose_model_is_built_and_runs_once(name: str) -> None:
    entry = POSE_MODELS[name]
    built = build_pose_model(entry)
    assert built.config.model.test_cfg.flip_test is entry.flip_test
    model = ready_pose_model(entry, built, "cpu", "float32")
    person = np.zeros((80, 60, 3), np.uint8), np.array([5, 5, 50, 70], np.float32)
    keypoints_NK3 = model.estimate(model.prepare([person]))
    assert keypoints_NK3.shape == (1, KEYPOINT_FORMATS[entry.keypoint_format].num_keypoints, 3)


# Mutation: change one digit of a file name in the zoo.
def test_addresses_are_those_of_the_wheels_metafiles() -> None:
    for entry in POSE_MODELS.values():
        if entry.weights.url is None:
            continue
        metafiles = (wheel_folder() / entry.config).parent.glob("*.yml")
        models = [model for file in metafiles for model in yaml.safe_load(file.read_text())["Models"]]
        assert [m["Weights"] for m in models if m["Config"] == entry.config] == [entry.weights.url]
        assert f"-{entry.weights.sha256[0]}_" in entry.weights.file
    from mmpose.apis.inferencers.utils.default_det_models import default_det_models

    assert default_det_models["human"]["weights"] == DETECTORS["rtmdet-m"].weights.url
    assert Path(default_det_models["human"]["model"]).name == Path(DETECTORS["rtmdet-m"].config).name


def test_uncalibrated_thresholds_say_so() -> None:
    provisional = {name for name, entry in POSE_MODELS.items() if entry.provisional}
    assert provisional == set(POSE_MODELS) - {"tinypose"}


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="rtmdet-nano, rtmdet-m"):
        detector_entry("yolo")
    with pytest.raises(UsageError, match="rtmpose-t, rtmpose-s"):
        pose_entry("openpose")


def test_no_config_asks_for_pretrained_backbones() -> None:
    for entry in (*DETECTORS.values(), *POSE_MODELS.values()):
        assert "init_cfg" not in load_config(entry).model.backbone


class Whole(torch.nn.Module):
    """A pose model from pixels to its (first) answer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.estimator: Any = build_pose_model(POSE_MODELS[name]).module
        for module in self.estimator.modules():  # statistics of their own, as in a trained network
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean = torch.randn(module.num_features) * 0.1
                module.running_var = torch.rand(module.num_features) + 0.5
                module.bias.data = torch.randn_like(module.bias) * 0.1

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output = self.estimator.head(self.estimator.extract_feat(inputs))
        return output[0] if isinstance(output, tuple) else output


# Mutation: in fuse_conv_norm drop `+ norm.bias` handling, i.e. pass None for the norm's bias.
@pytest.mark.parametrize("name", ["tinypose", "rtmpose-t"])
def test_fusing_folds_every_norm_and_keeps_the_numbers(name: str) -> None:
    torch.manual_seed(1)
    plain = Whole(name)
    fast = copy.deepcopy(plain)
    keep_channels_last(fast)
    fuse_conv_norm(fast, torch.zeros(1, 3, 256, 192))
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in fast.modules())
    fast.to(memory_format=torch.channels_last)  # pyright: ignore
    inputs = torch.randn(2, 3, 256, 192)
    with torch.inference_mode():
        expected = plain(inputs)
        actual = fast(inputs.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# Mutations: `order_after` of the kept channels as it was; no `order_out` in `_reorder_fusion`; the head
# left alone; done twice.
def test_without_its_shuffles_a_lite_hrnet_moves_no_channels_and_keeps_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    model, inputs = Whole("tinypose"), torch.randn(1, 3, 256, 192)
    with torch.inference_mode():
        expected = model(inputs)
        assert unshuffle(model) == 0  # its norms are not folded
        fuse_conv_norm(model, inputs)
        assert unshuffle(model) == 49
        assert unshuffle(model) == 0
        monkeypatch.delattr("mmpose.models.backbones.litehrnet.channel_shuffle")
        actual = model(inputs)
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# Mutation: compare `len(sources) == 1` only, without the calls of the convolution.
def test_a_convolution_with_several_norms_is_left_alone() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 2, 1)
            self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(2) for _ in range(2))

        def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
            return [norm(self.conv(inputs)) for norm in self.norms]

    assert fuse_conv_norm(Shared().eval(), torch.zeros(1, 2, 3, 3)) == 0


# Mutation: patch mmpose.models.backbones.litehrnet.channel_shuffle itself.
def test_only_this_models_channel_shuffle_is_replaced() -> None:
    model = build_pose_model(POSE_MODELS["tinypose"]).module
    from mmpose.models.backbones import litehrnet

    before = litehrnet.channel_shuffle
    assert keep_channels_last(model) > 0
    assert litehrnet.channel_shuffle is before
    untouched = build_pose_model(POSE_MODELS["tinypose"]).module
    assert not any("forward" in vars(module) for module in untouched.modules())
