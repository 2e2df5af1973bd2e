"""A dataset folder as a sequence of samples, without torch, Ray or MMPose."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import parse_json_object
from lposekit.records import Person
from lposekit.remote.places import place_of
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import StoredPose, read_pose
from lposekit.shards.tables import shard_table
from lposekit.shards.whole_index import ShardList, read_index
from lposekit.store_reads import kind_of
from lposekit.stored_media import decode_stored_jpeg

if TYPE_CHECKING:
    import pandas

    from lposekit.shards.torch_samples import TorchSamples


@dataclass(frozen=True)
class PoseSample:
    """One sample. `members` holds its files as bytes by name (`jpg`, `txt`, `json`, `pose.json`, `mp4`)."""

    key: str
    members: dict[str, bytes]

    def __repr__(self) -> str:
        caption = f", {self.caption[:40]!r}" if "txt" in self.members else ""
        return f"PoseSample({self.key}: {' '.join(self.members) or 'empty'}{caption})"

    @property
    def rgb_HWC(self) -> npt.NDArray[np.uint8]:
        """The image, uint8 [H, W, 3], RGB, 0..255, upright.

        Raises:
            LposekitError: the sample has no image, or its bytes are damaged.
        """
        try:
            return decode_stored_jpeg(self.members.get("jpg", b""))
        except ValueError as error:
            raise self._damaged(f"no readable image, {error}") from error

    @property
    def caption(self) -> str:
        """`KEY.txt`.

        Raises:
            LposekitError: it is no UTF-8.
        """
        try:
            return self.members.get("txt", b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"txt: {error}") from error

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The sample's row as stored in `KEY.json`."""
        return self._json("json")

    @cached_property
    def pose(self) -> dict[str, Any]:
        """`KEY.pose.json` as stored; empty for a video clip."""
        return self._json("pose.json")

    @cached_property
    def persons(self) -> list[Person]:
        """The persons, in pixels of `rgb_HWC`; none for a video clip.

        Raises:
            LposekitError: `KEY.pose.json` is damaged.
        """
        return self._stored_pose.persons if "pose.json" in self.members else []

    def skeleton(
        self,
        style: str = "followyourpose",
        size: tuple[int, int] | None = None,
        *,
        score_threshold: float | None = None,
    ) -> npt.NDArray[np.uint8]:
        """The persons drawn as a skeleton image, uint8 [H, W, 3], RGB.

        Args:
            style: a style of `lposekit.skeleton`.
            size: (height, width) to draw at; default: the image's own.
            score_threshold: raw score from which a keypoint is drawn; default: that of the pose model.
        """
        from lposekit.skeleton import draw_skeleton, drop_outside, scale_keypoints

        pose = self._stored_pose
        height, width = pose.height, pose.width
        out_height, out_width = size or (height, width)
        keypoints_PK3 = np.zeros((0, 17, 3), np.float32)
        if self.persons:
            keypoints_PK3 = drop_outside(np.stack([person.keypoints_K3 for person in self.persons]), height, width)
            keypoints_PK3 = scale_keypoints(keypoints_PK3, out_width / width, out_height / height)
        threshold = pose.keypoint_score_threshold if score_threshold is None else score_threshold
        return draw_skeleton(keypoints_PK3, out_height, out_width, style=style, score_threshold=threshold)

    @cached_property
    def _stored_pose(self) -> StoredPose:
        try:
            return read_pose(self.members.get("pose.json", b""))
        except ValueError as error:
            raise self._damaged(f"pose.json: {error}") from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return parse_json_object(self.members.get(name, b"{}"))
        except ValueError as error:
            raise self._damaged(f"{name}: {error}") from error

    def _damaged(self, what: str) -> LposekitError:
        return LposekitError(f"sample {self.key}: {what}. Run `lposekit verify` on its folder.")


class PoseDataset(Sequence[PoseSample]):
    """The samples of a dataset folder, in key order; reads by offset, keeps no image in memory."""

    def __init__(self, root: Path, card: DatasetCard, shards: ShardList) -> None:
        self.root = root
        self.card = card
        self.shards = shards
        self._ends = np.cumsum(shards.counts).tolist()

    def __repr__(self) -> str:
        return f"PoseDataset({str(self.root)!r}: {self.card.kind}, {len(self)} samples in {len(self.shards)} shards)"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> PoseSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[PoseSample]: ...
    def __getitem__(self, index: int | slice) -> PoseSample | list[PoseSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        which = bisect.bisect_right(self._ends, index)
        shard = self.shards[which]
        row = index - (self._ends[which] - len(shard))
        return self.sample(shard, row)

    def sample(self, shard: ShardIndex, row: int) -> PoseSample:
        """One sample of a shard of `shards`, by its place in it."""
        return PoseSample(shard.key(row), read_members(shard, row))

    def rows(self) -> pa.Table:
        """One row per input row of the list, kept or not, as in the parquet files."""
        layout = DatasetLayout(self.root)
        tables = [shard_table(layout, layout.parquet(shard.shard)) for shard in self.shards]
        return pa.concat_tables(tables, promote_options="permissive")

    def to_pandas(self) -> pandas.DataFrame:
        """The rows, as `rows`, for pandas.

        Raises:
            LposekitError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError as error:
            raise LposekitError("to_pandas needs pandas: `pip install pandas`, or lposekit[build].") from error
        return self.rows().to_pandas()

    def torch(
        self,
        transform: Callable[[PoseSample], Any] | None = None,
        *,
        size: int = 512,
        style: str = "followyourpose",
        shuffle_seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> TorchSamples:
        """The samples for `torch.utils.data.DataLoader`, which batches them and may have workers: each takes whole
        shards, so that there should be as many shards as workers, or more.

        Args:
            transform: from a sample to what the loader batches; a function that can be pickled. Default, of images
                only: `{"key", "caption", "image", "skeleton"}`, the last two uint8 [3, size, size], RGB.
            size, style: of the default transform's images and skeletons.
            shuffle_seed: shuffle the shards, and the samples within each; `set_epoch` gives each epoch an order of its
                own. None: in order.
            rank, world_size: of several processes, this one's part: whole shards, too.

        Raises:
            UsageError: a dataset of another kind without `transform`. LposekitError: torch is not installed.
        """
        try:
            from lposekit.shards.torch_samples import ImageAndSkeleton, TorchSamples
        except ModuleNotFoundError as error:
            raise LposekitError("torch is not installed: `pip install torch`, or lposekit[train].") from error
        if transform is None and self.card.kind != "image":
            raise UsageError(f"a dataset of kind {self.card.kind!r} has no default transform: name one.")
        return TorchSamples(self, transform or ImageAndSkeleton(size, style), shuffle_seed, rank, world_size)

    def hf_features(self) -> Any:
        """The types of the tars, for `datasets.load_dataset("webdataset", data_files=..., features=...)`, of images.
        Without them it goes by the first five samples, and fails where a column that is empty there is not later.

        Raises:
            LposekitError: the package `datasets` is not installed.
        """
        from lposekit.shards.hf_features import hf_features

        return hf_features(self)

    def thumbnails(self) -> pa.Table:
        """Small images (column `jpeg`) of rows that were seen and turned down."""
        layout = DatasetLayout(self.root)
        return pa.concat_tables(
            [table for shard in self.shards if (table := thumbnails_of(layout, shard.shard)) is not None]
        )


def thumbnails_of(layout: DatasetLayout, shard: int, where: pc.Expression | None = None) -> pa.Table | None:
    """The small images of a shard (columns `key`, `outcome`, `jpeg`), those for which `where` holds; None if the shard
    has none.

    Raises:
        LposekitError: they are damaged or refused.
    """
    path = layout.thumbnails(shard)
    try:
        there = kind_of(layout.store, layout.relative(path)) is not None
    except OSError as error:
        raise LposekitError(f"{path}: cannot be read ({error}).") from error
    return shard_table(layout, path, where=where) if there else None


def read_members(shard: ShardIndex, row: int) -> dict[str, bytes]:
    """The members of one sample, read by offset.

    Raises:
        LposekitError: the tar is shorter than its index says, or refused.
    """
    members = {}
    try:
        with contextlib.closing(shard.store.open(shard.tar_name)) as file:
            if file.size != shard.tar_bytes:
                raise LposekitError(
                    f"shard {shard.tar_path}: {file.size} bytes, its commit says {shard.tar_bytes}. "
                    "Run `lposekit verify` on it."
                )
            for name, (offset, size) in shard.members(row).items():
                members[name] = file.read(offset, size)
                if len(members[name]) != size:
                    raise LposekitError(
                        f"shard {shard.tar_path}: cut short at sample {shard.key(row)}. Run `lposekit verify` on it."
                    )
    except OSError as error:
        raise LposekitError(
            f"shard {shard.tar_path}: sample {shard.key(row)} cannot be read ({error}). Run `lposekit verify` on it."
        ) from error
    return members


def open_dataset(dataset_dir: str | Path) -> PoseDataset:
    """Open a dataset folder that `make laion-pose` or `lposekit build-video-shards` wrote, or a copy of it in an object
    store (`s3://bucket/prefix`; needs `lposekit[s3]`).

    Needs numpy, OpenCV and pyarrow only. Shards without a commit marker do not exist for it; the size of each tar, as
    the folder's listing states it, is compared with its marker.

    Raises:
        LposekitError: no dataset there, or a shard is damaged.
    """
    layout = DatasetLayout(place_of(dataset_dir))
    shards = read_index(layout.root)
    for shard, problem in shards.size_problems():
        raise LposekitError(
            f"shard {shard.tar_path}: {problem}. Run `lposekit verify {layout.root}` to see all damage."
        )
    return PoseDataset(layout.root, read_card(layout), shards)
