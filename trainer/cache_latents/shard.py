"""One shard of a cache: the frames of its samples -> batches -> moments -> one member a sample. Free of Ray.

Batches never cross shards and everything that decides a byte is in the card, so the same settings give the same bytes,
whoever encodes which shard.
"""

from __future__ import annotations

import io
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lposekit.errors import Outcome
from lposekit.recipe import Claim, ShardReport, WriteShard
from lposekit.shards.index import ShardIndex
from lposekit.shards.rows import RowResult, ShardKind
from lposekit.stage_times import StageTimes
from trainer.cache_latents.encoder import Encoder, Moments
from trainer.cache_latents.frames import FrameReader, shard_of_plan
from trainer.data.latent_cache import MEMBER

LATENT_SHARDS = ShardKind(
    {
        "key": pa.string(),
        "status": pa.string(),
        "error_message": pa.string(),
        "outcome": pa.string(),
        "frames": pa.int32(),
    }
)


@dataclass(frozen=True, slots=True)
class LatentsPlan:
    """One shard of the dataset: its place there, its number, and the hash of its tar."""

    place: int
    shard: int
    tar_sha256: str


@dataclass(frozen=True, slots=True)
class LatentsWorker:
    """Encodes one shard after the other. `write`: commits the rows."""

    claim: Claim
    reader: FrameReader
    encoder: Encoder
    batch_size: int
    write: WriteShard

    def build(self, plan: LatentsPlan) -> ShardReport:
        """Encode and commit one shard.

        Raises:
            LposekitError: a sample is damaged, the dataset changed, or the disk is full.
        """
        times = StageTimes()
        shard = shard_of_plan(self.reader.dataset, plan.place, plan.shard, plan.tar_sha256)
        rows = self._rows(shard, times)
        return self.write(self.claim, plan.shard, rows, LATENT_SHARDS, times, stats={"source_sha256": plan.tar_sha256})

    def _rows(self, shard: ShardIndex, times: StageTimes) -> Generator[RowResult, None, None]:
        counts: list[int] = []

        def images() -> Iterator[npt.NDArray[np.uint8]]:
            for row in range(len(shard)):
                counts.append(self.reader.count(shard, row))
                yield from times.each("decode", self.reader.frames(shard, row))

        moments = moments_of(images(), self.encoder, self.batch_size, times)
        for row in range(len(shard)):
            first = next(moments)
            # the first frame's moments are there, so its row's frames have been counted
            rest = itertools.islice(moments, counts[row] - 1)
            yield _row(shard.key(row), np.stack([first, *rest]))


def moments_of(
    images: Iterable[npt.NDArray[np.uint8]], encoder: Encoder, batch_size: int, times: StageTimes
) -> Iterator[Moments]:
    """The moments float16 [2C, h, w] of each image uint8 [H, W, 3], in order."""
    iterator = iter(images)
    pending: deque[Callable[[], Moments]] = deque()
    while group := list(itertools.islice(iterator, batch_size)):
        with times.stage("encode"):
            pending.append(encoder.submit(np.stack(group)))
        if len(pending) > encoder.ahead:
            yield from _fetched(pending.popleft(), times)
    while pending:
        yield from _fetched(pending.popleft(), times)


def _fetched(result: Callable[[], Moments], times: StageTimes) -> Moments:
    with times.stage("encode"):
        return result()


def _row(key: str, moments_FCHW: Moments) -> RowResult:
    outcome = Outcome.KEPT
    columns = {"key": key, "status": "success", "error_message": None, "outcome": outcome.value}
    sample = key, {MEMBER: _npy(moments_FCHW)}
    return RowResult(key, outcome, {**columns, "frames": len(moments_FCHW)}, (sample,))


def _npy(array: Moments) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()
