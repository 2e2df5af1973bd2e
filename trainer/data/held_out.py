"""Which samples are held out of training: a pure function of their keys, so that a row of the source goes with all of
its clips, and always to the same side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lposekit.records import KEY_ROW_DIGITS
from trainer.data.catalog import Dataset
from trainer.data.order import SampleRef

MOST = 0.01
"""Of the samples that may be held out."""
FEWEST = 16
"""Samples that are worth holding out: what would give fewer gives none."""
WATCH_VISIT = 1 << 40
"""A visit that no training reaches: the random numbers of what is watched are its own."""
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of every shard of every dataset. trained: None for all rows of a shard. held: the rest."""

    trained: tuple[tuple[Rows | None, ...], ...]
    held: tuple[tuple[Rows | None, ...], ...]

    @property
    def num_held(self) -> int:
        return sum(len(rows) for shards in self.held for rows in shards if rows is not None)

    def sizes(self, datasets: Sequence[Dataset]) -> list[list[int]]:
        """Number of samples of each shard that are trained on."""
        return [
            [len(shard) if rows is None else len(rows) for shard, rows in zip(dataset.shards, trained, strict=True)]
            for dataset, trained in zip(datasets, self.trained, strict=True)
        ]

    def is_held(self, ref: SampleRef) -> bool:
        rows = self.held[ref.dataset][ref.shard]
        return rows is not None and ref.row in rows

    def held_refs(self) -> list[SampleRef]:
        """The samples that are held out, in the order of the data."""
        return [
            SampleRef(d, s, row, WATCH_VISIT)
            for d, shards in enumerate(self.held)
            for s, rows in enumerate(shards)
            if rows is not None
            for row in rows.tolist()
        ]


def split_datasets(datasets: Sequence[Dataset], wanted: int) -> Split:
    """About `wanted` samples of all datasets together held out, at most one in a hundred; none where that would give
    too few to say anything."""
    total = sum(len(shard) for dataset in datasets for shard in dataset.shards)
    share = min(wanted, MOST * total) / max(total, 1)
    if share * total < FEWEST:
        nothing = tuple(tuple(None for _ in dataset.shards) for dataset in datasets)
        return Split(nothing, nothing)
    chosen = [
        [row_hashes(shard.row_names(), len(shard.name) + KEY_ROW_DIGITS) < share for shard in dataset.shards]
        for dataset in datasets
    ]
    return Split(
        trained=tuple(tuple(np.flatnonzero(~held) if held.any() else None for held in shards) for shards in chosen),
        held=tuple(tuple(np.flatnonzero(held) if held.any() else None for held in shards) for shards in chosen),
    )


def row_hashes(keys_N: npt.NDArray[np.str_], length: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for the first `length` characters of each key: those of the source's row, without the number
    of a clip."""
    hashes_N = np.full(len(keys_N), _OFFSET)
    width = keys_N.dtype.itemsize // 4
    characters_NC = np.ascontiguousarray(keys_N).view(np.uint32).reshape(len(keys_N), width) if len(keys_N) else None
    for column in range(min(length, width) if characters_NC is not None else 0):
        hashes_N = (hashes_N ^ characters_NC[:, column].astype(np.uint64)) * _PRIME  # pyright: ignore
    # of neighbouring rows only the low bits differ: spread them over all
    hashes_N = (hashes_N ^ (hashes_N >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes_N = (hashes_N ^ (hashes_N >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return (hashes_N >> np.uint64(11)).astype(np.float64) / 2.0**53
