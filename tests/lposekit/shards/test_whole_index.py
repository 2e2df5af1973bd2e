"""Contract of the index of a whole dataset: it says what the shards' own indexes say, whatever has happened to the
shards, to the index itself or to the folder since it was made; and it is made once."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import lposekit
from lposekit.errors import LposekitError
from lposekit.shards import whole_index
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.index import ShardIndex, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.packed import HEAD_BYTES, SAMPLE, SHARD
from lposekit.shards.stats import ShardStats
from lposekit.shards.verify import verify_dataset
from lposekit.shards.whole_index import ShardList, read_index
from lposekit.shards.writer import ShardWriter

Samples = Mapping[str, Mapping[str, bytes]]


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small folders keep their index too, and the user's cache is empty."""
    monkeypatch.setattr("lposekit.shards.whole_index.KEPT_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put(layout: DatasetLayout, shard: int, samples: Samples) -> None:
    """Commit a shard, or replace it, as `retry` does."""
    writer = ShardWriter(layout, shard, "test")
    for key, members in samples.items():
        writer.add(key, members)
    table = pa.table({"key": list(samples), "outcome": ["kept"] * len(samples)}, schema=ROWS)
    writer.commit(table, ShardStats(count=len(samples), outcomes={"kept": len(samples)} if samples else {}))


ROWS = pa.schema([("key", pa.string()), ("outcome", pa.string())])


def images(shard: int, rows: range, text: bytes = b"a") -> Samples:
    members = {"jpg": b"image", "json": b"{}", "pose.json": b"{}" * shard, "txt": text}
    return {f"{shard:05d}{row:04d}": members for row in rows}


FORMS: dict[str, dict[int, Samples]] = {
    "images": {0: images(0, range(3)), 1: images(1, range(2, 9)), 2: {}, 7: images(7, range(1))},
    "beyond 99,999": {shard: images(shard, range(2)) for shard in (99_999, 100_000, 1_234_567, 9)},
    "clips": {
        0: {f"00000{row:04d}{clip:04d}": {"mp4": b"x" * clip, "txt": b""} for row in range(3) for clip in (0, 2)}
    },
    "one member": {3: {f"000030{row:03d}": {"latents.npy": bytes(513)} for row in range(4)}},
    "absent members": {0: {"000000000": {"jpg": b"i", "txt": b"t"}, "000000001": {"txt": b"u"}}},
    "frames": {0: {"000000000": {f"{frame:06d}.jpg": b"f" * frame for frame in range(9)}}},
    "keys of one's own": {0: {"alice": {"txt": b"1"}, "bob": {"txt": b"2"}}, 1: images(1, range(2))},
    "another shard's keys": {0: images(0, range(2)), 1: images(5, range(2))},
}


def dataset_of(root: Path, shards: Mapping[int, Samples]) -> DatasetLayout:
    root.mkdir(parents=True)
    layout = DatasetLayout(root)
    claim_folder(layout, DatasetCard(fixed={}))
    for shard, samples in shards.items():
        put(layout, shard, samples)
    update_card(layout)
    return layout


def assert_same(found: ShardIndex, own: ShardIndex) -> None:
    assert found.keys.tolist() == own.keys.tolist() == [found.key(row) for row in range(len(own))]
    assert {name: array.tolist() for name, array in found.places.items()} == {
        name: array.tolist() for name, array in own.places.items()
    }
    for row, key in enumerate(own.keys.tolist()):
        assert list(found.members(row).items()) == list(own.members(row).items())
        assert found.row_of(key) == row
        assert all(found.member(row, name) == place for name, place in own.members(row).items())
    for name in (*own.places, "none"):
        assert found.lacking(name).tolist() == own.lacking(name).tolist()
    for strange in ("", "00000", "000000009", "000000000x", "00001000", "9" * 40, "00000²000"):
        assert found.row_of(strange) is None or strange in own.keys
    for name in ("shard", "name", "tar_name", "tar_bytes", "tar_sha256"):
        assert getattr(found, name) == getattr(own, name)
    assert found.same_keys(own)
    assert len(found) == len(own)


def assert_right(layout: DatasetLayout) -> ShardList:
    shards = read_index(layout.root)
    assert [shard.shard for shard in shards] == layout.committed_shards() == sorted(layout.committed_shards())
    for shard in shards:
        assert_same(shard, read_shard_index(layout, shard.shard))
    return shards


def forget_own_indexes(layout: DatasetLayout, *shards: int) -> None:
    """Nobody can read them again."""
    for shard in shards or layout.committed_shards():
        layout.index(shard).unlink()


@pytest.mark.parametrize("form", FORMS)
def test_it_says_what_the_shards_own_indexes_say(tmp_path: Path, form: str) -> None:
    # Mutations tried: padding of a member not counted -> no shard is regular; a key's shard not compared -> red
    layout = dataset_of(tmp_path / "d", FORMS[form])
    for _ in ("made", "kept"):
        shards = assert_right(layout)
        same = [shard.same_keys(other) for shard in shards for other in shards if len(shard)]
        assert sum(same) == sum(len(shard) > 0 for shard in shards)
    irregular = ("frames", "keys of one's own", "another shard's keys")
    assert shards.all_regular == (form not in irregular)
    samples = sum(map(len, FORMS[form].values()))
    most = HEAD_BYTES + SHARD.itemsize * len(FORMS[form]) + SAMPLE.itemsize * samples
    assert (SAMPLE.itemsize, layout.whole_index.stat().st_size <= most) == (32, True)
    assert len(lposekit.open_dataset(layout.root)) == samples


def test_it_is_read_instead_of_the_own_indexes(tmp_path: Path) -> None:
    # Mutations tried: the index never fits -> it is written again; nothing is taken over -> own indexes are missed
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    before = [shard.keys.tolist() for shard in read_index(layout.root)]
    forget_own_indexes(layout)
    written = layout.whole_index.stat().st_ino
    assert [shard.keys.tolist() for shard in read_index(layout.root)] == before
    assert lposekit.open_dataset(layout.root)[4].key == "000010003"
    assert layout.whole_index.stat().st_ino == written


def test_few_shards_leave_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lposekit.shards.whole_index.KEPT_FROM", 64)
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    assert_right(layout)
    assert not layout.whole_index.exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("times", ["new", "old", "those of before"])
def test_a_replaced_shard_is_seen_and_only_that_one_is_read_again(tmp_path: Path, times: str) -> None:
    # Mutations tried: markers' sizes alone compared; times alone; young markers believed ("those of before") -> red
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    read_index(layout.root)
    before = layout.stats(1).stat()
    forget_own_indexes(layout, 0, 2, 7)
    put(layout, 1, images(1, range(2, 9), b"b"))
    assert layout.stats(1).stat().st_size == before.st_size
    if times != "new":
        ns = before.st_mtime_ns - (10**12 if times == "old" else 0)
        os.utime(layout.stats(1), ns=(ns, ns))
    shards = read_index(layout.root)
    assert_same(shards[1], read_shard_index(layout, 1))
    assert shards[1].tar_sha256 == layout.read_stats(1).files["00001.tar"].sha256


def test_shards_that_come_and_go_are_seen(tmp_path: Path) -> None:
    # Mutation tried: no comparison of the number of shards -> red
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    assert_right(layout)
    put(layout, 4, images(4, range(3)))
    assert [len(shard) for shard in assert_right(layout)] == [3, 7, 0, 3, 1]
    for path in (layout.stats(0), layout.tar(0)):
        path.unlink()
    assert [len(shard) for shard in assert_right(layout)] == [7, 0, 3, 1]


def test_a_copied_folder_keeps_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutation tried: markers of other times are changed ones -> red
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    read_index(layout.root)
    forget_own_indexes(layout)
    shutil.copytree(layout.root, tmp_path / "e", copy_function=shutil.copyfile)
    monkeypatch.setattr("lposekit.shards.whole_index.COPIED_FROM", 1)
    inode = DatasetLayout(tmp_path / "e").whole_index.stat().st_ino
    assert [len(shard) for shard in read_index(tmp_path / "e")] == [3, 7, 0, 1]
    assert DatasetLayout(tmp_path / "e").whole_index.stat().st_ino != inode, "written anew, with the times of now"


def test_a_damaged_index_is_made_anew_or_refused(tmp_path: Path) -> None:
    # Mutations tried: no check of the length; none of `_check_shards`; names not checked -> IndexError, ValueError
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    assert_right(layout)
    whole, rng = layout.whole_index.read_bytes(), random.Random(0)
    table = len(whole) - SHARD.itemsize * 4
    wrong = [b"", b"x", whole[:-1], whole + b"x", whole[:HEAD_BYTES], b"\xff" * len(whole), bytes(len(whole))]
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.choice([rng.randrange(90), rng.randrange(table, len(whole))])] ^= 1 << rng.randrange(8)
        wrong.append(bytes(flipped))
    for data in wrong:
        layout.whole_index.write_bytes(data)
        outcome = every_place_of(layout)
        assert outcome == "" or "index.bin" in outcome or "lposekit verify" in outcome


def every_place_of(layout: DatasetLayout) -> str:
    """Looks at all of them; the message, where an index is refused."""
    try:
        for shard in read_index(layout.root):
            for row in range(len(shard)):
                places = shard.members(row).values()
                assert all(0 <= offset <= shard.tar_bytes - size for offset, size in places), shard.name
    except LposekitError as error:
        return str(error)
    return ""


WILD = {"start": 2**40, "start at the end": 2**64 - 1, "size": 2**31, "size of all": 2**32 - 2}


@pytest.mark.case(75)
@pytest.mark.parametrize("what", WILD)
def test_a_place_outside_its_tar_is_refused_before_it_is_read(tmp_path: Path, what: str) -> None:
    # Mutation tried: no comparison with the tar's bytes in `members` -> a read beyond the end
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    read_index(layout.root)
    data = bytearray(layout.whole_index.read_bytes())
    samples = np.frombuffer(data, SAMPLE, 11, HEAD_BYTES)
    samples[1][what.split()[0] + ("s" if what.startswith("size") else "")] = WILD[what]
    layout.whole_index.write_bytes(data)
    shard = read_index(layout.root)[0]
    for read in (lambda: shard.members(1), lambda: shard.places, lambda: lposekit.open_dataset(layout.root)[1]):
        with pytest.raises(LposekitError, match=r"shard 00000 .*sample 000000001.*index\.bin"):
            read()


@pytest.mark.case(71)
@pytest.mark.parametrize("thing", ["link", "pipe", "folder"])
def test_what_stands_in_its_place_is_neither_read_nor_written_through(tmp_path: Path, thing: str) -> None:
    # Mutation tried: index written with `open("wb")` -> the file behind the link is overwritten
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    (tmp_path / "secret").write_bytes(b"secret")
    make = {"link": lambda path: path.symlink_to(tmp_path / "secret"), "pipe": os.mkfifo, "folder": os.mkdir}
    make[thing](layout.whole_index)
    assert_right(layout)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    if thing == "folder":  # as a folder that cannot be written to
        assert list((tmp_path / "cache/lposekit/indexes").glob("*.bin"))
        forget_own_indexes(layout)
        assert len(read_index(layout.root)) == 4


def test_verify_tells_an_index_that_lies_or_is_damaged(tmp_path: Path) -> None:
    # Mutations tried: `of_shard` not called; `damage` not called -> red
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    assert_right(layout)
    assert [f for f in verify_dataset(layout.root) if "index.bin" in f.where] == []
    data = bytearray(layout.whole_index.read_bytes())
    np.frombuffer(data, SAMPLE, 11, HEAD_BYTES)[4]["start"] += 512
    layout.whole_index.write_bytes(data)
    [found] = [f for f in verify_dataset(layout.root) if "index.bin" in f.where]
    assert "says otherwise of shard 00001 than its own index: remove it" in str(found)
    layout.whole_index.write_bytes(b"damaged")
    [found] = [f for f in verify_dataset(layout.root) if "index.bin" in f.where]
    assert "remove it" in str(found)


def test_a_tar_that_was_cut_is_named_when_opened_and_when_read(tmp_path: Path) -> None:
    # Mutation tried: no sizes from the listing -> opened; no size in `read_members` -> read
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    dataset = lposekit.open_dataset(layout.root)
    with layout.tar(1).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(LposekitError, match=r"00001\.tar.*its commit says"):
        _ = dataset[3]
    with pytest.raises(LposekitError, match=r"00001\.tar has .*its commit says"):
        lposekit.open_dataset(layout.root)


def test_an_open_dataset_travels_to_another_process_without_its_index(tmp_path: Path) -> None:
    # Mutation tried: no `__reduce__` -> the mapped file cannot be pickled, or goes along whole
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    sent = pickle.dumps(lposekit.open_dataset(layout.root))
    assert len(sent) < 2000
    assert [sample.key for sample in pickle.loads(sent)] == [
        sample.key for sample in lposekit.open_dataset(layout.root)
    ]


OPEN = """
import lposekit.shards.whole_index as whole
whole.KEPT_FROM = 1
print([len(shard) for shard in whole.read_index({root!r})])
"""


def test_processes_that_open_a_folder_at_once_see_the_same(tmp_path: Path) -> None:
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    command = [sys.executable, "-c", OPEN.format(root=str(layout.root))]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0].strip() for process in processes} == {"[3, 7, 0, 1]"}
    assert not list(layout.meta.glob("*.partial"))


def test_shards_beyond_99_999_come_after_it_everywhere(tmp_path: Path) -> None:
    # Mutations tried: `by_number` that compares texts; committed shards sorted by name -> red
    layout = dataset_of(tmp_path / "d", FORMS["beyond 99,999"])
    numbers = [9, 99_999, 100_000, 1_234_567]
    assert layout.committed_shards() == numbers
    dataset = lposekit.open_dataset(layout.root)
    assert [sample.key for sample in dataset] == [f"{number:05d}{row:04d}" for number in numbers for row in range(2)]
    assert dataset.card.shards == [f"{number:05d}" for number in numbers]
    assert verify_dataset(layout.root) == []
    for number in numbers:
        layout.stats(number).unlink()
    lacking = [f.where for f in verify_dataset(layout.root) if f.where.endswith("_stats.json")]
    assert lacking == [f"{number:05d}_stats.json" for number in numbers]
    strays = [f.where for f in verify_dataset(layout.root) if f.where.endswith(".tar")]
    assert strays == [f"{number:05d}.tar" for number in numbers]


def test_a_shard_has_one_name(tmp_path: Path) -> None:
    # Mutation tried: any number of zeros in front -> shard 7 is there twice
    layout = dataset_of(tmp_path / "d", FORMS["images"])
    shutil.copyfile(layout.stats(7), layout.root / "000007_stats.json")
    assert layout.committed_shards() == [0, 1, 2, 7]
    assert [str(f) for f in verify_dataset(layout.root)] == ["000007_stats.json: does not belong to the dataset"]


def test_indexes_in_the_users_cache_that_nobody_uses_go_when_a_new_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutations tried: the new one counted as any other; the ones used last removed first
    now = time.time()
    for name, days, size in (("old", 91, 1), ("a", 3, 40), ("b", 2, 40), ("new", 0, 40)):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(bytes(size))
        path.with_suffix(".lock").touch()
        os.utime(path, (now - 86_400 * days,) * 2)
    (tmp_path / "other.txt").touch()
    whole_index.prune(tmp_path, keep="new.bin")
    assert sorted(path.name for path in tmp_path.glob("*.bin")) == ["a.bin", "b.bin", "new.bin"]
    monkeypatch.setattr(whole_index, "KEPT_BYTES", 100)
    whole_index.prune(tmp_path, keep="new.bin")
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["b", "b", "new", "new", "other"]
    monkeypatch.setattr(whole_index, "KEPT_BYTES", 1)
    whole_index.prune(tmp_path, keep="new.bin")
    assert [path.name for path in tmp_path.glob("*.bin")] == ["new.bin"]
