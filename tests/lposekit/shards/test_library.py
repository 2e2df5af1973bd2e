"""Contract of the library's way in: short texts for what is printed, rows for pandas, samples for torch's loader in
batches, with workers and shuffled by shard, and none of it imported before it is asked for."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import lposekit
from lposekit.errors import LposekitError, UsageError
from lposekit.keypoints import KEYPOINT_FORMATS
from lposekit.shards.dataset import PoseSample
from tests.support.dataset_folder import make_dataset
from tests.support.fixtures import REPOSITORY


def key_of(sample: PoseSample) -> str:
    return sample.key


def test_what_is_printed_is_short_and_says_what_is_there(tmp_path: Path) -> None:
    # Mutation tried: the dataclass's own repr -> the bytes of the image on the screen.
    dataset = lposekit.open_dataset(make_dataset(tmp_path / "d").root)
    sample = dataset[1]
    assert repr(dataset) == f"PoseDataset('{tmp_path / 'd'}': image, 8 samples in 2 shards)"
    assert repr(sample) == "PoseSample(000000001: jpg json pose.json txt, 'caption 1')"
    assert repr(dataset.card) == "DatasetCard(image, 8 samples of 16 rows in 2 shards, lposekit unknown)"
    assert repr(sample.persons) == "[Person(box 10 20 160 170, score 0.90, 17 keypoints, best 0.90)]"
    assert repr(KEYPOINT_FORMATS["wholebody133"]) == "KeypointFormat(wholebody133: 133 keypoints)"


def test_rows_go_to_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = lposekit.open_dataset(make_dataset(tmp_path / "d").root)
    frame = dataset.to_pandas()
    assert len(frame) == 16
    assert frame.groupby("outcome").size().to_dict() == {"few_keypoints": 4, "http_4xx": 4, "kept": 8}
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LposekitError, match="pip install pandas"):
        dataset.to_pandas()


def test_torchs_loader_batches_images_and_skeletons(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    dataset = lposekit.open_dataset(make_dataset(tmp_path / "d").root)
    samples = dataset.torch(size=96)
    assert len(samples) == 8
    first, second = DataLoader(samples, batch_size=5)
    assert first["image"].shape == first["skeleton"].shape == (5, 3, 96, 96)
    assert second["image"].shape == (3, 3, 96, 96)
    assert first["caption"][2] == "caption 4"
    assert [*first["key"], *second["key"]] == [sample.key for sample in dataset]
    assert abs(int(first["image"][1, 1, 48, 48]) - 31) <= 2, "not the colour of row 1"
    assert first["skeleton"][0].any()


def test_every_sample_comes_once_an_epoch_with_workers_and_processes_in_an_order_of_its_own(tmp_path: Path) -> None:
    # Mutations tried: workers that all take every shard; an order that does not depend on the epoch; ranks that each
    # shuffle by themselves.
    from torch.utils.data import DataLoader

    dataset = lposekit.open_dataset(make_dataset(tmp_path / "d", num_shards=5).root)
    keys = [sample.key for sample in dataset]
    samples = dataset.torch(key_of, shuffle_seed=3)
    alone = list(samples)
    assert sorted(alone) == keys
    assert alone != keys
    shards = [key[:5] for key in alone]
    assert sum(a != b for a, b in itertools.pairwise(shards)) == 4, "read to and fro between shards"
    assert list(samples) == alone
    with_workers = [key for batch in DataLoader(samples, batch_size=3, num_workers=2) for key in batch]
    assert sorted(with_workers) == keys
    samples.set_epoch(1)
    assert sorted(samples) == keys
    assert list(samples) != alone
    ranks = [dataset.torch(key_of, shuffle_seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(key for rank in ranks for key in rank) == keys
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]
    with pytest.raises(UsageError, match="rank 2 of 2"):
        dataset.torch(key_of, rank=2, world_size=2)


def test_nothing_heavy_is_imported_before_it_is_asked_for(tmp_path: Path) -> None:
    # Mutation tried: `torch_samples` imported at the top of `dataset.py`.
    root = make_dataset(tmp_path / "d", 1).root
    code = (
        f"import sys, lposekit; dataset = lposekit.open_dataset({str(root)!r}); dataset[0].rgb_HWC; repr(dataset)\n"
        "print({'torch', 'datasets', 'ray', 'mmpose'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
