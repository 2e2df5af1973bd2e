"""lposekit: build the LAION-Pose dataset, video shards, and train both stages of Follow-Your-Pose."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["PoseDataset", "PoseSample", "__version__", "open_dataset"]

if TYPE_CHECKING:
    from lposekit.shards.dataset import PoseDataset, PoseSample, open_dataset


def __getattr__(name: str) -> object:
    # Resolved late so that `lposekit --help` and `import lposekit` stay free of pyarrow and OpenCV.
    if name in ("open_dataset", "PoseDataset", "PoseSample"):
        from lposekit.shards import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'lposekit' has no attribute {name!r}")
