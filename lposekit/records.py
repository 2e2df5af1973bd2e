"""The values that travel along the path of a record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Columns: TypeAlias = Mapping[str, Any]
"""One row of a shard's parquet table, by column. What pyarrow makes of a cell has no type."""
_USER = re.compile(r"^(\s*(?:[a-z][a-z0-9+.-]*:)?//)[^/?#\s]*@", re.IGNORECASE)
KEY_ROW_DIGITS = 4
KEY_SHARD_DIGITS = 5


def shard_name(shard: int) -> str:
    """Base name of a shard's files: five digits, more when it takes more."""
    return f"{shard:0{KEY_SHARD_DIGITS}d}"


def sample_key(shard: int, row: int) -> str:
    """Key of one sample: shard (5 digits) + row within the shard (4 digits), as img2dataset makes it."""
    if not 0 <= row < 10**KEY_ROW_DIGITS:
        raise ValueError(f"row {row} does not fit into {KEY_ROW_DIGITS} digits: use shards of at most 10000 rows")
    return f"{shard_name(shard)}{row:0{KEY_ROW_DIGITS}d}"


StoredQuery: TypeAlias = Literal["safe", "all", "none"]
"""How much of an address's query is stored: see `lposekit.stored_address`."""


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One input row. `extra` holds the list's other columns (similarity, punsafe, licence, ...) unchanged; `query`: how
    much of the queries of its addresses is stored."""

    key: str
    url: str | None
    caption: str
    extra: Mapping[str, object] = field(default_factory=dict)
    query: StoredQuery = "all"


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One detected person, in pixels of the stored image.

    `bbox_xyxy`: float32 [4], left, top, right, bottom. `bbox_score` in 0..1.
    `keypoints_K3`: float32 [K, 3], x, y and the model's raw score (its scale belongs to the model, see the zoo).
    """

    bbox_xyxy: npt.NDArray[np.float32]
    bbox_score: float
    keypoints_K3: npt.NDArray[np.float32]

    def __repr__(self) -> str:
        box = " ".join(f"{value:.0f}" for value in self.bbox_xyxy)
        best = float(self.keypoints_K3[:, 2].max(initial=0.0))
        return f"Person(box {box}, score {self.bbox_score:.2f}, {len(self.keypoints_K3)} keypoints, best {best:.2f})"


@dataclass(frozen=True, slots=True)
class PoseFailure:
    """What stands in place of an image's persons when the pose model failed on that image alone.

    `outcome_crash` is true when the model's process died on it, not only raised.
    """

    detail: str
    outcome_crash: bool = False


def without_user(url: str) -> str:
    """The address without a user name and password: it may be stored and shown."""
    return _USER.sub(r"\1", url)
