"""Where each sample's members lie, for readers that go straight to the bytes.

`ShardIndex` is what callers see of one shard. `read_shard_index` reads a shard's own index, which its commit covers;
`lposekit.shards.whole_index` has those of a whole dataset in one file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lposekit.errors import LposekitError
from lposekit.records import shard_name
from lposekit.remote.places import place_of
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import load_stats
from lposekit.shards.tables import read_table
from lposekit.store import REFUSALS, Store

MAX_MEMBER_BYTES = 2**31 - 2**12
"""Of one member: as much as one read of a local file gives."""
Members = dict[str, tuple[int, int]]
"""Member name (`jpg`, `pose.json`) -> (absolute offset of its data in the tar, size in bytes)."""


class ShardIndex(ABC):
    """The samples of one committed shard, in tar order. What it names lies within the tar."""

    shard: int
    store: Store
    tar_bytes: int
    tar_sha256: str

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def keys(self) -> npt.NDArray[np.str_]:
        """[N] strings, made when they are asked for; `key` gives one."""

    @property
    @abstractmethod
    def places(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Member name -> int64 [N, 2] of (absolute offset in the tar, size in bytes), -1 where a sample has no such
        member. Made when they are asked for; `member` gives one."""

    @abstractmethod
    def key(self, row: int) -> str:
        """The key of one sample."""

    def row_names(self) -> npt.NDArray[np.str_]:
        """[N] strings that begin as the keys do: with shard and row of the source. What follows may be left out."""
        return self.keys

    @abstractmethod
    def members(self, row: int) -> Members:
        """The members of one sample, in tar order."""

    @abstractmethod
    def row_of(self, key: str) -> int | None:
        """The row of a sample in this index; None if it is not in the shard."""

    def member(self, row: int, name: str) -> tuple[int, int]:
        """(offset, size) of one member. Raises KeyError: the sample has no such member."""
        return self.members(row)[name]

    def lacking(self, name: str) -> npt.NDArray[np.int64]:
        """The rows of samples without such a member, rising."""
        places_N2 = self.places.get(name)
        return np.arange(len(self)) if places_N2 is None else np.flatnonzero(places_N2[:, 0] < 0)

    def same_keys(self, other: ShardIndex) -> bool:
        """Whether both have the same samples, by their keys."""
        return np.array_equal(self.keys, other.keys)

    @property
    def name(self) -> str:
        return shard_name(self.shard)

    @property
    def tar_name(self) -> str:
        return f"{self.name}.tar"

    @property
    def tar_path(self) -> Path:
        """For messages."""
        return place_of(str(self.store)) / self.tar_name


@dataclass(frozen=True, slots=True)
class ShardArrays(ShardIndex):
    """A shard's own index, in arrays. See `ShardIndex`."""

    shard: int
    store: Store
    tar_bytes: int
    tar_sha256: str
    keys: npt.NDArray[np.str_]  # pyright: ignore[reportIncompatibleMethodOverride]
    places: Mapping[str, npt.NDArray[np.int64]]  # pyright: ignore[reportIncompatibleMethodOverride]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return str(self.keys[row])

    def members(self, row: int) -> Members:
        found = ((name, *places_N2[row].tolist()) for name, places_N2 in self.places.items())
        in_order = sorted((offset, size, name) for name, offset, size in found if offset >= 0)
        return {name: (offset, size) for offset, size, name in in_order}

    def row_of(self, key: str) -> int | None:
        rows = np.flatnonzero(self.keys == key)
        return int(rows[0]) if len(rows) else None


def read_shard_index(layout: DatasetLayout, shard: int) -> ShardArrays:
    """The index of one committed shard.

    Raises:
        LposekitError: the index or the commit marker is missing or damaged.
    """
    tar, store = layout.tar(shard), layout.store
    try:
        described = load_stats(store, layout.relative(layout.stats(shard))).files[tar.name]
        table = read_table(store, layout.relative(layout.index(shard))).combine_chunks()
        keys = np.asarray(table["key"].to_pylist(), dtype=np.str_)
        places = _places(table)
        refuse_wild_places(keys, places, described.bytes)
    except (OSError, KeyError, TypeError, ValueError) as error:  # ValueError: damaged JSON or parquet
        raise LposekitError(
            f"shard {tar.stem} of {layout.root}: its index or commit marker cannot be read ({error}). "
            f"Run `lposekit verify {layout.root}` to see all damage."
        ) from error
    return ShardArrays(shard, store, described.bytes, described.sha256, keys, places)


def _places(table: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
    """Arrow's lists of (name, offset, size) as one array [N, 2] for each name."""
    lists = table["members"].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)  # pyright: ignore
    members = pc.list_flatten(lists)  # pyright: ignore
    pairs = np.stack([members.field("offset").to_numpy(), members.field("size").to_numpy()], axis=1)
    names = members.field("name").dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    by_name, counts = np.argsort(codes, kind="stable"), np.bincount(codes, minlength=len(names.dictionary))
    ends = np.cumsum(counts)
    places = {}
    for name, start, end in zip(names.dictionary.to_pylist(), ends - counts, ends, strict=True):
        chosen = by_name[start:end]
        places[name] = np.full((len(table), 2), -1, np.int64)
        places[name][rows[chosen]] = pairs[chosen]
    return places


def refuse_wild_places(keys: npt.NDArray[np.str_], places: Mapping[str, npt.NDArray[np.int64]], tar_bytes: int) -> None:
    """Raises ValueError: a member lies outside its tar, or is longer than one may be: nobody is to read a TiB."""
    for name, places_N2 in places.items():
        # compared without a sum, which might overflow
        offsets, sizes = places_N2[:, 0], places_N2[:, 1]
        absent = (offsets == -1) & (sizes == -1)
        sane = (offsets >= 0) & (sizes >= 0) & (sizes <= MAX_MEMBER_BYTES) & (offsets <= tar_bytes - sizes)
        if len(wild := np.flatnonzero(~(sane | absent))):
            row = wild[0]
            raise ValueError(
                f"sample {keys[row]}: member {name!r} is said to have {sizes[row]} bytes from {offsets[row]} on, "
                f"in a tar of {tar_bytes}"
            )


def shards_to_read(layout: DatasetLayout) -> list[int]:
    """The committed shards of a folder, in order.

    Raises:
        LposekitError: there is none, or one of them is neither the old nor the new one.
    """
    refuse_half_replaced(layout, layout.half_replaced_shards())
    shards = layout.committed_shards()
    if not shards:
        raise no_shards(layout)
    return shards


def refuse_half_replaced(layout: DatasetLayout, shards: Sequence[int]) -> None:
    """Raises LposekitError if there are such shards: a reader would miss their samples without a word."""
    if shards:
        names = ", ".join(map(shard_name, shards[:5])) + (", ..." if shards[5:] else "")
        raise LposekitError(
            f"{layout.root}: shard {names} is being replaced, or was when its run was killed. Wait for that run, or "
            f"complete it: `lposekit retry {layout.root}`."
        )


def no_shards(layout: DatasetLayout) -> LposekitError:
    """What to say of a folder without a committed shard."""
    return LposekitError(
        f"{layout.root}: no committed shard there. Name a folder that `make laion-pose` or "
        "`lposekit build-video-shards` wrote; of an index without images, `lposekit materialize` makes one."
    )


def size_problem(shard: ShardIndex) -> str | None:
    """What to say of a tar that is gone, refused, or not as long as when it was committed; None if it is right."""
    try:
        found = shard.store.stat(shard.tar_name)
    except FileNotFoundError:
        return f"{shard.tar_name} is missing"
    except OSError as error:
        return str(error)
    if found.kind != "file":
        return f"{shard.tar_name} is {REFUSALS[found.kind]}"
    if found.size != shard.tar_bytes:
        return f"{shard.tar_name} has {found.size} bytes, its commit says {shard.tar_bytes}"
    return None
