"""Contract of the split: held out by the source's row, always the same, about as many as asked for, and never trained
on; clips that are too short give way, and are counted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lposekit.errors import LposekitError, UsageError
from lposekit.records import sample_key
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter
from tests.support.train_data import POSE_CARD, clip_members, image_members
from tests.support.train_runs import keys, losses, make_older, settings_for
from trainer.data import held_out as module
from trainer.data.held_out import row_hashes, split_datasets
from trainer.data.order import SampleOrder
from trainer.run.metrics import read_metrics
from trainer.settings import ClipSamplingSettings, LoaderSettings, WatchSettings
from trainer.train import run


class FakeShard(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.keys)

    def row_names(self) -> np.ndarray:
        return self.keys


def dataset(shards: int, rows: int, clips: int = 0) -> Any:
    made = []
    for number in range(shards):
        suffixes = [f"{clip:04d}" for clip in range(clips)] if clips else [""]
        named = [sample_key(number, row) + suffix for row in range(rows) for suffix in suffixes]
        made.append(FakeShard(name=f"{number:05d}", keys=np.array(named)))
    return SimpleNamespace(shards=tuple(made))


@pytest.mark.parametrize(("rows", "wanted", "expected"), [(10_000, 2048, 1000), (10_000, 300, 300), (100, 2048, 0)])
def test_one_in_a_hundred_is_held_out_or_as_many_as_asked_for(rows: int, wanted: int, expected: int):
    # mutation: no limit of one in a hundred
    split = split_datasets([dataset(10, rows)], wanted)
    assert split.num_held == pytest.approx(expected, rel=0.15)


def test_all_clips_of_a_video_are_on_one_side():
    # mutation: the hash of the whole key -> red
    data = dataset(20, 100, clips=7)
    split = split_datasets([data], 2048)
    assert split.num_held > 0
    for number, rows in enumerate(split.held[0]):
        if rows is not None:
            videos = {str(data.shards[number].keys[row])[:9] for row in rows}
            assert len(rows) == 7 * len(videos)


def test_hashes_of_neighbouring_rows_are_spread():
    keys_N = np.array([sample_key(3, row) for row in range(10_000)])
    hashes_N = row_hashes(keys_N, 9)
    assert abs(hashes_N.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(hashes_N[:-1], hashes_N[1:])[0, 1]) < 0.05
    assert np.array_equal(hashes_N[[5, 9]], row_hashes(keys_N[[5, 9]], 9)), "whatever lies beside them"


def test_an_epoch_has_every_sample_but_those_held_out():
    # mutation: rows not looked up -> red
    data = dataset(6, 500)
    split = split_datasets([data], 2048)
    order = SampleOrder(split.sizes([data]), [1], 0, 64, split.trained)
    seen = order.samples(0, 0, order.epoch_size(0))
    held = {ref[:3] for ref in split.held_refs()}
    assert held
    assert {ref[:3] for ref in seen} == {(0, s, r) for s in range(6) for r in range(500)} - held
    assert len(seen) == 3000 - len(held)
    assert all(not split.is_held(ref) for ref in seen)
    assert all(split.is_held(ref) for ref in split.held_refs())


def write_rows(root: Path, kind: str, *shards: list[dict[str, bytes]]) -> Path:
    """A dataset of these shards."""
    root.mkdir()
    layout = DatasetLayout(root)
    claim_folder(layout, DatasetCard.from_json({"kind": kind, "fixed": {"made_by": "tests"}, **POSE_CARD}))
    for shard, members in enumerate(shards):
        writer, rows = ShardWriter(layout, shard, "test"), []
        for row, each in enumerate(members):
            key = sample_key(shard, row) + ("0000" if kind == "video" else "")
            writer.add(key, each)
            rows.append({"key": key, "outcome": "kept"})
        writer.commit(pa.Table.from_pylist(rows), ShardStats(count=len(rows), outcomes={"kept": len(rows)}))
    update_card(layout)
    return root


WATCH = WatchSettings(
    keys=True, probe_every=2, probe_samples=2, sample_every=0, tensorboard=False, mfu=False, validation_samples=3
)
HOLDS_OUT = LoaderSettings(workers=0, block_samples=4, held_out=5)


def test_a_run_never_trains_on_what_it_is_watched_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutation: the order of all samples -> red
    monkeypatch.setattr(module, "MOST", 0.5)
    monkeypatch.setattr(module, "FEWEST", 2)
    data = write_rows(tmp_path / "data", "image", [image_members(number) for number in range(16)])
    split = split_datasets([_opened(data)], 5)
    held = {str(_opened(data).shards[0].keys[ref.row]) for ref in split.held_refs()}
    assert 2 <= len(held) <= 10
    run(settings_for(1, tmp_path / "run", data=(data,), loader=HOLDS_OUT, watch=WATCH))
    trained = {key for _, step in keys(tmp_path / "run") for key in step}
    assert trained
    assert not trained & held
    lines = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "validation/loss" in line]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8]
    assert all(0 < line["validation/loss"] < 10 for line in lines)


def test_a_run_is_watched_by_samples_that_are_held_out_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutations: the validation loss, then the probe, of training samples -> red each
    monkeypatch.setattr(module, "MOST", 0.5)
    monkeypatch.setattr(module, "FEWEST", 2)

    def watched_by(name: str, numbers: list[int]) -> tuple[set[int], list[float]]:
        """Rows that are held out of a dataset of these samples, and what its run measures before the first step."""
        data = write_rows(tmp_path / name, "image", [image_members(number) for number in numbers])
        held = {ref.row for ref in split_datasets([_opened(data)], 5).held_refs()}
        run(settings_for(1, tmp_path / f"{name}-run", data=(data,), loader=HOLDS_OUT, watch=WATCH, max_steps=1))
        first = read_metrics(tmp_path / f"{name}-run/metrics.jsonl")[0]
        return held, [first["validation/loss"], first["probe/matching_pose"]]

    held, found = watched_by("plain", list(range(16)))
    _, trained_changed = watched_by("trained-changed", [row if row in held else 100 + row for row in range(16)])
    assert trained_changed == found
    _, held_changed = watched_by("held-changed", [100 + row if row in held else row for row in range(16)])
    assert all(other != before for other, before in zip(held_changed, found, strict=True))


def _opened(root: Path) -> Any:
    from trainer.data.catalog import open_dataset_folder

    return open_dataset_folder(root)


def test_a_small_dataset_holds_nothing_out_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    run(settings_for(1, tmp_path / "run", watch=WATCH, max_steps=2))
    assert "no sample is held out" in caplog.text
    assert not [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "validation/loss" in line]


def test_a_run_of_an_older_version_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # mutations: the split of now on resume -> refused; only where the checkpoint says nothing -> the second
    # resume is refused
    data = write_rows(tmp_path / "data", "image", [image_members(number) for number in range(16)])
    older = LoaderSettings(workers=0, block_samples=4, held_out=0)
    now = LoaderSettings(workers=0, block_samples=4)
    run(settings_for(1, tmp_path / "whole", data=(data,), loader=older, max_steps=6))
    run(settings_for(1, tmp_path / "parted", data=(data,), loader=older, max_steps=2))
    make_older(tmp_path / "parted", 2)
    monkeypatch.setattr(module, "MOST", 0.5)
    monkeypatch.setattr(module, "FEWEST", 2)
    for steps in (4, 6):
        run(settings_for(1, tmp_path / "parted", data=(data,), loader=now, max_steps=steps))
    assert keys(tmp_path / "parted") == keys(tmp_path / "whole")
    assert losses(tmp_path / "parted") == losses(tmp_path / "whole")
    run(settings_for(1, tmp_path / "new", data=(data,), loader=now, max_steps=6))
    assert keys(tmp_path / "new") != keys(tmp_path / "whole")
    with pytest.raises(UsageError, match="held_out: 2048 -> 0"):
        run(settings_for(1, tmp_path / "new", data=(data,), loader=older, max_steps=8))


def test_a_clip_that_is_too_short_gives_way_and_is_counted(tmp_path: Path):
    # mutations: the last frame repeated -> red; not counted -> red
    members = [clip_members(number, num_frames=20 if number % 2 else 3) for number in range(4)]
    data = write_rows(tmp_path / "data", "video", members)
    clip = ClipSamplingSettings(frames=5, stride=1)
    run(settings_for(2, tmp_path / "run", data=(data,), clip=clip, max_steps=3))
    seen = [key for _, step in keys(tmp_path / "run") for key in step]
    assert sorted(set(seen)) == ["0000000010000", "0000000030000"]
    last = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if "short_clips" in line][-1]
    assert last["short_clips"] == 6
    repeated = ClipSamplingSettings(frames=5, stride=1, short="repeat")
    run(settings_for(2, tmp_path / "repeated", data=(data,), clip=repeated, max_steps=1))
    assert len(set(keys(tmp_path / "repeated")[0][1])) == 4


def test_the_clips_of_a_shard_that_are_all_too_short_give_way_to_those_of_the_next_one(tmp_path: Path):
    # Mutation tried: only the shard of the draw is looked at -> the run ends with an error.
    members = [clip_members(number, num_frames=3 if number < 2 else 20) for number in range(4)]
    data = write_rows(tmp_path / "data", "video", members[:2], members[2:])
    run(settings_for(2, tmp_path / "run", data=(data,), clip=ClipSamplingSettings(frames=5, stride=1), max_steps=3))
    seen = {key for _, step in keys(tmp_path / "run") for key in step}
    assert seen == {"0000100000000", "0000100010000"}


def test_data_whose_clips_are_all_too_short_is_refused(tmp_path: Path):
    data = write_rows(tmp_path / "data", "video", [clip_members(number, num_frames=3) for number in range(2)])
    with pytest.raises(LposekitError, match=r"shard 00000 of .*: neither its clips .* have 5 frames. Lower --clip.fra"):
        run(settings_for(2, tmp_path / "run", data=(data,), clip=ClipSamplingSettings(frames=5, stride=1)))
    assert json.loads((tmp_path / "run/run.json").read_text())["frames"] == 5
