"""Make MMPose and MMDet importable without a compiler.

MMPose 1.3 and MMDet 3.3 import compiled or hard-to-build packages that person detection and top-down pose never call.
`ensure_openmmlab` stands in for the missing ones, and only for those:

* `mmcv._ext`: mmcv's compiled operators. A real one is used as it is. Otherwise non-maximum suppression is done in
  numpy, and every other operator raises an error that names it.
* `xtcocotools`: its wheel does not load on numpy 2; `pycocotools` has the same interface.
* `mmpose.visualization.simcc_vis`: the one module of MMPose that imports torchvision, for drawing only.

No module named `torchvision` is ever made up: transformers, which MMDet imports where it may, would remember that
torchvision is there, and CLIP and diffusers would break later in the same process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from lposekit.errors import LposekitError
from lposekit.kept_out import kept_out
from lposekit.pose.nms import nms as greedy_nms

_LOCK = threading.Lock()


class MissingOperatorError(LposekitError):
    """A compiled mmcv operator was called that the stand-in does not have."""


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int = 0) -> torch.Tensor:
    """Greedy non-maximum suppression with the meaning of mmcv's compiled `nms`.

    Args:
        boxes: [N, 4] left, top, right, bottom.
        scores: [N]; among equal scores the earlier box wins.
        iou_threshold: a box goes when its overlap with a kept one is greater than this.
        offset: 0, or 1 where width is counted as right - left + 1.

    Returns:
        int64 [M], indices of the kept boxes, best score first, on the device of `boxes`.
    """
    kept = greedy_nms(boxes.detach().cpu().numpy(), scores.detach().cpu().numpy(), iou_threshold, offset)
    return torch.from_numpy(kept).to(boxes.device)


class _StandInExtension(ModuleType):
    """What `import mmcv._ext` gives without a compiled mmcv: `nms`, and operators that say what is missing."""

    nms = staticmethod(nms)

    @staticmethod
    def get_compiler_version() -> str:
        return "none (lposekit stand-in)"

    get_compiling_cuda_version = get_compiler_version

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Only called for names that are not there; the import machinery asks for dunder names.
        if name.startswith("__"):
            raise AttributeError(name)

        def missing_operator(*args: object, **kwargs: object) -> None:
            raise MissingOperatorError(
                f"mmcv operator {name!r} needs a compiled mmcv, and this one has none (mmcv-lite). The models in "
                "lposekit.pose.zoo do not use it; for other models build mmcv 2.1.0 from source."
            )

        return missing_operator


def has_compiled_mmcv() -> bool:
    """Whether mmcv's own compiled operators are there (asks without importing them)."""
    spec = importlib.util.find_spec("mmcv._ext")
    return spec is not None and spec.loader is not None


def ensure_openmmlab() -> None:
    """Make `import mmpose` and `import mmdet` work in this process; idempotent.

    Raises:
        LposekitError: MMPose, MMDet, mmengine or mmcv is not installed.
    """
    with _LOCK:
        for package in ("mmengine", "mmcv", "mmdet", "mmpose"):
            if importlib.util.find_spec(package) is None:
                raise LposekitError(
                    f"the package {package} is not installed in {sys.prefix}: run `make setup`, or the command that "
                    "`lposekit doctor` prints"
                )
        if "mmcv._ext" not in sys.modules and not has_compiled_mmcv():
            _install(_StandInExtension("mmcv._ext", "lposekit's stand-in for mmcv's compiled operators"))
        if not _loads("xtcocotools.mask"):
            _alias_package("xtcocotools", "pycocotools", ("coco", "cocoeval", "mask"))
        if "mmpose.visualization.simcc_vis" not in sys.modules and importlib.util.find_spec("torchvision") is None:
            stub = ModuleType("mmpose.visualization.simcc_vis", "drawing of SimCC heatmaps: needs torchvision")
            stub.__dict__["SimCCVisualizer"] = type("SimCCVisualizer", (), {})
            _install(stub)


def import_models() -> None:
    """Import what registers MMDet's and MMPose's models, without the packages that only other models and training use.

    transformers (for language models) and albumentations (for training) cost more time than all of MMDet; both
    projects go on without. They are kept out only while this runs, and only if nobody has imported them.
    """
    ensure_openmmlab()
    with _LOCK, kept_out("transformers", "albumentations"):
        importlib.import_module("mmdet.models")
        importlib.import_module("mmpose.codecs")
        importlib.import_module("mmpose.models")


def _install(module: ModuleType) -> None:
    # A real spec: importlib.util.find_spec raises ValueError for a module in sys.modules whose __spec__ is None.
    module.__spec__ = ModuleSpec(module.__name__, loader=None, origin="lposekit stand-in")
    sys.modules[module.__name__] = module


def _loads(name: str) -> bool:
    """Whether a module can be imported; a half-imported one is taken out of `sys.modules` again."""
    try:
        importlib.import_module(name)
    except (ImportError, ValueError):  # ValueError: "numpy.dtype size changed", a wheel built for numpy 1
        package = name.partition(".")[0]
        for loaded in [key for key in sys.modules if key == package or key.startswith(package + ".")]:
            del sys.modules[loaded]
        return False
    return True


def _alias_package(name: str, real: str, submodules: tuple[str, ...]) -> None:
    sys.modules[name] = importlib.import_module(real)
    for submodule in submodules:
        sys.modules[f"{name}.{submodule}"] = importlib.import_module(f"{real}.{submodule}")
