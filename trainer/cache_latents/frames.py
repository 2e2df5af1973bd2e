"""The frames of a sample that a cache holds, decoded and cropped as training decodes and crops them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.shards.index import ShardIndex
from trainer.data.catalog import Dataset
from trainer.data.decode import (
    ClipPlan,
    DamagedSample,
    Framing,
    decode_clip,
    decode_training_image,
    read_clip_facts,
)
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom
from trainer.data.reader import damaged_sample

FRAMES_AT_ONCE = 64
"""Of a clip that are decoded at a time: at 512 px, 50 MB."""


@dataclass(frozen=True, slots=True)
class FrameReader:
    """Reads the frames of a dataset's samples. `clip` None: images."""

    dataset: Dataset
    framing: Framing
    clip: ClipPlan | None = None

    def count(self, shard: ShardIndex, row: int) -> int:
        """How many frames of a sample are cached. Raises LposekitError: its facts are damaged."""
        return 1 if self.clip is None else len(self._needed(self.clip, shard, row))

    def frames(self, shard: ShardIndex, row: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Each of them, uint8 [size, size, 3]. Raises LposekitError: the sample is damaged."""
        # nothing is drawn of what a cache can hold, so any draw will do
        random = SampleRandom(0, SampleRef(0, 0, row, 0))
        try:
            if self.clip is None:
                by_pose = self.framing.crop == "person"
                read = self.dataset.read(shard, row, ["jpg", "pose.json"] if by_pose else ["jpg"])
                yield decode_training_image(read["jpg"], self.framing, random, read.get("pose.json"))[0]
                return
            mp4, needed = self.dataset.read(shard, row, ["mp4"])["mp4"], self._needed(self.clip, shard, row)
            for first in range(0, len(needed), FRAMES_AT_ONCE):
                yield from decode_clip(mp4, needed[first : first + FRAMES_AT_ONCE], self.framing, random)
        except DamagedSample as error:
            raise damaged_sample(self.dataset, shard, row, error) from error

    def _needed(self, clip: ClipPlan, shard: ShardIndex, row: int) -> npt.NDArray[np.int64]:
        try:
            num_frames, fps = read_clip_facts(self.dataset.read(shard, row, ["json"])["json"])
        except DamagedSample as error:
            raise damaged_sample(self.dataset, shard, row, error) from error
        return clip.needed_frames(num_frames, fps)


def shard_of_plan(dataset: Dataset, place: int, number: int, tar_sha256: str) -> ShardIndex:
    """The shard at a place of a dataset. Raises LposekitError: another one is there since the run began."""
    if place < len(dataset.shards):
        shard = dataset.shards[place]
        if (int(shard.name), shard.tar_sha256) == (number, tar_sha256):
            return shard
    raise LposekitError(f"{dataset.root} has changed since the run began. Run the same command again.")
