"""The recipe of a latent cache: from the shards of a dataset to sibling shards with the latents of their samples."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import JsonValue
from lposekit.recipe import ActorHandle, AskActor, CardFacts, Claim, Machine, Pool, WriteShard
from lposekit.setting_values import MAY_CHANGE, check_values
from lposekit.shards.files import refuse_address, refuse_links
from lposekit.shards.index import ShardIndex
from lposekit.shards.layout import DatasetLayout
from trainer.cache_latents.cost import Cost, measure_speed, sizes_of, workers_here
from trainer.cache_latents.encoder import LocalEncoder, PooledEncoder, VaeActor, VaeSpec, load_vae
from trainer.cache_latents.frames import FrameReader
from trainer.cache_latents.shard import LatentsPlan, LatentsWorker
from trainer.data.catalog import Dataset, open_dataset_folder
from trainer.data.decode import Framing, clip_plan
from trainer.data.latent_cache import EVERY_FRAME, cache_identity, cached_frames, caches_folder, caches_like
from trainer.model.base import weights_digest
from trainer.run.distributed import choose_device
from trainer.settings import NEEDED_TO_CACHE, CacheLatentsSettings, ClipSamplingSettings, Precision

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsSettings(CacheLatentsSettings):
    """Those of the command, with what every build has: the dataset is its input, the folder of the cache its output."""

    input: Annotated[tuple[str, ...], MAY_CHANGE] = ()
    """The dataset folder."""
    output: Annotated[Path | None, MAY_CHANGE] = None
    """The folder of the cache."""
    min_success: Annotated[float | None, MAY_CHANGE] = None
    """None: a sample that cannot be encoded fails its shard."""


@dataclass(frozen=True)
class LatentsRecipe:
    """How the latents of a dataset are cached. One shard for each shard of the dataset, with its number and keys.

    fixed: what decides the bytes. extra: what the card says beside. vae: what a worker or an actor loads. frame_bytes:
    of one frame's moments. write: commits a shard. ask: what a pool's VAEs are asked through, where there may be one.
    """

    settings: LatentsSettings
    fixed: Mapping[str, JsonValue]
    extra: Mapping[str, JsonValue]
    vae: VaeSpec
    frame_bytes: int
    write: WriteShard
    ask: AskActor | None = None

    kind = "latents"
    packages = ("torch", "diffusers", "av", "opencv-python-headless")
    fixed_packages = ()
    """None: the card records them; a cache of weeks is not begun anew for the last digits of a float16."""

    @property
    def bytes_in_flight(self) -> int:
        """Batches on their way to shared VAEs: those that wait, and the one that is handed in."""
        if not self._num_encoders(torch.cuda.device_count()):
            return 0
        return (PooledEncoder.ahead + 1) * self.settings.batch_size * self.settings.size**2 * 3

    @property
    def layout(self) -> DatasetLayout:
        """Of the cache."""
        assert self.settings.output is not None
        return DatasetLayout(self.settings.output)

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """Sizes of the dataset's tars, links on the way to the cache; says which caches are not continued, and what the
        new one will cost."""
        dataset = self._open()
        dataset.check_sizes()
        if not dry_run:
            self.refuse_links()
        self._name_others(dataset)
        if not dry_run:
            for line in self.dry_run_notes():
                log.info(line)
        return []

    def _name_others(self, dataset: Dataset) -> None:
        """Of a cache that is begun: those that one might take it for."""
        others = caches_like(dataset, self.fixed)
        if self.layout.root in others:
            return
        for root, differing in others.items():
            log.warning(
                "%s is of the same VAE, size and crop, but is not continued (%s): a new cache is begun. If it is "
                "whole, runs use it as it is; else delete it.",
                root,
                "; ".join(differing),
            )

    def refuse_links(self) -> None:
        """Raises UsageError: links in the dataset's folder, that of the caches among them."""
        refuse_links(self._data)

    def fixed_facts(self) -> dict[str, JsonValue]:
        return dict(self.fixed)

    def card_facts(self) -> CardFacts:
        return {"extra": dict(self.extra)}

    def dry_run_notes(self) -> Sequence[str]:
        reader = self._reader()
        shards = [reader.dataset.shards[plan.place] for plan in self.plans(set(self.layout.committed_shards()))]
        if not shards:
            return []
        cost = self._cost(reader, shards)
        return cost.lines(self.settings.workers or workers_here(), self._num_encoders(torch.cuda.device_count()))

    def num_rows(self) -> int | None:
        return sum(len(shard) for shard in self._open().shards)

    def plans(self, skip: Container[int] = ()) -> Iterator[LatentsPlan]:
        """The shards that the cache lacks, or has of other bytes."""
        made_from = {shard: self.layout.read_stats(shard).source_sha256 for shard in self.layout.committed_shards()}
        for place, shard in enumerate(self._open().shards):
            number = int(shard.name)
            if number not in skip or made_from.get(number) != shard.tar_sha256:
                yield LatentsPlan(place, number, shard.tar_sha256)

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[LatentsPlan]:
        """None: every row of a cache is kept."""
        return iter(())

    def pool(self, machine: Machine) -> Pool | None:
        size = self._num_encoders(machine.gpus)
        if self.settings.device == "auto" and self.vae.device == "cpu" and machine.gpus:
            raise UsageError(
                "the Ray cluster has GPUs, and this machine sees none. Say --device cuda to use them, or --device cpu."
            )
        if self.vae.device == "cpu":
            return Pool(VaeActor, (self.vae,), size, min(1.0, machine.cpus / size), 0.0) if size else None
        if not machine.gpus:
            raise UsageError(f"--device {self.settings.device}: the Ray cluster has no GPU. Take --device cpu.")
        return Pool(VaeActor, (self.vae,), size, 1.0 if machine.cpus > size else 0.0, min(1.0, machine.gpus / size))

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> LatentsWorker:
        if pool is None:
            encoder = LocalEncoder(self.vae)
        else:
            assert self.ask is not None
            encoder = PooledEncoder(pool, self.ask, first=number)
        return LatentsWorker(claim, self._reader(), encoder, self.settings.batch_size, self.write)

    def _num_encoders(self, gpus: int) -> int:
        """Processes with a VAE that the workers share."""
        return self.settings.encoders or (0 if self.vae.device == "cpu" else max(1, gpus))

    def _cost(self, reader: FrameReader, shards: Sequence[ShardIndex]) -> Cost:
        cost = sizes_of(reader, shards, self.frame_bytes)
        if self.vae.device != "cpu" and not torch.cuda.is_available():
            return cost
        speed = measure_speed(reader, shards, LocalEncoder(self.vae), self.settings.batch_size)
        # the VAEs of the build want the memory, on the same GPU
        gc.collect()
        torch.cuda.empty_cache()
        return Cost(cost.samples, cost.frames, cost.num_bytes, cost.exact, speed)

    @property
    def _data(self) -> Path:
        assert self.settings.data is not None
        return self.settings.data

    def _open(self) -> Dataset:
        return open_dataset_folder(self._data)

    def _reader(self) -> FrameReader:
        dataset, settings = self._open(), self.settings
        clip = clip_plan(settings.clip) if dataset.kind == "video" else None
        return FrameReader(dataset, Framing(settings.size, settings.crop), clip)


def latents_recipe(settings: CacheLatentsSettings, write: WriteShard, ask: AskActor | None = None) -> LatentsRecipe:
    """The recipe of a command's settings; loads the VAE to know which it is.

    Raises:
        UsageError: wrong settings, no dataset, no base. LposekitError: the dataset is damaged.
    """
    check_values(settings, required=NEEDED_TO_CACHE)
    assert settings.data is not None
    assert settings.base is not None
    refuse_address(settings.data)
    data = settings.data.resolve()
    dataset, vae = open_dataset_folder(data), load_vae(settings.base)
    if dataset.kind not in ("image", "video"):
        raise UsageError(f"{data} is a dataset of kind {dataset.kind!r}: latents are those of images and clips.")
    if dataset.kind == "video" and settings.crop == "person":
        raise UsageError("--crop person: clips have no poses beside them. Take --crop center.")
    device, precision = _compute(settings)
    clip, threads = _deciding(settings, dataset.kind, device)
    digest = weights_digest(vae)
    fixed: dict[str, JsonValue] = {
        **cache_identity(digest, settings.size, settings.crop),
        "precision": precision,
        "batch_size": settings.batch_size,
        "frames": cached_frames(clip_plan(clip)) if dataset.kind == "video" else EVERY_FRAME,
        "threads": threads if device == "cpu" else None,
    }
    base = str(Path(settings.base).resolve()) if Path(settings.base).is_dir() else settings.base
    given = {field.name: getattr(settings, field.name) for field in fields(settings)}
    output = caches_folder(data) / _name(fixed)
    paths = {"data": data, "base": base, "input": (str(data),), "output": output}
    chosen = {**paths, "precision": precision, "clip": clip, "threads": threads}
    shape = _shape(vae, settings.size)
    extra = {
        "of": dataset.kind,
        "shape": list(shape),
        "scaling_factor": vae.config["scaling_factor"],
        "base": settings.base,
    }
    return LatentsRecipe(
        LatentsSettings(**{**given, **chosen}),
        fixed,
        extra,
        VaeSpec(base, digest, device, precision, threads),
        2 * shape[0] * shape[1] * shape[2],
        write,
        ask,
    )


def _deciding(settings: CacheLatentsSettings, kind: str, device: str) -> tuple[ClipSamplingSettings, int]:
    """Clips and threads, with the defaults of what decides nothing here: a cache goes on whatever that is."""
    on_stride = kind == "video" and settings.clip.start == "stride"
    clip = replace(settings.clip, short=ClipSamplingSettings().short) if on_stride else ClipSamplingSettings()
    return clip, settings.threads if device == "cpu" else 1


def _compute(settings: CacheLatentsSettings) -> tuple[str, Precision]:
    """Device and precision. On a cluster, this machine need not have the device."""
    device = settings.device if settings.ray_address and settings.device != "auto" else None
    device = device or choose_device(settings.device).type
    return device, settings.precision or ("fp32" if device == "cpu" else "bf16")


def _shape(vae: AutoencoderKL, size: int) -> tuple[int, int, int]:
    side = size // 2 ** (len(vae.config["block_out_channels"]) - 1)
    return 2 * vae.config["latent_channels"], side, side


def _name(fixed: Mapping[str, JsonValue]) -> str:
    """Folder of a cache: one for everything that decides its bytes."""
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12]
