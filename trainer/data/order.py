"""Which sample comes when: a pure function of the shards' sizes, the weights, the seed and the epoch.

Nothing here knows of ranks, workers or files, so any number of them sees the same order, and a run resumes anywhere
at the cost of starting at 0 (docs/decisions/2026-11-20-trainer-order.md). An epoch is made in three moves:

1. Each shard gives its samples: all of them at weight 1; at weight 0.25 a quarter, the next quarter in the next
   epoch; at weight 2 all of them twice.
2. The shards are shuffled, samples within a shard staying together.
3. That list is cut into blocks of `block_samples`, and each block is shuffled within itself. So a reader is inside
   a few shards at a time, and what lies ahead of it is known.

Last batch: epochs follow one another without a gap, and a batch that begins at the end of one epoch is filled from the
next. All batches are whole, all ranks make the same number of steps, and no sample is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError, UsageError

Ints = npt.NDArray[np.int64]

DEFAULT_BLOCK_SAMPLES = 4096
_SHUFFLE_SHARDS, _SHUFFLE_BLOCK = 0, 1


class SampleRef(NamedTuple):
    """One draw of one sample: the row of a shard of a dataset. `visit` counts the earlier draws of that same sample
    (at weight 1: the epoch), so that (seed, *ref) names a draw and its randomness for good."""

    dataset: int
    shard: int
    row: int
    visit: int


@dataclass(frozen=True, slots=True)
class OrderState:
    """A place in the stream: `consumed` samples of `epoch` are gone, counted over all ranks. The others count where
    batches of images come between those of clips: see `trainer.data.joint_order`."""

    epoch: int = 0
    consumed: int = 0
    image_epoch: int = 0
    image_consumed: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The shards of one epoch in their shuffled order: arrays [N] of runs of rows."""

    dataset: Ints
    shard: Ints
    visit: Ints
    first_row: Ints
    ends: Ints
    """Where each run ends in the epoch's list of samples."""


@dataclass(slots=True)
class SampleOrder:
    """The endless stream of samples over all epochs.

    shard_sizes: for each dataset, the number of samples of each of its shards. weights: how often an epoch visits each
    dataset; rounded to thousandths. rows: for each shard, which of its rows are meant by its samples; None: all of
    them, as they come. All state is a cache.
    """

    shard_sizes: Sequence[Sequence[int]]
    weights: Sequence[float]
    seed: int
    block_samples: int = DEFAULT_BLOCK_SAMPLES
    rows: Sequence[Sequence[Ints | None]] = ()
    _pieces: dict[int, _Pieces] = field(default_factory=dict)
    _block: tuple[tuple[int, int], Ints] | None = None

    def epoch_size(self, epoch: int) -> int:
        """Number of samples of an epoch; the same for all epochs if all weights are whole numbers."""
        ends = self._plan(epoch).ends
        return int(ends[-1]) if len(ends) else 0

    def draw(self, state: OrderState, count: int) -> tuple[list[SampleRef], OrderState]:
        """The next `count` samples after `state`, and the state behind them. Costs the same anywhere.

        Raises:
            LposekitError: the state lies behind its epoch's end, so it belongs to other datasets, weights or settings.
        """
        refs: list[SampleRef] = []
        while len(refs) < count:
            state = self._skip_finished_epochs(state)
            wanted = min(count - len(refs), self.epoch_size(state.epoch) - state.consumed)
            refs += self.samples(state.epoch, state.consumed, state.consumed + wanted)
            state = OrderState(state.epoch, state.consumed + wanted)
        return refs, state

    def advance(self, state: OrderState, count: int) -> OrderState:
        """The state behind the next `count` samples, without looking them up."""
        while count:
            state = self._skip_finished_epochs(state)
            taken = min(count, self.epoch_size(state.epoch) - state.consumed)
            state, count = OrderState(state.epoch, state.consumed + taken), count - taken
        return state

    def samples(self, epoch: int, start: int, stop: int) -> list[SampleRef]:
        """Samples `start` to `stop` (excluded) of one epoch."""
        if start >= stop:
            return []
        blocks = range(start // self.block_samples, (stop - 1) // self.block_samples + 1)
        positions = np.concatenate([self._block_positions(epoch, block) for block in blocks])
        first = blocks[0] * self.block_samples
        positions = positions[start - first : stop - first]
        plan = self._plan(epoch)
        piece = np.searchsorted(plan.ends, positions, side="right")
        begins = np.concatenate([[0], plan.ends[:-1]])
        rows = plan.first_row[piece] + positions - begins[piece]
        columns = (plan.dataset[piece], plan.shard[piece], rows, plan.visit[piece])
        refs = [SampleRef(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
        return [self._row(ref) for ref in refs] if self.rows else refs

    def _row(self, ref: SampleRef) -> SampleRef:
        rows = self.rows[ref.dataset][ref.shard]
        return ref if rows is None else ref._replace(row=int(rows[ref.row]))

    def _skip_finished_epochs(self, state: OrderState) -> OrderState:
        size = self.epoch_size(state.epoch)
        if state.consumed > size:
            raise LposekitError(
                f"the data state says {state.consumed} samples of epoch {state.epoch} are consumed, but that "
                f"epoch has {size}: it belongs to other datasets or weights. Resume with those of the checkpoint."
            )
        empty = 0
        while state.consumed == self.epoch_size(state.epoch):
            state = OrderState(state.epoch + 1)
            empty += 1
            if empty > 1001:
                raise UsageError("the datasets have no sample, or all their weights are 0")
        return state

    def _block_positions(self, epoch: int, block: int) -> Ints:
        """Positions in the epoch's unshuffled list, in the order in which block `block` visits them."""
        if self._block is None or self._block[0] != (epoch, block):
            start = block * self.block_samples
            size = min(self.block_samples, self.epoch_size(epoch) - start)
            random = np.random.default_rng([self.seed, epoch, _SHUFFLE_BLOCK, block])
            self._block = (epoch, block), start + random.permutation(size)
        return self._block[1]

    def _plan(self, epoch: int) -> _Pieces:
        if epoch not in self._pieces:
            # two epochs at most are in use at any time: the one at its end and the one that begins
            self._pieces = {e: p for e, p in self._pieces.items() if e == epoch - 1}
            self._pieces[epoch] = _shuffled_pieces(self.shard_sizes, self.weights, self.seed, epoch)
        return self._pieces[epoch]


def _shuffled_pieces(shard_sizes: Sequence[Sequence[int]], weights: Sequence[float], seed: int, epoch: int) -> _Pieces:
    columns = [
        np.concatenate(parts)
        for parts in zip(
            *(
                _dataset_pieces(number, np.asarray(sizes, np.int64), weight, epoch)
                for number, (sizes, weight) in enumerate(zip(shard_sizes, weights, strict=True))
            ),
            strict=True,
        )
    ]
    shuffled = np.random.default_rng([seed, epoch, _SHUFFLE_SHARDS]).permutation(len(columns[0]))
    dataset, shard, visit, first_row, count = (column[shuffled] for column in columns)
    return _Pieces(dataset, shard, visit, first_row, np.cumsum(count))


def _dataset_pieces(number: int, sizes: Ints, weight: float, epoch: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """One dataset's part of an epoch: arrays dataset, shard, visit, first row and number of rows of each run.

    A shard's rows form an endless cycle; epoch e takes the stretch from e x weight to (e + 1) x weight cycles, cut
    where a cycle ends. So fractions add up exactly: after four epochs of weight 0.25 each sample was visited once.
    """
    share = Fraction(weight).limit_denominator(1000)
    start = epoch * share.numerator * sizes // share.denominator
    stop = (epoch + 1) * share.numerator * sizes // share.denominator
    cycle = np.maximum(sizes, 1)
    first_visit, last_visit = start // cycle, (stop - 1) // cycle
    runs = np.where(stop > start, last_visit - first_visit + 1, 0)
    shard = np.repeat(np.arange(len(sizes)), runs)
    within = np.arange(len(shard)) - np.repeat(np.cumsum(runs) - runs, runs)
    visit = first_visit[shard] + within
    low = np.maximum(start[shard], visit * sizes[shard])
    high = np.minimum(stop[shard], (visit + 1) * sizes[shard])
    return np.full(len(shard), number), shard, visit, low - visit * sizes[shard], high - low
