"""The data of a run: datasets, their order, the reader and the loader, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lposekit.errors import LposekitError
from lposekit.json_values import JsonValue
from trainer.data.catalog import Dataset, open_catalog
from trainer.data.decode import ClipPlan, Framing, Skeleton
from trainer.data.latent_cache import cache_identity, open_cache
from trainer.data.loader import BatchSplit, SampleLoader
from trainer.data.order import SampleOrder
from trainer.data.reader import NoiseRecipe, SampleReader, SampleRecipe
from trainer.model.base import Base, weights_digest
from trainer.run.distributed import World
from trainer.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads. `facts`: what must be the same when it is resumed."""

    datasets: tuple[Dataset, ...]
    loader: SampleLoader
    facts: dict[str, JsonValue]


def open_data(settings: TrainSettings, base: Base, world: World) -> RunData:
    """Open the datasets and check every shard, before anything is trained.

    Raises:
        UsageError: wrong folders or settings; LposekitError: a shard is damaged, or the latent cache does not fit.
    """
    datasets = open_catalog(settings.data, "image" if settings.stage == 1 else "video")
    if settings.loader.verify_sha256:
        check_hashes(datasets, world)
    caches = ()
    if settings.loader.latents:
        identity = cache_identity(weights_digest(base.vae), settings.image.size)
        caches = tuple(open_cache(dataset, identity) for dataset in datasets)
    weights = settings.loader.weights or (1.0,) * len(datasets)
    sizes = [[len(shard) for shard in dataset.shards] for dataset in datasets]
    order = SampleOrder(sizes, weights, settings.seed, settings.loader.block_samples)
    reader = SampleReader(datasets, sample_recipe(settings, base), caches)
    micro_batch = settings.optim.micro_batch or max(1, settings.batch_size // world.size)
    split = BatchSplit(settings.batch_size, micro_batch, world.rank, world.size)
    split.check()
    loader = SampleLoader(
        reader, order, split, settings.loader.workers, settings.loader.prefetch, world.device.type == "cuda"
    )
    facts = {
        "stage": settings.stage,
        "seed": settings.seed,
        "data": [dataset.digest() for dataset in datasets],
        "weights": list(weights),
        "block_samples": settings.loader.block_samples,
        "size": settings.image.size,
        "pose": asdict(settings.pose) if settings.stage == 1 else None,
        # by their names, which stand for VAE, size, precision and batch size; none: encoded as they come
        "latents": [cache.folder.root.name for cache in caches],
    }
    return RunData(datasets, loader, facts)


def check_hashes(datasets: Sequence[Dataset], world: World) -> None:
    """Hash every shard, each on one of the processes. They meet after every shard, so none waits long for the others.

    Raises:
        LposekitError: a shard has other bytes than it was committed with; raised in all processes.
    """
    shards = [(dataset, shard) for dataset in datasets for shard in dataset.shards]
    for first in range(0, len(shards), world.size):
        mine = shards[first + world.rank : first + world.rank + 1]
        found = world.gather([dataset.hash_problem(shard) for dataset, shard in mine])
        problems = [problem for each in found for problem in each if problem]
        if problems:
            raise LposekitError("; ".join(problems))


def sample_recipe(settings: TrainSettings, base: Base) -> SampleRecipe:
    """How the settings want a sample to be made."""
    image, clip, pose = settings.image, settings.clip, settings.pose
    noise = NoiseRecipe(
        channels=base.unet.config["in_channels"],
        downscale=2 ** (len(base.vae.config["block_out_channels"]) - 1),
        num_timesteps=base.scheduler.config["num_train_timesteps"],
        offset_noise=settings.loss.offset_noise,
    )
    return SampleRecipe(
        framing=Framing(image.size, image.crop, image.flip),
        seed=settings.seed,
        skeleton=Skeleton(pose.style, pose.score_threshold, pose.line_width) if settings.stage == 1 else None,
        clip=ClipPlan(clip.frames, clip.stride, clip.stride_s) if settings.stage == 2 else None,
        caption_dropout=settings.loss.caption_dropout,
        noise=noise,
    )
