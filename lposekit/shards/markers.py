"""The commit markers of a folder, looked at in one scan: whether an index of all shards is still theirs."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.shards.layout import MARKER_SUFFIX, DatasetLayout, shard_file, shard_set_aside
from lposekit.shards.packed import PackedIndex
from lposekit.shards.stats import MAX_BYTES
from lposekit.store import LocalStore
from lposekit.store_reads import read_whole

YOUNG_NS = 2 * 10**9
"""Two writes within this time may leave the same time behind: that of FAT, the coarsest file system."""
_READERS = 16
_NO_MD5 = bytes(16)


@dataclass(frozen=True, slots=True)
class Markers:
    """The committed shards, in order, and what the scan told of them. Arrays [N]: shards, int64; sizes and changed_ns
    of their markers, int64; md5s, V16, zeros where the store knows none; tar_bytes, int64, -1 where there is no file.
    """

    shards: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    changed_ns: npt.NDArray[np.int64]
    md5s: npt.NDArray[np.void]
    tar_bytes: npt.NDArray[np.int64]
    half_replaced: tuple[int, ...] = ()
    """Shards whose marker is set aside, and whose new one is not there yet: neither the old nor the new one."""


def scan_markers(layout: DatasetLayout) -> Markers:
    """Look at all markers and tars of a folder at once; none of them is opened.

    Raises:
        LposekitError: the folder cannot be listed.
    """
    numbers, facts, md5s, tars, aside = array("q"), array("q"), bytearray(), array("q"), set[int]()
    try:
        for entry in layout.store.scan():
            named = shard_file(entry.name)
            if named is None or named[1] not in (MARKER_SUFFIX, ".tar"):
                if (replaced := shard_set_aside(entry.name)) is not None:
                    aside.add(replaced)
                continue
            with contextlib.suppress(FileNotFoundError):  # it is being replaced
                found = entry.facts()
                if named[1] == ".tar":
                    tars.extend((named[0], found.size if found.kind == "file" else -1))
                else:
                    numbers.append(named[0])
                    facts.extend((found.size, found.changed_ns))
                    md5s += found.md5 or _NO_MD5
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise LposekitError(f"{layout.root}: cannot be listed ({error}).") from error
    shards = np.array(numbers, np.int64)
    order = np.argsort(shards)
    facts_N2, tars_T2 = np.array(facts, np.int64).reshape(-1, 2)[order], np.array(tars, np.int64).reshape(-1, 2)
    md5s_N = np.frombuffer(bytes(md5s), "V16")[order]
    return Markers(
        shards[order],
        facts_N2[:, 0],
        facts_N2[:, 1],
        md5s_N,
        _sizes_of(shards[order], tars_T2[:, 0], tars_T2[:, 1]),
        tuple(sorted(aside.difference(numbers))),
    )


def _sizes_of(
    shards: npt.NDArray[np.int64], tars: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The size of each shard's tar, -1 where there is none."""
    order = np.argsort(tars)
    place = np.minimum(np.searchsorted(tars[order], shards), max(len(tars) - 1, 0))
    if not len(tars):
        return np.full(len(shards), -1)
    return np.where(tars[order][place] == shards, sizes[order][place], -1)


def unchanged_places(layout: DatasetLayout, markers: Markers, index: PackedIndex) -> tuple[npt.NDArray[np.int64], int]:
    """Where the index has each shard as its marker is now, int64 [N], -1 where it has it not or otherwise; and how many
    markers had to be read to tell, because the folder was copied.

    A marker is the same by its size and time, or by its MD5 where the store knows it. One that has another time, or was
    written so shortly before the index that its time may be that of another one, is read; so is one of which the store
    states another MD5, for with some kinds of encryption it is none.
    """
    known = index.shards
    place = np.minimum(np.searchsorted(known["shard"], markers.shards), len(known) - 1)
    had = known[place]
    there = (had["shard"] == markers.shards) & (had["marker_bytes"] == markers.sizes)
    with_md5 = markers.md5s != np.void(_NO_MD5)
    same_md5 = with_md5 & (markers.md5s == had["marker_md5"])
    same_time = (had["marker_ns"] == markers.changed_ns) & (markers.changed_ns != 0)
    old_enough = markers.changed_ns < index.begun_ns - YOUNG_NS
    same = there & np.where(with_md5, same_md5, same_time & old_enough)
    doubtful = np.flatnonzero(there & ~same)
    for i, md5 in zip(doubtful.tolist(), _md5s(layout, markers.shards[doubtful].tolist()), strict=True):
        same[i] = md5 == bytes(had["marker_md5"][i])
    return np.where(same, place, -1), int((same & there & ~with_md5 & ~same_time).sum())


def _md5s(layout: DatasetLayout, shards: list[int]) -> list[bytes | None]:
    def read(shard: int) -> bytes | None:
        try:
            return marker_md5(layout, shard)
        except LposekitError:
            return None

    if isinstance(layout.store, LocalStore):
        return [read(shard) for shard in shards]
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, shards))


def marker_md5(layout: DatasetLayout, shard: int) -> bytes:
    """MD5 of a commit marker's bytes: it tells one from another, as in object stores, and vouches for nothing.

    Raises:
        LposekitError: it is missing, refused or too long.
    """
    try:
        data = read_whole(layout.store, layout.relative(layout.stats(shard)), MAX_BYTES)
    except (OSError, ValueError) as error:
        raise LposekitError(
            f"shard {layout.tar(shard).stem} of {layout.root}: its index or commit marker cannot be read ({error}). "
            f"Run `lposekit verify {layout.root}` to see all damage."
        ) from error
    return hashlib.md5(data, usedforsecurity=False).digest()
