"""A dataset folder as torch reads it: an iterable dataset for `torch.utils.data.DataLoader`. Imports torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lposekit.errors import UsageError
from lposekit.shards.index import ShardIndex

if TYPE_CHECKING:
    from lposekit.shards.dataset import PoseDataset, PoseSample

Transform = Callable[["PoseSample"], Any]


class ImageAndSkeleton:
    """What an image sample becomes by default: tensors of one size, cut from the middle, which can be batched.

    Gives `image` and `skeleton`, uint8 [3, size, size], RGB; `caption` and `key`, texts.
    """

    def __init__(self, size: int, style: str) -> None:
        self.size = size
        self.style = style

    def __call__(self, sample: PoseSample) -> dict[str, Any]:
        rgb_HWC = sample.rgb_HWC
        height, width = rgb_HWC.shape[:2]
        scale = self.size / min(height, width)
        tall, wide = max(self.size, round(height * scale)), max(self.size, round(width * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        scaled_HWC = np.asarray(cv2.resize(rgb_HWC, (wide, tall), interpolation=how), np.uint8)
        skeleton_HWC = sample.skeleton(self.style, size=(tall, wide))
        image, skeleton = self._middle(scaled_HWC), self._middle(skeleton_HWC)
        return {"key": sample.key, "caption": sample.caption, "image": image, "skeleton": skeleton}

    def _middle(self, image_HWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        top, left = (image_HWC.shape[0] - self.size) // 2, (image_HWC.shape[1] - self.size) // 2
        cut_HWC = image_HWC[top : top + self.size, left : left + self.size]
        return torch.from_numpy(np.ascontiguousarray(cut_HWC.transpose(2, 0, 1)))


class TorchSamples(IterableDataset[Any]):
    """The samples of a dataset, each once an epoch. See `PoseDataset.torch`."""

    def __init__(
        self, dataset: PoseDataset, transform: Transform, seed: int | None, rank: int, world_size: int
    ) -> None:
        if not 0 <= rank < world_size:
            raise UsageError(f"rank {rank} of {world_size} processes: ranks count from 0.")
        self._dataset = dataset
        self._transform = transform
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0

    def __repr__(self) -> str:
        order = "in order" if self._seed is None else f"shuffled by seed {self._seed}"
        return f"TorchSamples({self._dataset!r}, {order})"

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch; before the loader is iterated."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Samples of this process, those of all its workers together."""
        return sum(len(shard) for shard in self._shards()[self._rank :: self._world_size])

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for shard in self._shards()[self._rank :: self._world_size][first::step]:
            rows = list(range(len(shard)))
            if self._seed is not None:
                random.Random(f"{self._seed}:{self._epoch}:{shard.shard}").shuffle(rows)
            yield from (self._transform(self._dataset.sample(shard, row)) for row in rows)

    def _shards(self) -> list[ShardIndex]:
        """In the order of the epoch: the same in every process and worker."""
        shards = list(self._dataset.shards)
        if self._seed is not None:
            random.Random(f"{self._seed}:{self._epoch}").shuffle(shards)
        return shards
