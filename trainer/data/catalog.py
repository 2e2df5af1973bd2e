"""The shards that a run trains on, where each sample's bytes lie, and whether they are still what was committed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lposekit.errors import LposekitError, UsageError
from lposekit.shards.card import DatasetCard, read_card
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.whole_index import ShardList, read_index
from trainer.data.source import OpenFiles

REQUIRED_MEMBERS = {"image": ("jpg", "txt", "pose.json"), "video": ("mp4", "txt", "json"), "latents": ("latents.npy",)}
HASHED_AT_ONCE = 1 << 22
"""Bytes of one read."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset folder as the trainer sees it. `kind` is `image` or `video`."""

    root: Path
    kind: str
    card: DatasetCard
    shards: Sequence[ShardIndex]
    source: OpenFiles

    def digest(self) -> str:
        """SHA-256 over the names and hashes of all shards: changes when any byte of the data does."""
        lines = [f"{shard.name} {shard.tar_sha256} {len(shard)}" for shard in self.shards]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self, shard: ShardIndex, row: int, members: Sequence[str]) -> dict[str, bytes]:
        """Members of one sample by name, read by offset.

        Raises:
            LposekitError: the shard is shorter than its index says, or cannot be read.
        """
        read = {}
        for member in members:
            offset, size = shard.member(row, member)
            try:
                read[member] = self.source.read(shard.tar_name, offset, size, shard.tar_bytes)
            except OSError as error:
                raise LposekitError(f"{self.describe(shard)}: {error}. {self._advice()}") from error
            if len(read[member]) != size:
                raise LposekitError(
                    f"{self.describe(shard)}: cut short at sample {shard.key(row)}, member {member}. {self._advice()}"
                )
        return read

    def describe(self, shard: ShardIndex) -> str:
        return f"shard {shard.name} of {self.root}"

    def check_sizes(self) -> None:
        """Refuse, naming it, any shard that is gone or not as long as when it was committed, as the folder was listed
        when it was opened. Each is looked at once more when its tar is opened."""
        assert isinstance(self.shards, ShardList)
        for shard, problem in self.shards.size_problems():
            raise LposekitError(f"{self.describe(shard)}: {problem}. {self._advice()}")

    def hash_problem(self, shard: ShardIndex) -> str | None:
        """What to say of a shard with another SHA-256 than when it was committed, None if it is right. Reads all of
        it."""
        sha, offset = hashlib.sha256(), 0
        try:
            while chunk := self.source.read(shard.tar_name, offset, HASHED_AT_ONCE):
                sha.update(chunk)
                offset += len(chunk)
        except OSError as error:
            return f"{self.describe(shard)}: {error}. {self._advice()}"
        if sha.hexdigest() == shard.tar_sha256:
            return None
        return f"{self.describe(shard)}: {shard.tar_name} has other bytes than it was committed with. {self._advice()}"

    def _advice(self) -> str:
        return f"Run `lposekit verify {self.root}`, then build the shard again or restore it from a copy."


def open_catalog(roots: Sequence[Path], kind: str) -> tuple[Dataset, ...]:
    """The datasets of a run, all of `kind`, with every shard's size checked.

    Raises:
        UsageError: no folder, or a dataset of the other kind.
        LposekitError: no dataset there, or a shard is damaged, changed or shares keys with another.
    """
    if not roots:
        raise UsageError("no data: name dataset folders with --data")
    datasets = tuple(open_dataset_folder(Path(root)) for root in roots)
    for dataset in datasets:
        if dataset.kind != kind:
            wanted = {"image": "stage 1 trains on images", "video": "stage 2 trains on clips"}[kind]
            raise UsageError(f"{dataset.root} is a dataset of kind {dataset.kind!r}, but {wanted}: name another --data")
        dataset.check_sizes()
    return datasets


def open_dataset_folder(root: Path) -> Dataset:
    """Index of one dataset folder; no sizes are checked yet.

    Raises:
        UsageError: no dataset there, or its clips are stored as images. LposekitError: its index is damaged.
    """
    layout = DatasetLayout(root)
    root, card = layout.root, read_card(layout)
    kind = card.kind
    if kind not in REQUIRED_MEMBERS:
        raise UsageError(f"{root} is a dataset of kind {kind!r}, which the trainer cannot read: name another --data")
    shards = read_index(root)
    for shard in shards.without(REQUIRED_MEMBERS[kind]):
        _refuse_missing_members(root, shard, REQUIRED_MEMBERS[kind])
    _refuse_shared_keys(root, shards)
    return Dataset(root, kind, card, shards, OpenFiles(layout.store))


def _refuse_missing_members(root: Path, shard: ShardIndex, required: Sequence[str]) -> None:
    if "mp4" in required and "mp4" not in shard.places and any(name.endswith(".jpg") for name in shard.places):
        raise UsageError(
            f"{root} was built with --encode.format frames; the trainer reads mp4 clips. Build it with "
            "--encode.format mp4."
        )
    for member in required:
        if len(absent := shard.lacking(member)):
            raise LposekitError(
                f"shard {shard.name} of {root}: sample {shard.key(int(absent[0]))} has no member {member!r} "
                f"({len(absent)} of {len(shard)} samples lack it). Build the shard again."
            )


def _refuse_shared_keys(root: Path, shards: ShardList) -> None:
    if shards.all_regular:
        return  # their keys are made of shard, row and clip, and rise
    seen: dict[str, str] = {}
    for shard in shards:
        keys = shard.keys
        if len(np.unique(keys)) != len(keys):
            raise LposekitError(f"shard {shard.name} of {root}: two samples share a key. Build the shard again.")
        # keys begin with the number of their shard, so first and last place a whole shard
        for key in {str(key) for key in keys[[0, -1]]} if len(shard) else set():
            if key in seen:
                raise LposekitError(
                    f"shards {seen[key]} and {shard.name} of {root} share the key {key}. Build one of them again."
                )
            seen[key] = shard.name
