"""Contract of the sample order: a pure function of (sizes, weights, seed, epoch); no sample lost, none twice in an
epoch; any place of the stream is as cheap as its start; batches cross epochs."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from lposekit.errors import LposekitError, UsageError
from trainer.data.order import OrderState, SampleOrder, SampleRef

SIZES = [[7, 0, 5, 9], [4, 6]]
GOLDEN = [(0, 0, 0), (0, 0, 2), (1, 0, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 1, 0)]


def order(seed: int = 1, weights: tuple[float, ...] = (1, 1), block: int = 8) -> SampleOrder:
    return SampleOrder(SIZES, weights, seed, block)


def epoch_of(stream: SampleOrder, epoch: int) -> list[SampleRef]:
    return stream.samples(epoch, 0, stream.epoch_size(epoch))


def every_sample() -> set[tuple[int, int, int]]:
    return {(d, s, r) for d, sizes in enumerate(SIZES) for s, size in enumerate(sizes) for r in range(size)}


@pytest.mark.parametrize("block", [1, 8, 1000])
def test_an_epoch_visits_every_sample_once(block: int):
    for epoch in range(3):
        refs = epoch_of(order(block=block), epoch)
        assert Counter(ref[:3] for ref in refs) == Counter(every_sample())
        assert {ref.visit for ref in refs} == {epoch}


def test_seed_and_epoch_change_the_order_and_nothing_else_does():
    assert epoch_of(order(), 0) == epoch_of(order(), 0)
    assert epoch_of(order(seed=2), 0) != epoch_of(order(), 0)
    assert [r[:3] for r in epoch_of(order(), 1)] != [r[:3] for r in epoch_of(order(), 0)]


def shards_in_order(stream: SampleOrder, epoch: int) -> list[int]:
    return [ref.shard for ref in epoch_of(stream, epoch)]


def test_shards_are_shuffled_by_seed_and_epoch():
    # mutations tried: shard order drawn without the epoch; without the seed. Blocks of one sample shuffle nothing
    # themselves, so what differs is the order of the shards
    def stream(seed: int) -> SampleOrder:
        return SampleOrder([[1] * 30], (1,), seed, block_samples=1)

    orders = [shards_in_order(stream(seed), epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_each_block_is_shuffled_by_seed_epoch_and_its_number():
    # mutations tried: the permutation of a block drawn without the seed, the epoch, the number of the block; one shard,
    # so only the blocks differ
    blocks = []
    for seed in (0, 1):
        stream = SampleOrder([[60]], (1,), seed, block_samples=20)
        for epoch in (0, 1):
            rows = [ref.row for ref in epoch_of(stream, epoch)]
            blocks += [tuple(row - start for row in rows[start : start + 20]) for start in (0, 20, 40)]
    assert len(set(blocks)) == 12
    assert all(sorted(block) == list(range(20)) for block in blocks)


def test_a_look_at_another_epoch_does_not_change_this_one():
    # mutation tried: the last block remembered by its number alone, whatever the epoch
    stream = order(block=1000)
    for epoch in (0, 1, 0):
        assert epoch_of(stream, epoch) == epoch_of(order(block=1000), epoch)


def test_a_weight_counts_to_the_thousandth():
    # mutation tried: weights rounded to tenths
    stream = SampleOrder([[10], [7]], (0.123, 1), 0)
    assert sum(stream.epoch_size(epoch) for epoch in range(1000)) == 1230 + 7000


def test_the_smallest_weight_waits_for_a_thousand_epochs():
    # mutation tried: three empty epochs in a row taken for no sample at all
    refs, state = SampleOrder([[1]], (0.001,), 0).draw(OrderState(), 2)
    assert [ref.visit for ref in refs] == [0, 1]
    assert state.epoch == 1999


def test_the_order_of_today_is_the_order_of_tomorrow():
    # a changed order would silently void every checkpoint: these values may never change
    refs = SampleOrder([[3, 2], [2]], (1, 1), 7, 4).samples(0, 0, 7)
    assert [ref[:3] for ref in refs] == GOLDEN


def test_a_stream_in_pieces_equals_the_stream_in_one():
    whole, _ = order().draw(OrderState(), 200)
    pieces, state = [], OrderState()
    for size in (1, 30, 31, 2, 100, 36):
        refs, state = order().draw(state, size)
        pieces += refs
    assert pieces == whole


def test_advancing_ends_where_drawing_does():
    stream, state = order(weights=(0.25, 1)), OrderState()
    for count in (1, 30, 0, 31, 2, 100):
        assert stream.advance(state, count) == stream.draw(state, count)[1]
        state = stream.advance(state, count)


def test_a_batch_crosses_the_end_of_an_epoch():
    size = order().epoch_size(0)
    refs, state = order().draw(OrderState(0, size - 2), 5)
    assert [ref.visit for ref in refs] == [0, 0, 1, 1, 1]
    assert state == OrderState(1, 3)


@pytest.mark.case(47)
def test_resuming_at_the_end_of_an_epoch_starts_the_next():
    size = order().epoch_size(0)
    refs, _ = order().draw(OrderState(0, size), 3)
    assert refs == order().samples(1, 0, 3)


@pytest.mark.case(47)
def test_resuming_behind_the_end_of_an_epoch_is_refused():
    with pytest.raises(LposekitError, match="belongs to other datasets"):
        order().draw(OrderState(0, order().epoch_size(0) + 1), 1)


def test_weights_visit_datasets_as_often_as_they_say():
    refs = [ref for epoch in range(4) for ref in epoch_of(order(weights=(0.25, 2)), epoch)]
    visits = Counter(ref[:3] for ref in refs)
    assert {visits[ref] for ref in visits if ref[0] == 0} == {1}
    assert {visits[ref] for ref in visits if ref[0] == 1} == {8}
    assert len(set(refs)) == len(refs), "each draw has a randomness of its own"


def test_no_sample_at_all_is_refused():
    with pytest.raises(UsageError, match="no sample"):
        SampleOrder([[0]], (1,), 0).draw(OrderState(), 1)


def test_samples_stay_within_their_block_of_neighbouring_shards():
    stream = SampleOrder([[100] * 50], (1,), 3, block_samples=400)
    refs = stream.samples(0, 0, 5000)
    for start in range(0, 5000, 400):
        assert len({ref.shard for ref in refs[start : start + 400]}) <= 5
    assert [r.row for r in refs[:100]] != sorted(r.row for r in refs[:100])


def test_a_million_samples_in_are_as_near_as_none():
    stream = SampleOrder([[1000] * 10_000], (1,), 0)
    start = time.perf_counter()
    SampleOrder([[1000] * 10_000], (1,), 0).draw(OrderState(0, 0), 64)
    from_zero = time.perf_counter() - start
    start = time.perf_counter()
    stream.draw(OrderState(0, 9_100_000), 64)
    assert time.perf_counter() - start < from_zero + 0.2
