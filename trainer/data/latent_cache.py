"""Reading cached VAE latents: sibling shards of a dataset, below its `_dataset/latents/`.

One cache belongs to one VAE and one image size; its card says which. It is a dataset folder like any other, with
one member `KEY.latents.npy` a sample: float16 [F, 2C, H, W], mean over log-variance of each cached frame's latent
distribution (not scaled), of the unflipped crop. Cached is every frame, or those that clips which start at
multiples of their stride are made of (`ClipPlan.needed_frames`). A cache that is not exactly right for a run is
refused, never mixed with uncached samples.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError, UsageError
from lposekit.json_values import COUNT, JsonFields, JsonObject, JsonValue, list_of
from lposekit.records import shard_name
from lposekit.shards.card import differing_fields, read_card, stated
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from lposekit.store import RefusedFile
from lposekit.store_reads import kind_of
from trainer.data.catalog import Dataset, open_dataset_folder
from trainer.data.decode import ClipPlan

log = logging.getLogger(__name__)

MEMBER = "latents.npy"
EVERY_FRAME = "all"
IDENTITY = ("vae_sha256", "size", "crop")


def caches_folder(dataset_root: Path) -> Path:
    """Where the caches of a dataset lie, one folder each."""
    return DatasetLayout(dataset_root).latents


@dataclass(frozen=True, slots=True)
class LatentCache:
    """A cache whose shards are those of its dataset, in the same order. `shape`: (2C, H, W) of one frame.
    `every_frame`: or those a stride apart."""

    folder: Dataset
    shape: tuple[int, int, int]
    every_frame: bool = True

    def read_clip(self, shard: int, row: int, frames_F: npt.NDArray[np.int64], stride: int) -> npt.NDArray[np.float16]:
        """Moments float16 [F, 2C, H, W] of these source frames of a clip, of whose frames every `stride`-th is cached
        where not all are."""
        return self.read(shard, row, frames_F if self.every_frame else frames_F // stride)

    def read(self, shard: int, row: int, frames_F: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """Moments float16 [F, 2C, H, W] of these cached frames of a sample.

        Raises:
            LposekitError: the cache is damaged or has fewer frames.
        """
        piece = self.folder.shards[shard]
        offset, size = piece.member(row, MEMBER)
        frame_bytes = 2 * int(np.prod(self.shape))
        # the rest is numpy's header, always shorter than a frame
        header, num_frames = size % frame_bytes, size // frame_bytes
        if frames_F[-1] >= num_frames:
            raise LposekitError(
                f"{self.folder.describe(piece)}: sample {piece.key(row)} has {num_frames} cached frames, "
                f"frame {frames_F[-1]} is wanted. Delete the cache and run `lposekit cache-latents` again."
            )
        moments_FCHW = np.empty((len(frames_F), *self.shape), np.float16)
        for i, frame in enumerate(frames_F.tolist()):
            place = offset + header + frame * frame_bytes
            data = self.folder.source.read(piece.tar_name, place, frame_bytes, piece.tar_bytes)
            if len(data) != frame_bytes:
                raise LposekitError(f"{self.folder.describe(piece)}: cut short at sample {piece.key(row)}.")
            moments_FCHW[i] = np.frombuffer(data, np.float16).reshape(self.shape)
        return moments_FCHW


def cache_identity(vae_sha256: str, size: int, crop: str = "center") -> dict[str, JsonValue]:
    """What has to agree between a cache and a run."""
    return dict(zip(IDENTITY, (vae_sha256, size, crop), strict=True))


def cached_frames(clip: ClipPlan | None) -> JsonValue:
    """Which frames a cache holds that serves these clips and no others; None: images."""
    if clip is None or not clip.on_stride:
        return EVERY_FRAME
    return {"frames": clip.frames, "stride": clip.stride, "stride_s": clip.stride_s}


def open_cache(
    dataset: Dataset, identity: JsonObject, frames: JsonValue = EVERY_FRAME, begun_with: str | None = None
) -> LatentCache:
    """The cache of a dataset for this VAE and size: of several, the first by name that is whole.

    Args:
        frames: what `cached_frames` says of the run's clips; a cache of every frame serves as well.
        begun_with: name of the cache that a resumed run had, before all others.

    Raises:
        UsageError: there is none; says how those that are there differ.
        LposekitError: it does not cover every shard, was made from other shards, or is damaged.
    """
    problems = []
    roots = _matching_caches(dataset, identity, frames)
    for root in sorted(roots, key=lambda root: root.name != begun_with):
        try:
            cache = _open_whole(dataset, root)
        except LposekitError as problem:
            # another precision or batch size of the same VAE may be whole
            problems.append(problem)
            continue
        log.info("latents of %s from %s (%s)", dataset.root, root, (cache.folder.card.fixed or {}).get("precision"))
        return cache
    raise problems[0]


def _open_whole(dataset: Dataset, root: Path) -> LatentCache:
    covered = set(DatasetLayout(root).committed_shards())
    wanted = [int(shard.name) for shard in dataset.shards]
    absent = [number for number in wanted if number not in covered]
    if absent:
        raise LposekitError(
            f"the latent cache {root} lacks {len(absent)} of {len(wanted)} shards (first: {shard_name(absent[0])}); "
            f"cached and uncached samples are never mixed. Run `lposekit cache-latents {dataset.root}` to complete it."
        )
    folder = open_dataset_folder(root)
    folder.check_sizes()
    by_name = {shard.name: shard for shard in folder.shards}
    ordered = tuple(by_name[shard.name] for shard in dataset.shards)
    for shard, cached in zip(dataset.shards, ordered, strict=True):
        _check_origin(DatasetLayout(root), dataset, shard, cached)
    folder = Dataset(folder.root, folder.kind, folder.card, ordered, folder.source)
    return LatentCache(folder, _shape(folder), _frames_of(folder.card.fixed or {}) == EVERY_FRAME)


def _shape(folder: Dataset) -> tuple[int, int, int]:
    """(2C, H, W) of one frame, as the card of a cache states it."""
    layout = DatasetLayout(folder.root)
    try:
        shape = JsonFields(folder.card.extra).take("shape", list_of(COUNT))
        channels, height, width = stated(shape, "shape", layout)
    except ValueError as error:
        raise LposekitError(
            f"{layout.card}: {error}. Delete the cache and run `lposekit cache-latents` again."
        ) from error
    return channels, height, width


def _frames_of(fixed: JsonObject) -> JsonValue:
    """Which frames a cache holds; those of older versions hold all."""
    return fixed.get("frames") or EVERY_FRAME


def _matching_caches(dataset: Dataset, identity: JsonObject, frames: JsonValue) -> list[Path]:
    """At least one, whole or not."""
    matching, described = [], []
    for root in _cache_folders(dataset):
        found = read_card(DatasetLayout(root)).fixed or {}
        differing = differing_fields({name: found.get(name) for name in identity}, dict(identity))
        if (cached := _frames_of(found)) not in (EVERY_FRAME, frames):
            differing.append(f"frames of clips: {_in_words(cached)} -> {_in_words(frames)}")
        if differing:
            described.append(f"{root.name} ({'; '.join(differing)})")
        else:
            matching.append(root)
    if matching:
        return matching
    have = f"It has others: {', '.join(described)}." if described else "It has none."
    raise UsageError(
        f"{dataset.root} has no latent cache for this base, size, crop and clips. {have} "
        "Run `lposekit cache-latents` with the same --base, --size, --crop and --clip.*, or leave --loader.latents out."
    )


def _in_words(frames: JsonValue) -> str:
    if not isinstance(frames, Mapping):
        return "every one (--clip.start any)"
    stride = f"stride_s {frames.get('stride_s')}" if frames.get("stride_s") else f"stride {frames.get('stride')}"
    return f"those of --clip.start stride ({stride}, {frames.get('frames')} frames)"


def caches_like(dataset: Dataset, fixed: JsonObject) -> dict[Path, list[str]]:
    """The caches of a dataset that have the VAE, size and crop of `fixed`, with what else differs from it."""
    found = {}
    for root in _cache_folders(dataset):
        theirs = read_card(DatasetLayout(root)).fixed or {}
        if all(theirs.get(name) == fixed[name] for name in IDENTITY):
            found[root] = differing_fields({name: theirs.get(name) for name in fixed}, dict(fixed))
    return found


def _cache_folders(dataset: Dataset) -> list[Path]:
    """Those with a card, sorted by name."""
    layout = DatasetLayout(dataset.root)
    folders = layout.relative(caches_folder(dataset.root))
    try:
        names = [name for name, kind in layout.store.list(folders).items() if kind == "folder"]
        cards = {name: f"{folders}/{name}/{layout.relative(layout.card)}" for name in names}
        return [layout.root / folders / name for name, card in cards.items() if kind_of(layout.store, card) == "file"]
    except FileNotFoundError:
        return []
    except RefusedFile as error:
        raise UsageError(f"{layout.root}: {error}. Remove it, or put the folder itself in its place.") from error
    except OSError as error:
        raise LposekitError(f"{layout.root}: its latent caches cannot be read ({error}).") from error


def _check_origin(layout: DatasetLayout, dataset: Dataset, shard: ShardIndex, cached: ShardIndex) -> None:
    origin = layout.read_stats(int(shard.name)).source_sha256
    if origin != shard.tar_sha256 or not shard.same_keys(cached):
        raise LposekitError(
            f"the latent cache {layout.root} was made from another {dataset.describe(shard)}: that shard was "
            "built again since. "
            "Delete the cache and run `lposekit cache-latents` again."
        )
