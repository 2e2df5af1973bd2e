"""One shard, committed by rename: tar, parquet, index and thumbnails first, `_stats.json` last.

Same samples, same bytes: fixed tar times and owners, members sorted, parquet without dates. Until the last rename the
shard does not exist for any reader; after it, all of it does.
"""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from lposekit.errors import LposekitError
from lposekit.faults import fault_point
from lposekit.records import shard_name
from lposekit.shards.files import disk_error, sync_file, sync_folder
from lposekit.shards.layout import DatasetLayout, sha256_file
from lposekit.shards.stats import FileFacts, ShardStats, write_stats
from lposekit.stage_times import StageTimes

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        (
            "members",
            pa.list_(pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])),
        ),
    ]
)
_ASIDE_NAME = re.compile(r"(\d{5,18})_stats\.json\.([^.]+)\.replaced")
THUMBNAIL_SCHEMA = pa.schema([("key", pa.string()), ("outcome", pa.string()), ("jpeg", pa.binary())])


@dataclass(slots=True)
class ShardWriter:
    """Writes the files of one shard under partial names and commits them.

    Args:
        layout: the dataset folder, which must exist.
        shard: number of the shard.
        run_id: of the run, or of one attempt of it: part of the partial names, which must not exist, so that two never
            write the same file.
    """

    layout: DatasetLayout
    shard: int
    run_id: str
    num_samples: int = 0
    _last_key: str = ""
    _tar: Any = None  # webdataset's, which is imported late
    _stream: BinaryIO | None = None
    _thumbnails: list[dict[str, str | bytes]] = field(default_factory=list)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; keys must rise.

        Raises:
            LposekitError: the disk is full.
        """
        assert key > self._last_key, f"keys must rise: {key} after {self._last_key}"
        assert "." not in key, key
        try:
            self._open().write({"__key__": key, **members})
        except OSError as error:
            raise disk_error(error, self.layout.tar(self.shard), sum(map(len, members.values()))) from error
        self._last_key = key
        self.num_samples += 1

    def add_thumbnail(self, key: str, outcome: str, jpeg: bytes) -> None:
        """Keep a small image of a rejected row for the report."""
        self._thumbnails.append({"key": key, "outcome": outcome, "jpeg": jpeg})

    def commit(self, table: pa.Table, stats: ShardStats, times: StageTimes | None = None) -> ShardStats:
        """Make the shard visible. Returns `stats` with `files` and `num_samples`, as they are in the marker.

        Args:
            times: of the shard's stages; `commit`, up to the renaming, is added, and all go into the marker.

        Raises:
            LposekitError: the disk is full; nothing became visible.
        """
        try:
            with (times or StageTimes()).stage("commit"):
                partials = self._write_partials(table)
                stats = replace(stats, num_samples=self.num_samples, files=self._describe(partials))
            if times is not None:
                stats = replace(stats, timings_s=times.as_dict())
            publish(self.layout, self.shard, partials, stats, self.run_id)
        except OSError as error:
            self.discard()
            raise disk_error(error, self.layout.tar(self.shard), table.nbytes) from error
        except LposekitError:
            self.discard()
            raise
        return stats

    def discard(self) -> None:
        """Remove what was written and not committed."""
        if self._stream is not None:
            with contextlib.suppress(OSError):  # closing flushes, onto the disk that is full
                self._stream.close()
        for path in self._final_paths():
            self._partial(path).unlink(missing_ok=True)

    def _final_paths(self) -> list[Path]:
        layout, shard = self.layout, self.shard
        return [layout.tar(shard), layout.parquet(shard), layout.index(shard), layout.thumbnails(shard)]

    def _partial(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.{self.run_id}.partial")

    def _open(self) -> Any:
        if self._tar is None:
            import webdataset  # one second, and only workers need it

            self._stream = self._partial(self.layout.tar(self.shard)).open("xb")
            self._tar = webdataset.TarWriter(
                self._stream, encoder=False, compress=False, mtime=0, user="lposekit", group="lposekit"
            )
        return self._tar

    def _write_partials(self, table: pa.Table) -> dict[Path, Path]:
        """All files of the shard under partial names, synced. Returns final name -> partial name."""
        self._open().close()
        assert self._stream is not None
        self._stream.close()
        partials = {path: self._partial(path) for path in self._final_paths()}
        tar, parquet, index, thumbnails = self._final_paths()
        index.parent.mkdir(parents=True, exist_ok=True)
        thumbnails.parent.mkdir(parents=True, exist_ok=True)
        fault_point("shard:before_fsync")
        _write_new(partials[parquet], table, "zstd")
        _write_new(partials[index], scan_members(partials[tar]), "zstd")
        _write_new(partials[thumbnails], pa.Table.from_pylist(self._thumbnails, schema=THUMBNAIL_SCHEMA), "none")
        for partial in partials.values():
            sync_file(partial)
        return partials

    def _describe(self, partials: Mapping[Path, Path]) -> dict[str, FileFacts]:
        return {
            self.layout.relative(final): FileFacts(partial.stat().st_size, sha256_file(partial))
            for final, partial in partials.items()
        }


def _write_new(path: Path, table: pa.Table, compression: str) -> None:
    """Raises FileExistsError: somebody else has made a file of that name."""
    with path.open("xb") as stream:
        pq.write_table(table, stream, compression=compression)


def scan_members(tar_path: Path) -> pa.Table:
    """The index of a tar: one row per sample in tar order, members with absolute offset and size of their data."""
    keys: list[str] = []
    members: list[list[dict[str, str | int]]] = []
    with tarfile.open(tar_path, "r:") as tar:
        for info in tar:
            key, _, name = info.name.partition(".")
            if not keys or keys[-1] != key:
                keys.append(key)
                members.append([])
            members[-1].append({"name": name, "offset": info.offset_data, "size": info.size})
    return pa.Table.from_pydict({"key": keys, "members": members}, schema=INDEX_SCHEMA)


def publish(layout: DatasetLayout, shard: int, partials: Mapping[Path, Path], stats: ShardStats, run_id: str) -> None:
    """Rename a shard's synced partial files into place, the commit marker last.

    A shard that is already committed is replaced: its marker is set aside first, beside the new one, so that a reader
    sees the old shard, no shard, or the new one; `finish_replacements` completes a replacement that was killed.
    """
    marker = layout.stats(shard)
    new_marker = marker.with_name(f"{marker.name}.{run_id}.new")
    write_stats(new_marker, stats)
    if marker.exists():
        marker.rename(marker.with_name(f"{marker.name}.{run_id}.replaced"))
        sync_folder(layout.root)
        fault_point("shard:marker_set_aside")
    _rename_all(layout, shard, partials, new_marker)
    marker.with_name(f"{marker.name}.{run_id}.replaced").unlink(missing_ok=True)


def _rename_all(layout: DatasetLayout, shard: int, partials: Mapping[Path, Path], new_marker: Path) -> None:
    for position, (final, partial) in enumerate(partials.items()):
        partial.rename(final)
        if position == 0:
            fault_point("shard:between_tar_and_parquet")
    for folder in {final.parent for final in partials}:
        sync_folder(folder)
    fault_point("shard:before_stats")
    new_marker.rename(layout.stats(shard))
    sync_folder(layout.root)


def finish_replacements(layout: DatasetLayout) -> list[int]:
    """Complete the replacements of committed shards that a kill cut short; returns the shards.

    All new files were synced before the old marker was set aside, so going forward is always possible.
    """
    done = []
    for aside in sorted(layout.root.glob("*_stats.json.*.replaced")):
        named = _ASIDE_NAME.fullmatch(aside.name)
        if named is None:
            continue  # none of ours; `verify` names it
        shard, run_id = int(named[1]), named[2]
        new_marker = layout.root / f"{shard_name(shard)}_stats.json.{run_id}.new"
        if new_marker.exists():
            finals = final_files(layout, shard)
            partials = {final: final.with_name(f"{final.name}.{run_id}.partial") for final in finals}
            _rename_all(layout, shard, {f: p for f, p in partials.items() if p.exists()}, new_marker)
            done.append(shard)
        aside.unlink()
    return done


def final_files(layout: DatasetLayout, shard: int) -> list[Path]:
    """The files of a committed shard beside its marker."""
    return [layout.tar(shard), layout.parquet(shard), layout.index(shard), layout.thumbnails(shard)]


def remove_partials(layout: DatasetLayout) -> int:
    """Remove what killed runs left under partial names; returns how many files.

    Only for a driver that holds the folder's lock, after `finish_replacements`.
    """
    leftovers = [
        path
        for folder in (layout.root, layout.meta / "index", layout.meta / "thumbnails")
        if folder.is_dir()
        for pattern in ("*.partial", "*_stats.json.*.new")
        for path in folder.glob(pattern)
    ]
    for path in leftovers:
        os.unlink(path)
    return len(leftovers)
