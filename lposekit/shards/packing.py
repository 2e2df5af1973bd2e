"""Writes the index of a whole dataset (`lposekit.shards.packed`), from the own indexes of its shards."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from lposekit.records import KEY_ROW_DIGITS
from lposekit.shards.index import ShardArrays, read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.markers import Markers, marker_md5
from lposekit.shards.packed import (
    ABSENT,
    COMPLETE,
    HEAD_BYTES,
    MAX_MEMBERS,
    REGULAR,
    SAMPLE,
    SHARD,
    PackedIndex,
    head_of,
    member_places,
)
from lposekit.store import LocalStore

MAX_CLIP_DIGITS = 9
MAX_NAMES_BYTES = 3000
"""Of all lists of members together; shards with further ones are not regular."""
_SHARDS_AT_ONCE, _READERS = 256, 16


@dataclass(slots=True)
class Packer:
    """Writes one file, shard after shard. `begun_ns`: when the first shard's marker had not been read yet."""

    layout: DatasetLayout
    begun_ns: int
    _lists: dict[tuple[str, ...], int] = field(default_factory=dict)
    _num_samples: int = 0

    def write(self, stream: BinaryIO, markers: Markers, old: PackedIndex | None, old_places: npt.NDArray) -> None:
        """Write the index of these shards; what `old` has of those at `old_places` (-1: nothing) is taken over.

        Raises:
            LposekitError: a shard's own index or marker is missing or damaged. OSError: it cannot be written.
        """
        table = np.zeros(len(markers.shards), SHARD)
        table["shard"], table["marker_bytes"] = markers.shards, markers.sizes
        table["marker_ns"] = markers.changed_ns
        stream.write(bytes(HEAD_BYTES))
        own = _own_indexes(self.layout, markers.shards[old_places < 0].tolist())
        for place, old_place in enumerate(old_places.tolist()):
            if old is not None and old_place >= 0:
                samples = self._take_over(table, place, old, old_place)
            else:
                samples = self._add(table, place, *next(own))
            stream.write(samples.tobytes())
            self._num_samples += len(samples)
        stream.write(table.tobytes())
        stream.seek(0)
        stream.write(head_of(self._num_samples, len(table), self.begun_ns, list(self._lists)))

    def _take_over(
        self, table: npt.NDArray[np.void], place: int, old: PackedIndex, old_place: int
    ) -> npt.NDArray[np.void]:
        entry = old.shards[old_place]
        for name in ("marker_md5", "tar_bytes", "tar_sha256", "samples", "clip_digits", "flags"):
            table[name][place] = entry[name]
        table["first"][place] = self._num_samples
        if not old.is_regular(old_place):
            return np.zeros(0, SAMPLE)
        number = self._list(old.names[int(entry["names"])]) if old.names else 0
        assert number is not None, "they fitted before"
        table["names"][place] = number
        first = int(entry["first"])
        return old.samples[first : first + int(entry["samples"])]

    def _add(self, table: npt.NDArray[np.void], place: int, md5: bytes, own: ShardArrays) -> npt.NDArray[np.void]:
        entry = table[place]  # a view
        entry["marker_md5"], entry["tar_bytes"] = np.void(md5), own.tar_bytes
        entry["first"], entry["samples"] = self._num_samples, len(own)
        packed = pack_shard(own)
        try:
            entry["tar_sha256"] = np.void(bytes.fromhex(own.tar_sha256).ljust(32, b"\0"))
            sane_hash = len(own.tar_sha256) == 64
        except ValueError:
            sane_hash = False
        number = None if packed is None or not sane_hash else self._list(packed.names)
        if packed is None or number is None:
            return np.zeros(0, SAMPLE)
        entry["names"], entry["clip_digits"] = number, packed.clip_digits
        complete = not (packed.samples["sizes"][:, : len(packed.names)] == ABSENT).any()
        entry["flags"] = REGULAR | (COMPLETE if complete else 0)
        return packed.samples

    def _list(self, names: tuple[str, ...]) -> int | None:
        """The number of a list of members; None if there is no room for it."""
        if names not in self._lists and sum(len(repr(each)) for each in [*self._lists, names]) < MAX_NAMES_BYTES:
            self._lists[names] = len(self._lists)
        return self._lists.get(names)


def _own_indexes(layout: DatasetLayout, shards: list[int]) -> Iterator[tuple[bytes, ShardArrays]]:
    """Marker's MD5 and own index of each of these shards, in order. The marker is read first: one that is replaced
    meanwhile is found to be another one the next time."""

    def read(shard: int) -> tuple[bytes, ShardArrays]:
        return marker_md5(layout, shard), read_shard_index(layout, shard)

    if isinstance(layout.store, LocalStore):
        yield from map(read, shards)
        return
    with ThreadPoolExecutor(_READERS) as pool:  # a read over a network waits
        for first in range(0, len(shards), _SHARDS_AT_ONCE):
            yield from pool.map(read, shards[first : first + _SHARDS_AT_ONCE])


@dataclass(frozen=True, slots=True)
class PackedShard:
    """The samples of one regular shard."""

    names: tuple[str, ...]
    clip_digits: int
    samples: npt.NDArray[np.void]


def pack_shard(own: ShardArrays) -> PackedShard | None:
    """A shard's samples, 32 bytes each; None if its keys or members are not regular enough for that."""
    names = tuple(sorted(own.places))
    numbers = _key_numbers(own)
    if len(names) > MAX_MEMBERS or numbers is None:
        return None
    row_N, clip_N, clip_digits = numbers
    samples = np.zeros(len(own), SAMPLE)
    samples["row"], samples["clip"], samples["sizes"] = row_N, clip_N, ABSENT
    if not len(own) or not names:
        return PackedShard(names, clip_digits, samples) if not len(own) else None
    places_NM2 = np.stack([own.places[name] for name in names], axis=1)
    offsets, sizes = places_NM2[..., 0], places_NM2[..., 1]
    there = offsets >= 0
    starts = np.where(there, offsets, np.iinfo(np.int64).max).min(axis=1) - 512
    if (starts < 0).any() or not there.any(axis=1).all():
        return None
    samples["start"] = starts
    samples["sizes"][:, : len(names)] = np.where(there, sizes, ABSENT)
    if not np.array_equal(member_places(samples["start"], samples["sizes"])[:, : len(names)], places_NM2):
        return None
    return PackedShard(names, clip_digits, samples)


def _key_numbers(own: ShardArrays) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int] | None:
    """Row and clip number of each key, and the digits of a clip's; None unless all keys have the form of the house
    (`packed.house_key`) and rise."""
    name, width = own.name, own.keys.dtype.itemsize // 4
    if not len(own):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    clip_digits = width - len(name) - KEY_ROW_DIGITS
    if not 0 <= clip_digits <= MAX_CLIP_DIGITS:
        return None
    # a shorter key is filled up with 0, which is no digit either
    digits = np.ascontiguousarray(own.keys).view(np.uint32).reshape(len(own), width).astype(np.int64) - ord("0")
    prefix = [ord(digit) - ord("0") for digit in name]
    if not ((digits >= 0) & (digits <= 9)).all() or (digits[:, : len(name)] != prefix).any():
        return None
    rest = digits[:, len(name) :]
    row_N = rest[:, :KEY_ROW_DIGITS] @ 10 ** np.arange(KEY_ROW_DIGITS)[::-1]
    clip_N = rest[:, KEY_ROW_DIGITS:] @ 10 ** np.arange(clip_digits)[::-1]
    order = row_N * 10**MAX_CLIP_DIGITS + clip_N
    return None if (order[1:] <= order[:-1]).any() else (row_N, clip_N, clip_digits)
