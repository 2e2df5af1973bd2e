"""The index of a whole dataset as one file that is mapped into memory: 32 bytes a sample, 104 a shard.

Little-endian. A head of 4096 bytes (`HEAD`, then JSON with the lists of member names), the samples of all shards one
after the other (`SAMPLE`), the shards in order of their numbers (`SHARD`). A sample's key follows from its shard, row
and clip number, and the places of its members from where its first tar header lies and from their sizes. A shard that
is not so regular has no samples here: its own index is read when it is asked for.

The file comes with the dataset, so it may be a stranger's: all lengths are checked when it is opened, and every place
before it is used. Its pages are shared by all processes of a machine.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.json_values import TEXT, JsonFields, list_of, parse_json_object
from lposekit.records import KEY_ROW_DIGITS, shard_name
from lposekit.shards.index import (
    MAX_MEMBER_BYTES,
    Members,
    ShardArrays,
    ShardIndex,
    read_shard_index,
    refuse_wild_places,
)
from lposekit.shards.layout import DatasetLayout
from lposekit.store import Store

MAGIC = b"lposekit index 1"
HEAD = struct.Struct("<16sQQqI")
"""Magic with the version, number of samples, number of shards, time when it was begun in ns since 1970, bytes of the
JSON that follows."""
HEAD_BYTES = 4096
MAX_MEMBERS = 4
ABSENT = 2**32 - 1
BLOCK = 512
"""Of a tar: a member is one block of header, and its bytes filled up to whole blocks."""
SAMPLE = np.dtype([("start", "<u8"), ("row", "<u4"), ("clip", "<u4"), ("sizes", "<u4", MAX_MEMBERS)])
SHARD = np.dtype(
    [
        ("shard", "<i8"),
        ("marker_bytes", "<i8"),
        ("marker_ns", "<i8"),
        ("marker_md5", "V16"),
        ("tar_bytes", "<i8"),
        ("tar_sha256", "V32"),
        ("first", "<i8"),
        ("samples", "<i8"),
        ("names", "<u2"),
        ("clip_digits", "<u2"),
        ("flags", "<u4"),
    ]
)
REGULAR, COMPLETE = 1, 2
"""Flags of a shard: its samples are here; each of them has all members of its shard's list."""
OWN_KEPT = 16
"""Own indexes of shards that are not regular, in memory at a time."""


class DamagedIndex(ValueError):
    """What an index file says cannot be."""


@dataclass(frozen=True, eq=False)
class PackedIndex:
    """An index of a whole dataset, checked. `names`: the lists of members, which shards name by number."""

    layout: DatasetLayout
    begun_ns: int
    names: tuple[tuple[str, ...], ...]
    samples: npt.NDArray[np.void]
    shards: npt.NDArray[np.void]
    _own: dict[int, ShardArrays] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: DatasetLayout, data: memoryview | bytes | mmap.mmap) -> PackedIndex:
        """The index that a file's bytes are. Reads the head and the table of shards only.

        Raises:
            DamagedIndex: it is damaged, or of another version.
        """
        if len(data) < HEAD_BYTES:
            raise DamagedIndex("shorter than its head")
        magic, num_samples, num_shards, begun_ns, json_bytes = HEAD.unpack_from(data)
        if magic != MAGIC:
            raise DamagedIndex("no index of this version")
        if len(data) != HEAD_BYTES + num_samples * SAMPLE.itemsize + num_shards * SHARD.itemsize:
            raise DamagedIndex(f"{len(data)} bytes, which are not {num_samples} samples and {num_shards} shards")
        names = _names(bytes(data[HEAD.size : HEAD.size + min(json_bytes, HEAD_BYTES - HEAD.size)]))
        samples = np.frombuffer(data, SAMPLE, num_samples, HEAD_BYTES)
        shards = np.frombuffer(data, SHARD, num_shards, HEAD_BYTES + samples.nbytes)
        _check_shards(shards, num_samples, len(names))
        return cls(layout, begun_ns, names, samples, shards)

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def store(self) -> Store:
        return self.layout.store

    def is_regular(self, place: int) -> bool:
        return bool(self.shards["flags"][place] & REGULAR)

    def own(self, place: int) -> ShardArrays:
        """The own index of a shard that is not regular."""
        if place in self._own:
            return self._own[place]
        own = read_shard_index(self.layout, int(self.shards["shard"][place]))
        if len(own) != self.shards["samples"][place]:
            raise self.wrong(place, f"{self.shards['samples'][place]} samples, where its own index has {len(own)}")
        while len(self._own) >= OWN_KEPT:
            self._own.pop(next(iter(self._own)))
        self._own[place] = own
        return own

    def wrong(self, place: int, what: str) -> LposekitError:
        """What to say of an index that cannot be true."""
        path = self.layout.whole_index
        return LposekitError(
            f"shard {shard_name(int(self.shards['shard'][place]))} of {self.layout.root}: the index of the dataset "
            f"states {what}. Remove {path}, if it is there: it is made anew from the shards."
        )


def _names(data: bytes) -> tuple[tuple[str, ...], ...]:
    try:
        lists = JsonFields(parse_json_object(data)).need("members", list_of(list_of(TEXT)))
    except (ValueError, RecursionError) as error:
        raise DamagedIndex(str(error)) from error
    if any(len(names) > MAX_MEMBERS or len(set(names)) != len(names) for names in lists):
        raise DamagedIndex("a list of members that cannot be")
    return tuple(map(tuple, lists))


def _check_shards(shards: npt.NDArray[np.void], num_samples: int, num_lists: int) -> None:
    numbers, samples, flags = shards["shard"], shards["samples"], shards["flags"]
    if not len(shards):
        raise DamagedIndex("no shard")
    if numbers[0] < 0 or (numbers[1:] <= numbers[:-1]).any():
        raise DamagedIndex("its shards are not in order")
    if (samples < 0).any() or (samples > 2**40).any() or (shards["tar_bytes"] < 0).any():
        raise DamagedIndex("a number of samples or bytes that cannot be")
    here = np.where(flags & REGULAR, samples, 0)
    ends = np.cumsum(here)
    if ends[-1] != num_samples or (shards["first"] != ends - here).any():
        raise DamagedIndex("its shards do not add up to its samples")
    if (shards["names"] >= max(num_lists, 1)).any() or (num_lists == 0 and num_samples):
        raise DamagedIndex("a list of members that is not there")
    if (shards["clip_digits"] > 9).any():
        raise DamagedIndex("keys of an unknown form")


@dataclass(frozen=True, slots=True, eq=False)
class ShardView(ShardIndex):
    """One shard of a packed index: nothing is read until it is asked for. See `ShardIndex`."""

    index: PackedIndex
    place: int
    _keys: npt.NDArray[np.str_] | None = None
    """At most once, and as long as the view: some ask for all keys again at each row."""

    @property
    def shard(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return int(self.index.shards["shard"][self.place])

    @property
    def store(self) -> Store:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.index.store

    @property
    def tar_bytes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return int(self.index.shards["tar_bytes"][self.place])

    @property
    def tar_sha256(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return bytes(self.index.shards["tar_sha256"][self.place]).hex()

    def __len__(self) -> int:
        return int(self.index.shards["samples"][self.place])

    @property
    def keys(self) -> npt.NDArray[np.str_]:
        if not self._regular:
            return self.index.own(self.place).keys
        if self._keys is None:
            samples, digits = self._samples, self._clip_digits
            pairs = zip(samples["row"].tolist(), samples["clip"].tolist(), strict=True)
            keys = [house_key(self.name, row, clip, digits) for row, clip in pairs]
            object.__setattr__(self, "_keys", np.asarray(keys, dtype=np.str_))
        assert self._keys is not None
        return self._keys

    def row_names(self) -> npt.NDArray[np.str_]:
        if not self._regular:
            return self.index.own(self.place).row_names()
        rows_N = self._samples["row"].astype(np.int64)
        if len(rows_N) and rows_N.max() >= 10**KEY_ROW_DIGITS:  # not of the house's form, whatever the file says
            return self.keys
        letters_NC = np.empty((len(rows_N), len(self.name) + KEY_ROW_DIGITS), np.uint32)
        letters_NC[:, : len(self.name)] = [ord(letter) for letter in self.name]
        for place in range(KEY_ROW_DIGITS):
            letters_NC[:, len(self.name) + place] = ord("0") + rows_N // 10 ** (KEY_ROW_DIGITS - 1 - place) % 10
        return letters_NC.view(f"U{letters_NC.shape[1]}")[:, 0]

    @property
    def places(self) -> Mapping[str, npt.NDArray[np.int64]]:
        if not self._regular:
            return self.index.own(self.place).places
        places = member_places(self._samples["start"], self._samples["sizes"])
        by_name = {name: places[:, i] for i, name in enumerate(self._names)}
        try:
            refuse_wild_places(self.keys, by_name, self.tar_bytes)
        except ValueError as error:
            raise self.index.wrong(self.place, str(error)) from error
        # what no sample has is no member of the shard
        return {name: places_N2 for name, places_N2 in by_name.items() if (places_N2[:, 0] >= 0).any()}

    def key(self, row: int) -> str:
        if not self._regular:
            return self.index.own(self.place).key(row)
        _, number, clip, _ = self._sample(row)
        return house_key(self.name, number, clip, self._clip_digits)

    def members(self, row: int) -> Members:
        if not self._regular:
            return self.index.own(self.place).members(row)
        start, _, _, sizes = self._sample(row)
        found, place, tar_bytes = {}, start, self.tar_bytes
        for name, size in zip(self._names, sizes.tolist(), strict=False):
            if size == ABSENT:
                continue
            if size > MAX_MEMBER_BYTES or place + BLOCK + size > tar_bytes:
                what = f"sample {self.key(row)}: member {name!r} is said to have {size} bytes from {place + BLOCK} on"
                raise self.index.wrong(self.place, f"{what}, in a tar of {tar_bytes}")
            found[name] = (place + BLOCK, size)
            place += BLOCK + -(-size // BLOCK) * BLOCK
        return found

    def member(self, row: int, name: str) -> tuple[int, int]:
        try:
            return self.members(row)[name]
        except KeyError:
            if not self.index.shards["flags"][self.place] & COMPLETE:
                raise
            raise self.index.wrong(self.place, f"that sample {self.key(row)} has no member {name!r}") from None

    def row_of(self, key: str) -> int | None:
        if not self._regular:
            return self.index.own(self.place).row_of(key)
        prefix, digits = self.name, key[len(self.name) :]
        if not (key.startswith(prefix) and digits.isascii() and digits.isdigit()):
            return None
        row, clip = int(digits[:KEY_ROW_DIGITS]), int(digits[KEY_ROW_DIGITS:] or 0)
        if clip >= 2**32 or house_key(prefix, row, clip, self._clip_digits) != key:
            return None
        rows = np.flatnonzero((self._samples["row"] == row) & (self._samples["clip"] == clip))
        return int(rows[0]) if len(rows) else None

    def lacking(self, name: str) -> npt.NDArray[np.int64]:
        if not self._regular:
            return self.index.own(self.place).lacking(name)
        if name not in self._names:
            return np.arange(len(self))
        if self.index.shards["flags"][self.place] & COMPLETE:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self._samples["sizes"][:, self._names.index(name)] == ABSENT)

    def same_keys(self, other: ShardIndex) -> bool:
        if isinstance(other, ShardView) and self._regular and other._regular:
            alike = (self.shard, self._clip_digits, len(self)) == (other.shard, other._clip_digits, len(other))
            mine, theirs = self._samples, other._samples
            return alike and all(np.array_equal(mine[name], theirs[name]) for name in ("row", "clip"))
        return np.array_equal(self.keys, other.keys)

    @property
    def _regular(self) -> bool:
        return self.index.is_regular(self.place)

    @property
    def _names(self) -> tuple[str, ...]:
        names = self.index.names
        return names[int(self.index.shards["names"][self.place])] if names else ()

    @property
    def _clip_digits(self) -> int:
        return int(self.index.shards["clip_digits"][self.place])

    @property
    def _samples(self) -> npt.NDArray[np.void]:
        first = int(self.index.shards["first"][self.place])
        return self.index.samples[first : first + len(self)]

    def _sample(self, row: int) -> tuple[int, int, int, npt.NDArray[np.uint32]]:
        count = len(self)
        if not -count <= row < count:
            raise IndexError(f"sample {row} of {count}")
        first = int(self.index.shards["first"][self.place])
        return self.index.samples[first + row % count].item()


def house_key(prefix: str, row: int, clip: int, clip_digits: int) -> str:
    """The key of a sample by its shard's name, its row, and its clip where there are clips (`clip_digits` > 0)."""
    key = f"{prefix}{row:0{KEY_ROW_DIGITS}d}"
    return f"{key}{clip:0{clip_digits}d}" if clip_digits else key


def member_places(start_N: npt.NDArray[np.uint64], sizes_NM: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Where the members lie: int64 [N, M, 2] of (offset, size), -1 where there is none. A start too large to be true
    comes out as an offset that is refused."""
    sizes = sizes_NM.astype(np.int64)
    absent = sizes_NM == ABSENT
    taken = np.where(absent, 0, BLOCK + -(-sizes // BLOCK) * BLOCK)
    start = np.minimum(start_N, 2**62).astype(np.int64)
    offsets = start[:, None] + BLOCK + np.cumsum(taken, axis=1) - taken
    return np.where(absent[..., None], -1, np.stack([offsets, sizes], axis=-1))


def head_of(num_samples: int, num_shards: int, begun_ns: int, names: Sequence[Sequence[str]]) -> bytes:
    """The head of a file."""
    data = json.dumps({"members": [list(each) for each in names]}).encode()
    return (HEAD.pack(MAGIC, num_samples, num_shards, begun_ns, len(data)) + data).ljust(HEAD_BYTES, b"\0")
