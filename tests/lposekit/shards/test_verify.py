"""Contract: `verify_dataset` names every cut, flip, hostile member and loss; `open_dataset` refuses another size.

A damage that keeps the marker's sha256 is made by writing the marker anew, as an attacker would.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import lposekit
from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.verify import verify_dataset
from lposekit.shards.writer import scan_members
from tests.support.dataset_folder import make_dataset, make_results, write_shard


def _found(layout: DatasetLayout) -> str:
    return "\n".join(str(finding) for finding in verify_dataset(layout.root))


def test_a_whole_dataset_has_no_findings(tmp_path: Path) -> None:
    assert verify_dataset(make_dataset(tmp_path / "d").root) == []


@pytest.mark.parametrize(
    ("name", "rounds"), [("00001.tar", 100), ("00001.parquet", 20), ("_dataset/index/00001.parquet", 20)]
)
@pytest.mark.case(33)
def test_cuts_and_flipped_bits_anywhere_are_all_found(tmp_path: Path, name: str, rounds: int) -> None:
    # Mutation tried: _verify_files without the sha256 -> flipped bits pass.
    layout = make_dataset(tmp_path / "d")
    path, rng = layout.root / name, random.Random(1)
    whole = path.read_bytes()
    for _ in range(rounds):
        path.write_bytes(whole[: rng.randrange(len(whole))])
        assert name in _found(layout)
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        assert name in _found(layout)
    path.write_bytes(whole)
    assert verify_dataset(layout.root) == []


def _tar_cases() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "cut between members": lambda data: data[:512],
        "empty": lambda data: b"",
        "trailing junk": lambda data: data + b"junk" * 1000,
        "not a tar": lambda data: b"\xff" * len(data),
    }


@pytest.mark.parametrize("case", _tar_cases())
@pytest.mark.case(33)
def test_a_cut_or_grown_tar_is_refused_by_the_reader_before_the_first_sample(tmp_path: Path, case: str) -> None:
    layout = make_dataset(tmp_path / "d")
    layout.tar(1).write_bytes(_tar_cases()[case](layout.tar(1).read_bytes()))
    assert "00001.tar" in _found(layout)
    if case != "not a tar":
        with pytest.raises(LposekitError, match=r"00001\.tar"):
            lposekit.open_dataset(layout.root)


def _hostile_tar(add: Callable[[tarfile.TarFile], None], base: bytes) -> bytes:
    """The samples of a good tar, then what ``add`` adds."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as tar, tarfile.open(fileobj=io.BytesIO(base)) as good:
        for info in good:
            tar.addfile(info, good.extractfile(info))
        add(tar)
    return out.getvalue()


def _plain(tar: tarfile.TarFile, name: str, data: bytes = b"x") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _plain_all(tar: tarfile.TarFile, *keys: str) -> None:
    for key in keys:
        for name in ("jpg", "json", "pose.json", "txt"):
            _plain(tar, f"{key}.{name}", b"")


def _special(tar: tarfile.TarFile, name: str, kind: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    tar.addfile(info)


HOSTILE: dict[str, Callable[[tarfile.TarFile], None]] = {
    "climbing path": lambda tar: _plain(tar, "../x.jpg"),
    "absolute path": lambda tar: _plain(tar, "/tmp/x.jpg"),
    "symlink": lambda tar: _special(tar, "000010009.jpg", tarfile.SYMTYPE),
    "device": lambda tar: _special(tar, "000010009.jpg", tarfile.CHRTYPE),
    "pickle member": lambda tar: _plain(tar, "000010005.pyd"),
    "weights member": lambda tar: _plain(tar, "000010005.pth"),
    "duplicate member": lambda tar: _plain(tar, "000010005.jpg"),
    "sample without text": lambda tar: _plain(tar, "000010009.jpg"),
    "sample again, not adjacent": lambda tar: _plain_all(tar, "000010000"),
    "many members": lambda tar: _plain_all(tar, *(f"0000100{i:06d}" for i in range(5_000))),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.case(34)
def test_hostile_members_are_found_though_the_marker_vouches_for_them(tmp_path: Path, case: str) -> None:
    # Mutation tried: _complete that always says True -> "weights member" passes.
    layout = make_dataset(tmp_path / "d")
    layout.tar(1).write_bytes(_hostile_tar(HOSTILE[case], layout.tar(1).read_bytes()))
    pq.write_table(scan_members(layout.tar(1)), layout.index(1), compression="zstd")
    _vouch(layout, 1)
    assert "00001" in _found(layout)
    assert not Path("/tmp/x.jpg").exists()


def _vouch(layout: DatasetLayout, shard: int) -> None:
    """Write the marker anew for the files as they are."""
    stats = json.loads(layout.stats(shard).read_text())
    for name in stats["files"]:
        path = layout.root / name
        stats["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    layout.stats(shard).write_text(json.dumps(stats))


@pytest.mark.case(34)
def test_an_8_gib_header_size_is_found_without_reading_it(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:") as tar:
        info = tarfile.TarInfo("000010000.jpg")
        info.size = 8 * 2**30
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        tar.offset = out.tell()
    layout.tar(1).write_bytes(out.getvalue())
    _vouch(layout, 1)
    assert "00001.tar" in _found(layout)


@pytest.mark.case(35)
def test_the_same_keys_in_two_shards_are_found(tmp_path: Path) -> None:
    # Mutation tried: a `seen` that is made anew for each shard -> nothing found.
    layout = make_dataset(tmp_path / "d", 1)
    write_shard(layout, 7, make_results(0, 8))
    assert "also occurs in 00000.tar" in _found(layout)


def test_rows_that_do_not_add_up_are_found(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d")
    stats = json.loads(layout.stats(0).read_text())
    stats["outcomes"]["kept"] += 1
    layout.stats(0).write_text(json.dumps(stats))
    assert "its commit says" in _found(layout)


def test_a_shard_that_vanished_whole_is_found(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d")
    for path in (layout.tar(1), layout.parquet(1), layout.stats(1)):
        path.unlink()
    assert "00001_stats.json: listed in the card" in _found(layout)


def test_files_of_no_shard_are_found(tmp_path: Path) -> None:
    layout = make_dataset(tmp_path / "d")
    (layout.root / "00009.tar").write_bytes(b"")
    (layout.root / "notes.json").write_text("{}")
    assert "00009.tar: has no commit marker" in _found(layout)
    assert "notes.json: does not belong" in _found(layout)
