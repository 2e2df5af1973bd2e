"""Build the zoo's models from the configs inside the mmpose wheel, load their weights, make them ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lposekit.errors import LposekitError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.pose.checkpoint import load_into, load_weights
from lposekit.pose.detector import DetectorFacts, PersonDetector
from lposekit.pose.fuse import fuse_conv_norm, keep_channels_last
from lposekit.pose.openmmlab import ensure_openmmlab, import_models
from lposekit.pose.tensor_parts import DecodedPose, DetectorPart, Normalize, PosePart
from lposekit.pose.topdown import PoseFacts, TopDownPose
from lposekit.pose.torch_network import TorchNetwork
from lposekit.pose.zoo import DetectorEntry, PoseEntry, Precision

_DTYPES = {"float32": torch.float32, "half": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class BuiltModel:
    """A module in eval mode with random weights, and the mmengine `Config` it was built from."""

    module: nn.Module
    config: Any


@dataclass(frozen=True)
class LoadedDetector:
    """The tensor part of a detector with its weights, and the sha256 of the file that they came from."""

    part: DetectorPart
    facts: DetectorFacts
    sha256: str


@dataclass(frozen=True)
class LoadedPose:
    """The tensor part of a pose model with its weights, and the sha256 of the file that they came from."""

    part: PosePart
    facts: PoseFacts
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


def load_detector(entry: DetectorEntry, weights_dir: Path | None, precision: Precision = "float32") -> LoadedDetector:
    """The entry's detector with its weights, fused, on the CPU.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    built = build_detector(entry)
    weights = load_weights(entry.weights, weights_dir)
    load_into(built.module, weights.state, entry.name)
    return LoadedDetector(*_detector_part(entry, built, precision), weights.sha256)


def load_pose_model(entry: PoseEntry, weights_dir: Path | None, precision: Precision = "float32") -> LoadedPose:
    """The entry's pose model with its weights, fused, on the CPU.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    built = build_pose_model(entry)
    weights = load_weights(entry.weights, weights_dir)
    load_into(built.module, weights.state, entry.name)
    return LoadedPose(*_pose_part(entry, built, precision), weights.sha256)


def ready_detector(
    entry: DetectorEntry, built: BuiltModel, device: str, precision: Precision, score_threshold: float
) -> PersonDetector:
    """Wrap a built detector: fused, in `channels_last` layout, on its device, run by torch."""
    part, facts = _detector_part(entry, built, precision)
    return on_torch_detector(part, facts, device, score_threshold)


def ready_pose_model(entry: PoseEntry, built: BuiltModel, device: str, precision: Precision) -> TopDownPose:
    """Wrap a built pose model: fused, in `channels_last` layout, on its device, run by torch."""
    return on_torch_pose(*_pose_part(entry, built, precision), device)


def on_torch_detector(part: DetectorPart, facts: DetectorFacts, device: str, score_threshold: float) -> PersonDetector:
    """A detector whose network torch runs."""
    return PersonDetector(TorchNetwork(part.to(device), device), facts, score_threshold)


def on_torch_pose(part: PosePart, facts: PoseFacts, device: str) -> TopDownPose:
    """A pose model whose network torch runs."""
    decoded = DecodedPose(part, facts.input_size_wh, facts.split_ratio)
    return TopDownPose(TorchNetwork(decoded.to(device), device), facts)


def _detector_part(entry: DetectorEntry, built: BuiltModel, precision: Precision) -> tuple[DetectorPart, DetectorFacts]:
    side, test_cfg = entry.input_size_px, built.config.model.test_cfg
    _optimise(built.module, torch.zeros(1, 3, side, side), precision)
    part = DetectorPart(built.module, _normalize(built.config, side, precision), side)
    facts = DetectorFacts(side, _is_bgr(built.config), float(test_cfg.nms.iou_threshold), int(test_cfg.max_per_img))
    return part.eval().requires_grad_(False), facts


def _pose_part(entry: PoseEntry, built: BuiltModel, precision: Precision) -> tuple[PosePart, PoseFacts]:
    width, height = entry.input_size_wh
    _optimise(_BackboneAndHead(built.module), torch.zeros(1, 3, height, width), precision)
    flip_indices = KEYPOINT_FORMATS[entry.keypoint_format].flip_order().tolist()
    normalize = _normalize(built.config, width, precision)
    part = PosePart(built.module, normalize, built.config.model.test_cfg, flip_indices)
    return part.eval().requires_grad_(False), _pose_facts(entry, built)


def _pose_facts(entry: PoseEntry, built: BuiltModel) -> PoseFacts:
    config, module = built.config, cast(Any, built.module)
    steps = {step["type"]: step for step in config.test_dataloader.dataset.pipeline}
    affine = steps["TopdownAffine"]
    assert tuple(affine["input_size"]) == entry.input_size_wh, "zoo entry and config disagree about the input size"
    codec = module.head.decoder
    _check_codec(codec)
    is_simcc = type(codec).__name__ == "SimCCLabel"
    return PoseFacts(
        entry.input_size_wh,
        _is_bgr(config),
        padding=float(steps["GetBBoxCenterScale"].get("padding", 1.25)),
        use_udp=bool(affine.get("use_udp", False)),
        split_ratio=float(codec.simcc_split_ratio) if is_simcc else None,
    )


def _check_codec(codec: Any) -> None:
    """Only the codecs that `lposekit.pose.decode` knows; the refinements that it does not do must be off."""
    refinements = ("unbiased", "use_dark", "decode_visibility")
    if type(codec).__name__ not in ("MSRAHeatmap", "SimCCLabel") or any(getattr(codec, r, False) for r in refinements):
        raise LposekitError(
            f"keypoints of {type(codec).__name__} with {vars(codec)} cannot be decoded by lposekit.pose"
        )


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


def _optimise(module: nn.Module, example: Tensor, precision: Precision) -> None:
    keep_channels_last(module)
    fuse_conv_norm(module, example)
    module.to(dtype=_DTYPES[precision], memory_format=torch.channels_last)  # pyright: ignore


def _is_bgr(config: Any) -> bool:
    return not config.model.data_preprocessor.get("bgr_to_rgb", False)


def _normalize(config: Any, width: int, precision: Precision) -> Normalize:
    settings = config.model.data_preprocessor
    return Normalize(settings["mean"], settings["std"], width, _DTYPES[precision])
