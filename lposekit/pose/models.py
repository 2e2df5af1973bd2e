"""Build the zoo's models from the configs inside the mmpose wheel, load their weights, make them ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.checkpoint import load_into, load_weights
from lposekit.pose.detector import PersonDetector
from lposekit.pose.fuse import fuse_conv_norm, keep_channels_last
from lposekit.pose.openmmlab import ensure_openmmlab, import_models
from lposekit.pose.preprocess import Normalizer
from lposekit.pose.topdown import TopDownPose
from lposekit.pose.zoo import DetectorEntry, PoseEntry, Precision

_DTYPES = {"float32": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}
Model = TypeVar("Model", PersonDetector, TopDownPose)


@dataclass(frozen=True)
class BuiltModel:
    """A module in eval mode with random weights, and the mmengine `Config` it was built from."""

    module: nn.Module
    config: Any


@dataclass(frozen=True)
class LoadedModel(Generic[Model]):
    """A model ready to run, and the sha256 of the file its weights came from."""

    model: Model
    sha256: str


def load_config(entry: DetectorEntry | PoseEntry) -> Any:
    """The entry's mmengine `Config`: the wheel's file, plus the entry's overrides, minus pretrained backbones."""
    ensure_openmmlab()
    import mmpose
    from mmengine.config import Config

    config = Config.fromfile(str(Path(mmpose.__file__).parent / ".mim" / entry.config))
    # Never download the backbone's pretrained weights: the entry's own weights replace them all.
    config.model.backbone.pop("init_cfg", None)
    config.model.train_cfg = None
    if isinstance(entry, PoseEntry):
        config.merge_from_dict({"model.test_cfg.flip_test": entry.flip_test, **entry.config_overrides})
    return config


def build_detector(entry: DetectorEntry) -> BuiltModel:
    """MMDet's detector of an entry, with random weights, on the CPU."""
    import_models()
    from mmdet.registry import MODELS

    return _build(MODELS, load_config(entry))


def build_pose_model(entry: PoseEntry) -> BuiltModel:
    """MMPose's estimator of an entry, with random weights, on the CPU; flip test as the entry says."""
    import_models()
    from mmpose.registry import MODELS

    return _build(MODELS, load_config(entry))


def load_detector(
    entry: DetectorEntry, weights_dir: Path | None, device: str, precision: Precision, score_threshold: float
) -> LoadedModel[PersonDetector]:
    """The entry's detector with its weights, ready to run.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    built = build_detector(entry)
    weights = load_weights(entry.weights, weights_dir)
    load_into(built.module, weights.state, entry.name)
    return LoadedModel(ready_detector(entry, built, device, precision, score_threshold), weights.sha256)


def load_pose_model(
    entry: PoseEntry, weights_dir: Path | None, device: str, precision: Precision
) -> LoadedModel[TopDownPose]:
    """The entry's pose model with its weights, ready to run.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    built = build_pose_model(entry)
    weights = load_weights(entry.weights, weights_dir)
    load_into(built.module, weights.state, entry.name)
    return LoadedModel(ready_pose_model(entry, built, device, precision), weights.sha256)


def ready_detector(
    entry: DetectorEntry, built: BuiltModel, device: str, precision: Precision, score_threshold: float
) -> PersonDetector:
    """Wrap a built detector: fused, in `channels_last` layout, on its device."""
    example = torch.zeros(1, 3, entry.input_size_px, entry.input_size_px)
    _optimise(built.module, example, device, precision)
    normalizer = _normalizer(built.config, device, precision)
    return PersonDetector(built.module, built.config, entry.input_size_px, normalizer, score_threshold)


def ready_pose_model(entry: PoseEntry, built: BuiltModel, device: str, precision: Precision) -> TopDownPose:
    """Wrap a built pose model: fused, in `channels_last` layout, on its device."""
    width, height = entry.input_size_wh
    _optimise(_BackboneAndHead(built.module), torch.zeros(1, 3, height, width), device, precision)
    flip_indices = KEYPOINT_FORMATS[entry.keypoint_format].flip_order().tolist()
    normalizer = _normalizer(built.config, device, precision)
    return TopDownPose(built.module, built.config, entry.input_size_wh, normalizer, flip_indices)


class _BackboneAndHead(nn.Module):
    """Runs backbone, neck and head: an MMPose estimator's own `forward` stops before the head."""

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self.estimator: Any = estimator

    def forward(self, inputs: Tensor) -> Any:
        return self.estimator.head(self.estimator.extract_feat(inputs))


def _build(registry: Any, config: Any) -> BuiltModel:
    from mmengine.registry import DefaultScope

    # The scope says where bare type names ("CSPNeXt") are looked up first; `with`, so that the process keeps its own.
    with DefaultScope.overwrite_default_scope(registry.scope):
        module = registry.build(config.model)
    return BuiltModel(module.eval(), config)


def _optimise(module: nn.Module, example: Tensor, device: str, precision: Precision) -> None:
    keep_channels_last(module)
    fuse_conv_norm(module, example)
    module.requires_grad_(False)
    module.to(device=device, dtype=_DTYPES[precision], memory_format=torch.channels_last)  # pyright: ignore


def _normalizer(config: Any, device: str, precision: Precision) -> Normalizer:
    settings = config.model.data_preprocessor
    mean, std = (torch.tensor(settings[key], dtype=torch.float32, device=device) for key in ("mean", "std"))
    return Normalizer(mean, std, _DTYPES[precision])
