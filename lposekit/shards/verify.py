"""Check a dataset folder: every byte against its commit marker, every sample against its rows, both accounting laws."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lposekit.errors import LposekitError, Outcome
from lposekit.records import Columns, shard_name
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.index import MAX_MEMBER_BYTES
from lposekit.shards.layout import DatasetLayout, by_number, shard_file, sum_counts
from lposekit.shards.stats import FileFacts, ShardStats, load_stats
from lposekit.shards.tables import read_table
from lposekit.shards.verify_whole import Finding, RowKeys, WholeIndexCheck
from lposekit.store import REFUSALS, Store
from lposekit.store_reads import MAX_DEPTH, sha256_of, stream_of, walk

__all__ = ["Finding", "verify_dataset"]
MEMBERS = {
    "image": frozenset({"jpg", "txt", "json", "pose.json"}),
    "poses": frozenset({"poses.json"}),
    "latents": frozenset({"latents.npy"}),
}
"""Members of a sample, of the kinds whose rows have at most one sample, under the row's key."""
CLIP_MEMBERS = frozenset({"txt", "json"})
PUBLISHED = ("README.md", "index.html")
"""What `lposekit push` puts beside the shards."""
CLIP_COLUMNS = ["key", "outcome", "num_windows", "num_clips", "dropped", "clip_keys"]


def verify_dataset(dataset_dir: Path) -> list[Finding]:
    """Everything that is wrong with a dataset folder; an empty list when nothing is.

    Nothing is unpacked or unpickled, and memory is bounded by one shard's rows.

    Raises:
        LposekitError: the folder is no dataset.
    """
    layout = DatasetLayout(Path(dataset_dir))
    card = read_card(layout)
    committed = layout.committed_shards()
    findings = sorted(_strange_files(layout, set(committed)), key=lambda finding: by_number(finding.where))
    keys, whole = RowKeys(), WholeIndexCheck(layout)
    findings.extend(whole.damage())
    for shard in committed:
        findings.extend(_verify_shard(layout, shard, card, keys, whole))
    findings.extend(Finding(where, what) for where, what in keys.shared(layout))
    missing = sorted(set(card.shards or ()) - set(map(shard_name, committed)), key=by_number)
    findings.extend(Finding(f"{name}_stats.json", "listed in the card, but not there") for name in missing)
    return findings


def _strange_files(layout: DatasetLayout, committed: Set[int]) -> Iterator[Finding]:
    """Files that no commit marker speaks of, and whatever is neither a file nor a folder."""
    for path, kind in walk(layout.store):
        top, _, below = path.partition("/")
        if kind in ("link", "other"):
            yield Finding(path, f"{REFUSALS[kind]}: remove it, or put the file itself in its place")
        elif kind == "folder" and path.count("/") == MAX_DEPTH:
            yield Finding(path, "lies deeper than any folder of a dataset, and was not looked into")
        elif below or top == "_dataset" or top.startswith(".") or top in PUBLISHED or _is_of(top, committed):
            continue
        elif ".partial" in top or top.endswith((".new", ".replaced")):
            yield Finding(top, "left by a killed run; the same command, run again, removes it and resumes")
        elif top.endswith((".tar", ".parquet")):
            yield Finding(top, "has no commit marker; the same command, run again, redoes the shard")
        else:
            yield Finding(top, "does not belong to the dataset")


def _is_of(name: str, committed: Set[int]) -> bool:
    named = shard_file(name)
    return named is not None and named[0] in committed


def _verify_shard(
    layout: DatasetLayout, shard: int, card: DatasetCard, keys: RowKeys, whole: WholeIndexCheck
) -> Iterator[Finding]:
    name = layout.stats(shard).name
    try:
        stats = load_stats(layout.store, name)
    except (OSError, ValueError) as error:
        yield Finding(name, f"the commit marker cannot be read ({error})")
        return
    damaged = list(_verify_files(layout, stats.files))
    yield from damaged
    for path in (layout.tar(shard), layout.parquet(shard), layout.index(shard)):
        if layout.relative(path) not in stats.files:
            damaged.append(Finding(name, f"does not speak of {layout.relative(path)}"))
            yield damaged[-1]
    if not damaged:
        yield from _verify_content(layout, shard, stats, card, keys)
        yield from whole.of_shard(shard)


def _verify_files(layout: DatasetLayout, files: Mapping[str, FileFacts]) -> Iterator[Finding]:
    for relative, described in sorted(files.items()):
        try:
            found = layout.store.stat(relative)
            if found.kind == "file" and found.size != described.bytes:
                yield Finding(relative, f"{found.size} bytes, its commit says {described.bytes}")
            elif sha256_of(layout.store, relative) != described.sha256:
                yield Finding(relative, "sha256 differs from its commit: bytes were changed")
        except FileNotFoundError:
            yield Finding(relative, "missing")
        except OSError as error:
            yield Finding(relative, f"cannot be read: {error.strerror}")


def _verify_content(
    layout: DatasetLayout, shard: int, stats: ShardStats, card: DatasetCard, keys: RowKeys
) -> Iterator[Finding]:
    """A shard whose bytes are those of its commit: does it also make sense?"""
    tar_name = layout.tar(shard).name
    try:
        table = read_table(layout.store, layout.parquet(shard).name)
        index = read_table(layout.store, layout.relative(layout.index(shard))).to_pylist()
        members = list(_tar_members(layout.store, tar_name))
    except (OSError, ValueError, tarfile.TarError, LposekitError) as error:
        yield Finding(tar_name, str(error))
        return
    try:
        yield from _verify_tar(tar_name, members, index, card.kind)
        yield from _verify_laws(layout.parquet(shard).name, table, stats, [row["key"] for row in index], card.kind)
        keys.add(shard, table["key"].to_pylist() if "key" in table.column_names else ())
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # columns missing, or of other types
        yield Finding(layout.parquet(shard).name, f"its rows or its index are not those of a shard ({error})")


def _tar_members(store: Store, name: str) -> Iterator[tuple[str, int, int]]:
    """Name, data offset and size of each member.

    Raises:
        LposekitError: a member that is no plain file, or of an absurd size.
    """
    with stream_of(store, name) as stream, tarfile.open(fileobj=stream, mode="r:", ignore_zeros=False) as tar:
        for info in tar:
            if not info.isreg() or info.size > MAX_MEMBER_BYTES:
                raise LposekitError(f"member {info.name!r} is not a plain file of a sane size")
            yield info.name, info.offset_data, info.size


def _verify_tar(
    tar_name: str, members: list[tuple[str, int, int]], index: Sequence[Columns], kind: str
) -> Iterator[Finding]:
    """Members: whitelisted, adjacent, complete, and where the index says."""
    indexed = [(f"{row['key']}.{m['name']}", m["offset"], m["size"]) for row in index for m in row["members"]]
    if indexed != members:
        yield Finding(tar_name, f"its index names {len(indexed)} members that are not the {len(members)} in the tar")
    keys = [row["key"] for row in index]
    if keys != sorted(set(keys)):
        yield Finding(tar_name, "keys are repeated, not adjacent or out of order")
    for row in index:
        names = {member["name"] for member in row["members"]}
        if len(names) != len(row["members"]) or not _complete(names, kind):
            yield Finding(tar_name, f"sample {row['key']} has the members {sorted(names)}")


def _complete(names: set[str], kind: str) -> bool:
    if kind in MEMBERS:
        return names == MEMBERS[kind]
    content = names - CLIP_MEMBERS
    frames_only = all(name.endswith(".jpg") for name in content)
    return names >= CLIP_MEMBERS and bool(content) and (content == {"mp4"} or frames_only)


def _verify_laws(
    parquet_name: str, table: pa.Table, stats: ShardStats, sample_keys: list[str], kind: str
) -> Iterator[Finding]:
    """Rows in = sum of outcomes; the kept rows are the samples; of videos, the clips and windows too."""
    missing = [name for name in ("key", "outcome") if name not in table.column_names]
    if missing:
        yield Finding(parquet_name, f"has no column {', '.join(missing)}")
        return
    outcomes = Counter(table["outcome"].to_pylist())
    unknown = sorted(str(value) for value in outcomes if value not in set(Outcome))
    if unknown:
        yield Finding(parquet_name, f"unknown outcomes {unknown}")
    if dict(outcomes) != {k: v for k, v in stats.outcomes.items() if v} or len(table) != stats.count:
        yield Finding(parquet_name, f"{len(table)} rows {dict(outcomes)}, its commit says {dict(stats.outcomes)}")
    if stats.num_samples != len(sample_keys):
        yield Finding(parquet_name, f"{len(sample_keys)} samples, its commit says {stats.num_samples}")
    if kind in MEMBERS:
        stored = set(sample_keys)
        lost = [k for k, o in zip(table["key"].to_pylist(), table["outcome"].to_pylist(), strict=True) if o == "kept"]
        if not set(lost) <= stored:
            yield Finding(parquet_name, f"kept rows without a sample: {sorted(set(lost) - stored)[:3]}")
        if not stored <= set(table["key"].to_pylist()):
            yield Finding(parquet_name, "samples without a row")
    else:
        yield from _verify_clips(parquet_name, table, stats, sample_keys)


def _verify_clips(parquet_name: str, table: pa.Table, stats: ShardStats, sample_keys: list[str]) -> Iterator[Finding]:
    """The clips that the rows name are the samples; windows = clips + dropped in every row; the rows add up."""
    missing = [name for name in CLIP_COLUMNS if name not in table.column_names]
    if missing:
        yield Finding(parquet_name, f"has no column {', '.join(missing)}")
        return
    rows = table.select(CLIP_COLUMNS).to_pylist()
    named = [key for row in rows for key in row["clip_keys"] or []]
    if set(sample_keys) - set(named):
        yield Finding(parquet_name, f"clips without a row: {sorted(set(sample_keys) - set(named))[:3]}")
    if set(named) - set(sample_keys):
        yield Finding(parquet_name, f"rows name clips that are not there: {sorted(set(named) - set(sample_keys))[:3]}")
    accounts: list[_ClipAccount] = []
    for row in rows:
        try:
            accounts.append(_clip_account(row))
        except (LposekitError, ValueError, TypeError, AttributeError) as error:
            yield Finding(parquet_name, f"row {row['key']}: {error}")
            return
    total = {
        "windows": sum(account.windows for account in accounts),
        "clips": sum(account.clips for account in accounts),
        "dropped": sum_counts(account.dropped for account in accounts),
    }
    stated = {"windows": stats.windows, "clips": stats.clips, "dropped": stats.dropped}
    if total != stated:
        yield Finding(parquet_name, f"the rows add up to {total}, its commit says {stated}")


@dataclass(frozen=True, slots=True)
class _ClipAccount:
    windows: int
    clips: int
    dropped: dict[str, int]


def _clip_account(row: Columns) -> _ClipAccount:
    """Windows, clips and drops of one row.

    Raises:
        LposekitError: they contradict each other. ValueError, TypeError, AttributeError: they are no numbers.
    """
    keys, clips, windows = row["clip_keys"] or [], row["num_clips"] or 0, row["num_windows"] or 0
    dropped = {str(reason): int(number) for reason, number in json.loads(row["dropped"] or "{}").items()}
    if clips != len(keys) or len(set(keys)) != len(keys):
        raise LposekitError(f"{clips} clips, but it names {len(set(keys))}")
    if not all(key.startswith(row["key"]) for key in keys):
        raise LposekitError(f"names clips of another row: {keys[:3]}")
    if windows != clips + sum(dropped.values()):
        raise LposekitError(f"{windows} windows, {clips} clips + {sum(dropped.values())} dropped")
    if (row["outcome"] == Outcome.KEPT) != (clips > 0):
        raise LposekitError(f"its outcome is {row['outcome']}, with {clips} clips")
    return _ClipAccount(windows, clips, dropped)
