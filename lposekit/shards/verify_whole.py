"""What `verify` checks of all shards together: that no key occurs in two, and that the index of the whole dataset is
true. Memory does not grow with the number of sound shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lposekit.errors import LposekitError
from lposekit.records import KEY_ROW_DIGITS, shard_name
from lposekit.shards.index import read_shard_index
from lposekit.shards.layout import DatasetLayout, by_number
from lposekit.shards.markers import marker_md5
from lposekit.shards.packed import DamagedIndex, PackedIndex, ShardView
from lposekit.shards.tables import read_table
from lposekit.shards.whole_index import kept_index


@dataclass(frozen=True, slots=True)
class Finding:
    """One damage: where (a file, or a sample's key) and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(slots=True)
class RowKeys:
    """The keys of the rows of all shards. One that is made of its own shard's number occurs in no other shard but by
    damage, so only the others are kept."""

    _strange: dict[str, set[int]] = field(default_factory=dict)
    _checked: set[int] = field(default_factory=set)

    def add(self, shard: int, keys: Sequence[str]) -> None:
        """The keys of a shard's table."""
        self._checked.add(shard)
        prefix = shard_name(shard)
        for key in keys:
            if _owner(key) != shard or not key.startswith(prefix):
                self._strange.setdefault(key, set()).add(shard)

    def shared(self, layout: DatasetLayout) -> Iterator[tuple[str, str]]:
        """Tar and what is to be said of each key that occurs in more than one shard."""
        by_owner: dict[int, list[str]] = {}
        for key in self._strange:
            if (owner := _owner(key)) in self._checked and owner is not None:
                by_owner.setdefault(owner, []).append(key)
        for owner, keys in by_owner.items():
            there = set(read_table(layout.store, layout.parquet(owner).name, columns=["key"])["key"].to_pylist())
            for key in keys:
                if key in there:
                    self._strange[key].add(owner)
        for key, shards in sorted(self._strange.items(), key=lambda item: by_number(item[0])):
            first, *others = sorted(shards)
            yield from (
                (layout.tar(other).name, f"key {key} also occurs in {layout.tar(first).name}") for other in others
            )


def _owner(key: str) -> int | None:
    """The shard that a row's key names; None if it has not the form of the house."""
    digits = key[:-KEY_ROW_DIGITS]
    if not (key.isascii() and key.isdigit() and 0 < len(digits) <= 18):
        return None
    return int(digits) if shard_name(int(digits)) == digits else None


class WholeIndexCheck:
    """Holds the index of a dataset, if there is one, against the own indexes of its shards."""

    def __init__(self, layout: DatasetLayout) -> None:
        self._layout = layout
        self._where = layout.relative(layout.whole_index)
        self._index: PackedIndex | None = None

    def damage(self) -> Iterator[Finding]:
        """What is wrong with the file itself; it is opened here."""
        try:
            self._index = kept_index(self._layout)
        except (DamagedIndex, OSError) as error:
            yield Finding(self._where, f"no index ({error}): remove it, it is made anew from the shards")

    def of_shard(self, shard: int) -> Iterator[Finding]:
        """Whether a sound shard is in it as it is. One whose marker has changed since is left to the next reader."""
        if self._index is None:
            return
        numbers = self._index.shards["shard"]
        place = int(np.searchsorted(numbers, shard))
        if place == len(numbers) or numbers[place] != shard or not self._index.is_regular(place):
            return
        try:
            if bytes(self._index.shards["marker_md5"][place]) != marker_md5(self._layout, shard):
                return
            own, view = read_shard_index(self._layout, shard), ShardView(self._index, place)
            places = view.places
            same = (own.tar_bytes, own.tar_sha256, len(own)) == (view.tar_bytes, view.tar_sha256, len(view))
            same = same and np.array_equal(own.keys, view.keys) and places.keys() == own.places.keys()
            if not (same and all(np.array_equal(own.places[name], places[name]) for name in places)):
                yield Finding(self._where, f"says otherwise of shard {own.name} than its own index: remove it")
        except LposekitError as error:
            yield Finding(self._where, str(error))
