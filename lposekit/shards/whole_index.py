"""The index of a whole dataset: found, made or made anew, and given out as the indexes of its shards.

It is derived: `_dataset/index.bin` belongs to no commit, and whoever opens a folder whose commit markers it does not
fit replaces it, taking over what still holds. A folder that cannot be written to has its index in the user's cache; one
of few shards has none on the disk (docs/decisions/2026-11-29-whole-index.md).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import logging
import mmap
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import platformdirs

from lposekit.errors import LposekitError
from lposekit.remote.places import is_remote, place_of
from lposekit.shards.files import disk_error, open_own, replacing
from lposekit.shards.index import ShardIndex, no_shards, refuse_half_replaced, size_problem
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.markers import Markers, scan_markers, unchanged_places
from lposekit.shards.packed import DamagedIndex, PackedIndex, ShardView
from lposekit.shards.packing import Packer
from lposekit.store import LocalFile, LocalStore, Store
from lposekit.store_reads import copy_to

log = logging.getLogger(__name__)

KEPT_FROM = 64
"""Shards from which on an index is kept on the disk: fewer are read as fast as it is checked."""
COPIED_FROM = 64
"""Markers with other times and the same bytes from which on an index is written anew: the folder was copied."""
LOCK_WAIT_S = 600.0
SAID_FROM = 1000
KEPT_DAYS, KEPT_BYTES = 90, 20 * 10**9
"""Of the indexes in the user's cache: those that nobody opened for so long go when a new one is written, and the
longest unused ones beyond so many bytes."""


class ShardList(Sequence[ShardIndex]):
    """The shards of a dataset, in order. None of them is held: each is made when it is asked for."""

    def __init__(self, packed: PackedIndex, tar_bytes: npt.NDArray[np.int64] | None = None) -> None:
        """tar_bytes: what the folder's listing said of the tars, -1 where there is no file."""
        self.packed = packed
        self._tar_bytes = tar_bytes

    def __len__(self) -> int:
        return len(self.packed)

    @overload
    def __getitem__(self, place: int) -> ShardIndex: ...
    @overload
    def __getitem__(self, place: slice) -> list[ShardIndex]: ...
    def __getitem__(self, place: int | slice) -> ShardIndex | list[ShardIndex]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"shard {place} of {len(self)}")
        return ShardView(self.packed, place % len(self))

    def __iter__(self) -> Iterator[ShardIndex]:
        return (ShardView(self.packed, place) for place in range(len(self)))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Samples of each shard, int64 [N]."""
        return np.array(self.packed.shards["samples"], np.int64)

    @property
    def all_regular(self) -> bool:
        """Whether all keys name their shard, row and clip: then no two samples share one."""
        return bool((self.packed.shards["flags"] & 1).all())

    def without(self, names: Sequence[str]) -> Iterator[ShardIndex]:
        """The shards of which some sample may lack one of these members."""
        table, lists = self.packed.shards, self.packed.names
        full = np.array([set(names) <= set(each) for each in lists] or [False])
        sure = full[np.minimum(table["names"], len(full) - 1)] & ((table["flags"] & 3) == 3)
        return (self[place] for place in np.flatnonzero(~sure & (table["samples"] > 0)).tolist())

    def size_problems(self) -> Iterator[tuple[ShardIndex, str]]:
        """The shards whose tars the listing said to be of another size than committed, and what is to be said."""
        if self._tar_bytes is None:
            places = range(len(self))
        else:
            places = np.flatnonzero(self._tar_bytes != self.packed.shards["tar_bytes"]).tolist()
        for place in places:
            if (problem := size_problem(self[place])) is not None:
                yield self[place], problem

    def __reduce__(self) -> tuple[object, ...]:
        """For workers that are not forked: they find the same file, or make the index again."""
        return read_index, (self.packed.layout.root,)


def read_index(dataset_dir: str | Path) -> ShardList:
    """The indexes of every committed shard of a dataset folder, in order.

    Raises:
        LposekitError: the folder is no dataset, or a shard's index is missing or damaged.
    """
    layout = DatasetLayout(place_of(dataset_dir))
    markers = scan_markers(layout)
    refuse_half_replaced(layout, markers.half_replaced)
    if not len(markers.shards):
        raise no_shards(layout)
    return ShardList(_index_of(layout, markers), markers.tar_bytes)


def kept_index(layout: DatasetLayout) -> PackedIndex | None:
    """What lies in the folder as its index, whether it still fits or not; None if there is nothing.

    Raises:
        DamagedIndex: it is damaged. OSError: it is refused.
    """
    if not isinstance(layout.store, LocalStore):
        return None  # readers hold their copy against the markers
    try:
        return _mapped(layout, layout.store, layout.relative(layout.whole_index))
    except FileNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an index may lie on a local disk."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / self.name


def _index_of(layout: DatasetLayout, markers: Markers) -> PackedIndex:
    if len(markers.shards) < KEPT_FROM:
        return _unkept(layout, markers, None, np.full(len(markers.shards), -1))
    best: tuple[PackedIndex, npt.NDArray[np.int64]] | None = None
    places = list(_places(layout))
    for place in places:
        found = _fitting(layout, place, markers)
        if found is not None and found.fits:
            return found.index
        if found is not None and (best is None or (found.old_places >= 0).sum() > (best[1] >= 0).sum()):
            best = found.index, found.old_places
    old, old_places = best or (None, np.full(len(markers.shards), -1))
    for place in places:
        try:
            return _make(layout, place, markers, old, old_places)
        except OSError as error:
            log.debug("no index at %s: %s", place.path, error)
    return _unkept(layout, markers, old, old_places)


def _places(layout: DatasetLayout) -> Iterator[_Place]:
    """Where the index of a folder may lie, best first."""
    with contextlib.suppress(OSError):
        # nothing is written through a link
        if isinstance(layout.store, LocalStore) and layout.store.stat(layout.relative(layout.meta)).kind == "folder":
            yield _Place(layout.meta, layout.whole_index.name)
    where = str(layout.root if is_remote(layout.root) else layout.root.resolve())
    name = f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.bin"
    yield _Place(_cache_folder(), name)


@dataclass(frozen=True, slots=True)
class _Found:
    index: PackedIndex
    old_places: npt.NDArray[np.int64]
    fits: bool


def _fitting(layout: DatasetLayout, place: _Place, markers: Markers) -> _Found | None:
    """What lies at a place, held against the markers; None if there is nothing of use."""
    try:
        if not isinstance(layout.store, LocalStore) and not place.path.exists():
            _fetch(layout, place, markers)
        index = _mapped(layout, LocalStore(place.folder), place.name)
    except OSError:
        return None
    except DamagedIndex as error:
        log.warning("%s: %s; it is made anew", place.path, error)
        return None
    old_places, copied = unchanged_places(layout, markers, index)
    whole = len(index) == len(markers.shards) and bool((old_places >= 0).all())
    return _Found(index, old_places, whole and copied < COPIED_FROM)


def _fetch(layout: DatasetLayout, place: _Place, markers: Markers) -> None:
    """A copy of the index that lies with a dataset in an object store. Raises OSError: there is none."""
    name = layout.relative(layout.whole_index)
    size = layout.store.stat(name).size
    # a sample takes at least a block of header and one of bytes
    if size > (1 << 20) + int(np.maximum(markers.tar_bytes, 0).sum()) // 8 + 256 * len(markers.shards):
        raise OSError(errno.EFBIG, "an index larger than its dataset can have", name)
    with replacing(place.path, f"{place.name}.{secrets.token_hex(4)}.partial") as partial:
        copy_to(layout.store, name, partial)


def _mapped(layout: DatasetLayout, store: Store, name: str) -> PackedIndex:
    """An index file, its pages shared with whoever maps it too."""
    with contextlib.closing(store.open(name)) as file:
        if not file.size:
            raise DamagedIndex("it is empty")
        assert isinstance(file, LocalFile)
        return PackedIndex.of(layout, mmap.mmap(file.descriptor, file.size, prot=mmap.PROT_READ))


def _make(
    layout: DatasetLayout, place: _Place, markers: Markers, old: PackedIndex | None, old_places: npt.NDArray[np.int64]
) -> PackedIndex:
    """Write an index, or take the one that another process has written meanwhile.

    Raises:
        OSError: it cannot be written there. LposekitError: a shard is damaged.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        found = _fitting(layout, place, markers)
        if found is not None and found.fits:
            return found.index
        if (num_new := int((old_places < 0).sum())) >= SAID_FROM:
            log.info("%s: making the index of %d shards, once", layout.root, num_new)
        for leftover in place.folder.glob(f"{place.name}.*.partial"):  # of a process that was killed at it
            leftover.unlink(missing_ok=True)
        partial_name = f"{place.name}.{secrets.token_hex(4)}.partial"
        with replacing(place.path, partial_name) as partial, partial.open("xb") as stream:
            begun_ns = os.fstat(stream.fileno()).st_mtime_ns  # by the clock of the markers, if they lie there too
            Packer(layout, begun_ns).write(stream, markers, old, old_places)
        if place.folder == _cache_folder():
            prune(place.folder, keep=place.name)
        return _mapped(layout, LocalStore(place.folder), place.name)


def _cache_folder() -> Path:
    """Where indexes of folders lie that cannot be written to."""
    return platformdirs.user_cache_path("lposekit") / "indexes"


def prune(folder: Path, keep: str) -> None:
    """Remove the indexes that nobody used for `KEPT_DAYS`, and the longest unused ones beyond `KEPT_BYTES`. Whoever has
    one mapped goes on reading it; an index is derived, and made anew where it is wanted again."""
    found = []
    for path in folder.glob("*.bin"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            found.append((max(facts.st_atime, facts.st_mtime), facts.st_size, path))
    total, oldest = 0, time.time() - 86_400 * KEPT_DAYS
    for used, size, path in sorted(found, reverse=True):
        total += size
        if path.name != keep and (used < oldest or total > KEPT_BYTES):
            log.info("%s: an index that was not used for %.0f days is removed", path, (time.time() - used) / 86_400)
            with contextlib.suppress(OSError):
                path.unlink()
                path.with_suffix(".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(place: _Place) -> Iterator[None]:
    """One process of a machine makes an index, the others wait for it; but not for ever."""
    descriptor = open_own(place.path.with_suffix(".lock"), os.O_RDWR)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not _try_lock(descriptor) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: then each makes its own
    return True


def _unkept(
    layout: DatasetLayout, markers: Markers, old: PackedIndex | None, old_places: npt.NDArray[np.int64]
) -> PackedIndex:
    """An index that no other process sees: of few shards, or where nothing can be kept."""
    packer = Packer(layout, time.time_ns())
    try:
        if len(markers.shards) >= KEPT_FROM:
            with tempfile.TemporaryFile() as file:
                packer.write(file, markers, old, old_places)
                file.flush()
                return PackedIndex.of(layout, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        stream = io.BytesIO()
        packer.write(stream, markers, old, old_places)
        return PackedIndex.of(layout, stream.getbuffer())
    except DamagedIndex as error:
        raise LposekitError(f"{layout.root}: {error}. Run `lposekit verify {layout.root}`.") from error
    except OSError as error:
        raise disk_error(error, Path(tempfile.gettempdir())) from error
