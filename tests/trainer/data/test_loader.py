"""Contract of the loader: the micro-batches of every process together are the global batches, in order, once; it
starts at any place as fast as at the first; whatever the training process did before, its workers do not hang."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from lposekit.errors import UsageError
from tests.support.train_data import write_dataset
from trainer.data.catalog import open_catalog
from trainer.data.decode import Framing, Skeleton
from trainer.data.loader import BatchSplit, SampleLoader
from trainer.data.order import OrderState, SampleOrder, SampleRef
from trainer.data.reader import SampleReader, SampleRecipe


def loader_of(root: Path, split: BatchSplit, workers: int = 0, size: int = 64) -> SampleLoader:
    datasets = open_catalog([root], "image")
    order = SampleOrder([[len(shard) for shard in dataset.shards] for dataset in datasets], [1], 0, 4)
    return SampleLoader(SampleReader(datasets, SampleRecipe(Framing(size), 0, Skeleton())), order, split, workers, 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("loader") / "data", [6, 5])


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_processes_together_see_the_global_batches(world: int, micro_batch: int, root: Path):
    whole = [batch.keys for batch in loader_of(root, BatchSplit(8, 8)).batches(OrderState(), 5)]
    parts = []
    for rank in range(world):
        split = BatchSplit(8, micro_batch, rank, world)
        batches = list(loader_of(root, split).batches(OrderState(), 5))
        assert len(batches) == 5 * split.passes, "equal steps on all processes"
        mine = [key for batch in batches for key in batch.keys]
        parts.append([mine[i : i + 8 // world] for i in range(0, len(mine), 8 // world)])
    assert [[key for part in step for key in part] for step in zip(*parts, strict=True)] == whole


def test_a_batch_that_cannot_be_divided_is_refused(root: Path):
    with pytest.raises(UsageError, match="cannot be divided among 3 processes"):
        next(loader_of(root, BatchSplit(8, 1, 0, 3)).batches(OrderState(), 1))


def test_the_stream_goes_on_where_a_state_says(root: Path):
    loader = loader_of(root, BatchSplit(4, 4))
    whole = [batch.keys for batch in loader.batches(OrderState(), 9)]
    state = loader.advance(OrderState(), 4)
    assert [batch.keys for batch in loader.batches(state, 5)] == whole[4:]


@pytest.mark.timeout(180)
def test_threads_of_opencv_in_this_process_do_not_hang_the_workers(root: Path):
    # mutation: cv2.setNumThreads(1) in the workers, not before the fork: it waits for threads that were not inherited
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((1024, 1024, 3), np.uint8), (31, 31), 5)
    large = write_dataset(root.parent / "large", [8], height=700, width=900)
    assert len(list(loader_of(large, BatchSplit(4, 4), workers=2, size=512).batches(OrderState(), 2))) == 2


@pytest.mark.timeout(180)
def test_a_loader_draws_no_number_from_the_global_generator(root: Path):
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    list(loader_of(root, BatchSplit(4, 4), workers=1).batches(OrderState(), 2))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.timeout(180)
def test_after_100_000_samples_the_first_batch_comes_as_fast_as_at_the_start(root: Path):
    # 11,000 shards: the same small tars, listed many times
    def first_batch_s(consumed: int) -> float:
        loader = loader_of(root, BatchSplit(16, 16))
        loader.reader = SampleReader(loader.reader.datasets * 5000, loader.reader.recipe)
        loader.order = SampleOrder([[6, 5]] * 5000, [1] * 5000, 0)
        start = time.perf_counter()
        next(loader.batches(OrderState(consumed // 55_000, consumed % 55_000), 1))
        return time.perf_counter() - start

    assert first_batch_s(100_000) < first_batch_s(0) + 2


def test_a_sample_is_read_by_its_place_alone(root: Path):
    reader = loader_of(root, BatchSplit(4, 4)).reader
    assert reader.ref(6, 0) == SampleRef(0, 1, 0, 0)
    assert reader.read(reader.ref(10, 0)).caption == "image number 10"
    with pytest.raises(IndexError):
        reader.ref(11, 0)
