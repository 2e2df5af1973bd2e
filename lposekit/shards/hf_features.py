"""The types of a dataset's tars as Hugging Face `datasets` wants to be told them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lposekit.errors import LposekitError, UsageError

if TYPE_CHECKING:
    from lposekit.shards.dataset import PoseDataset

NOT_IN_JSON = ("persons",)


def hf_features(dataset: PoseDataset) -> Any:
    """See `PoseDataset.hf_features`."""
    if dataset.card.kind != "image":
        raise UsageError(f"hf_features: of images only, and this is a dataset of kind {dataset.card.kind!r}.")
    try:
        from datasets import Features, Image, List, Value  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise LposekitError("hf_features needs the package datasets: `pip install datasets`.") from error
    person = {
        "bbox": List(Value("float64")),
        "bbox_score": Value("float64"),
        "keypoints": List(Value("float64")),
        "num_detected": Value("int64"),
        "detected_fraction": Value("float64"),
    }
    pose = {
        **dict.fromkeys(("schema", "width", "height"), Value("int64")),
        **dict.fromkeys(("keypoint_format", "pose_model"), Value("string")),
        "keypoint_score_threshold": Value("float64"),
        "persons": List(person),
    }
    columns = [field for field in dataset.rows().schema if field.name not in NOT_IN_JSON]
    row = {column.name: Value(_json_type(column.type)) for column in columns}
    texts = dict.fromkeys(("txt", "__key__", "__url__"), Value("string"))
    return Features({"jpg": Image(), "json": row, "pose.json": pose, **texts})


def _json_type(column: pa.DataType) -> str:
    """What a column's values are once they have been written as JSON and read again."""
    if pa.types.is_boolean(column):
        return "bool"
    if pa.types.is_integer(column):
        return "int64"
    return "float64" if pa.types.is_floating(column) else "string"
