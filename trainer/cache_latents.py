"""`lposekit cache-latents`: encode a dataset once, so that training needs no VAE (39 % of stage 1).

One shard of the cache for each shard of the dataset, committed as those are. Batches never cross shards and
everything that decides a byte is in the card, so the same command gives the same bytes, and a killed one goes on
with the next shard.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lposekit.json_values import JsonValue
from lposekit.report.page import file_size
from lposekit.setting_values import check_values
from lposekit.shards.card import DatasetCard, claim_folder, update_card
from lposekit.shards.files import refuse_address, refuse_links
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.stats import ShardStats
from lposekit.shards.writer import ShardWriter, finish_replacements, remove_partials
from lposekit.words import counted
from trainer.data.batch import vae_input_BF3HW
from trainer.data.catalog import Dataset, open_dataset_folder
from trainer.data.decode import DamagedSample, Framing, decode_clip, decode_training_image, read_clip_facts
from trainer.data.latent_cache import MEMBER, cache_identity, caches_folder
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom
from trainer.data.reader import damaged_sample
from trainer.model.base import encode_images, load_base, weights_digest
from trainer.run.build import DTYPES
from trainer.run.distributed import choose_device
from trainer.run.folder import own_folder
from trainer.settings import NEEDED_TO_CACHE, CacheLatentsSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The end of a `cache-latents` run. `shards`: all of the dataset; `new_shards`: those that this run encoded."""

    output: Path
    shards: int
    new_shards: int
    samples: int
    num_bytes: int
    seconds: float
    dry_run: bool = False
    exit_code: int = 0

    def as_json(self) -> dict[str, object]:
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "output": str(self.output)}

    def summary_lines(self) -> list[str]:
        what = "to encode" if self.dry_run else "encoded"
        shards = f"{self.new_shards} of {counted(self.shards, 'shard')}"
        line = f"{self.output}: {shards} {what}, {counted(self.samples, 'sample')}"
        if self.dry_run:
            return [line]
        return [
            f"{line}, {file_size(self.num_bytes)} in {self.seconds:.1f} s",
            "train with it: lposekit train --loader.latents",
        ]


@dataclass(frozen=True, slots=True)
class _Encoder:
    """The VAE, and in how many images at a time it works."""

    vae: AutoencoderKL
    batch_size: int
    device: torch.device

    def moments(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float16]]:
        """Mean over log-variance float16 [2C, h, w] of each image uint8 [H, W, 3]."""
        iterator = iter(images)
        while group := list(itertools.islice(iterator, self.batch_size)):
            rgb = torch.from_numpy(np.stack(group)).to(self.device)
            moments = encode_images(self.vae, vae_input_BF3HW(rgb[:, None]))[:, 0]
            yield from moments.to("cpu", torch.float16).numpy()


def run(settings: CacheLatentsSettings, *, dry_run: bool = False) -> CacheReport:
    """Encode every shard of a dataset that the cache lacks.

    Raises:
        UsageError: wrong settings, or the folder holds a cache of other settings.
        LposekitError: the dataset is damaged, or the disk is full.
    """
    check_values(settings, required=NEEDED_TO_CACHE)
    assert settings.data is not None
    assert settings.base is not None
    refuse_address(settings.data)
    started = time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    dataset = open_dataset_folder(settings.data)
    dataset.check_sizes()
    device = choose_device(settings.device)
    precision = settings.precision or ("bf16" if device.type == "cuda" else "fp32")
    vae = load_base(settings.base).vae.requires_grad_(False).eval()
    fixed = {
        **cache_identity(weights_digest(vae), settings.size),
        "precision": precision,
        "batch_size": settings.batch_size,
    }
    layout = DatasetLayout(caches_folder(settings.data) / _name(fixed))
    missing = _missing_shards(dataset, layout)
    torch.nn.Module.to(vae, device, DTYPES[precision])
    if not dry_run:
        refuse_links(settings.data)  # the folders on the way to the cache as well
        with own_folder(layout.root):
            _prepare(layout, fixed, vae, settings, dataset)
            encoder = _Encoder(vae, settings.batch_size, device)
            for shard in missing:
                _encode_shard(dataset, shard, layout, encoder, settings.size)
            update_card(layout)
    samples = sum(len(shard) for shard in missing)
    tars = [layout.tar(int(shard.name)) for shard in dataset.shards]
    num_bytes = sum(path.stat().st_size for path in tars if path.exists())
    seconds = time.monotonic() - started
    return CacheReport(layout.root, len(dataset.shards), len(missing), samples, num_bytes, seconds, dry_run)


def _name(fixed: dict[str, JsonValue]) -> str:
    """Folder of a cache: one for each VAE, size, precision and batch size."""
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12]


def _missing_shards(dataset: Dataset, layout: DatasetLayout) -> list[ShardIndex]:
    """Shards without an entry in the cache, or whose entry was made from other bytes."""
    made_from = {shard: layout.read_stats(shard).source_sha256 for shard in layout.committed_shards()}
    return [shard for shard in dataset.shards if made_from.get(int(shard.name)) != shard.tar_sha256]


def _prepare(
    layout: DatasetLayout,
    fixed: dict[str, JsonValue],
    vae: AutoencoderKL,
    settings: CacheLatentsSettings,
    dataset: Dataset,
) -> None:
    side = settings.size // 2 ** (len(vae.config["block_out_channels"]) - 1)
    facts = {
        "of": dataset.kind,
        "shape": [2 * vae.config["latent_channels"], side, side],
        "scaling_factor": vae.config["scaling_factor"],
        "base": settings.base,
    }
    claim_folder(layout, DatasetCard(kind="latents", fixed=fixed, extra=facts))
    finish_replacements(layout)
    remove_partials(layout)


def _encode_shard(dataset: Dataset, shard: ShardIndex, layout: DatasetLayout, encoder: _Encoder, size: int) -> None:
    writer = ShardWriter(layout, int(shard.name), f"run{os.getpid()}")
    counts: list[int] = []

    def images() -> Iterator[npt.NDArray[np.uint8]]:
        for row in range(len(shard)):
            frames_FHWC = _decode(dataset, shard, row, size)
            counts.append(len(frames_FHWC))
            yield from frames_FHWC

    moments = encoder.moments(images())
    for row, key in enumerate(shard.keys.tolist()):
        first = next(moments)
        # the first frame's moments are there, so its row's frames have been counted
        rest = list(itertools.islice(moments, counts[row] - 1))
        writer.add(key, {MEMBER: _npy(np.stack([first, *rest]))})
    table = pa.table({"key": shard.keys.tolist(), "frames": pa.array(counts, pa.int32())})
    writer.commit(table, ShardStats(count=len(shard), outcomes={"kept": len(shard)}, source_sha256=shard.tar_sha256))
    log.info("%s: %d samples encoded", dataset.describe(shard), len(shard))


def _decode(dataset: Dataset, shard: ShardIndex, row: int, size: int) -> npt.NDArray[np.uint8]:
    """All frames of a sample, centre crop, uint8 [F, size, size, 3]."""
    # centre crops draw nothing, so any draw will do
    random = SampleRandom(0, SampleRef(0, 0, row, 0))
    try:
        if dataset.kind == "image":
            jpg = dataset.read(shard, row, ["jpg"])["jpg"]
            return decode_training_image(jpg, Framing(size), random)[0][None]
        members = dataset.read(shard, row, ["json", "mp4"])
        num_frames, _ = read_clip_facts(members["json"])
        return decode_clip(members["mp4"], np.arange(num_frames), Framing(size), random)
    except DamagedSample as error:
        raise damaged_sample(dataset, shard, row, error) from error


def _npy(array: npt.NDArray[np.float16]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()
