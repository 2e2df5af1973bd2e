"""The data of a run: datasets, their order, the reader and the loader, as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat

from lposekit.errors import LposekitError
from lposekit.json_values import JsonValue
from trainer.data.catalog import Dataset, open_catalog
from trainer.data.decode import Framing, Skeleton, clip_plan
from trainer.data.held_out import WATCH_VISIT, split_datasets
from trainer.data.joint_order import JointOrder
from trainer.data.latent_cache import EVERY_FRAME, cache_identity, cached_frames, open_cache
from trainer.data.loader import BatchSplit, SampleLoader
from trainer.data.order import SampleOrder, SampleRef
from trainer.data.reader import NoiseRecipe, SampleReader, SampleRecipe
from trainer.model.base import Base, weights_digest
from trainer.run.distributed import World
from trainer.settings import TrainSettings, batch_size


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run reads; `images` beside clips. `facts`: what must be the same when it is resumed."""

    datasets: tuple[Dataset, ...]
    loader: SampleLoader
    facts: dict[str, JsonValue]
    images: tuple[Dataset, ...] = ()


def open_data(settings: TrainSettings, base: Base, world: World, begun_with: Sequence[str] = ()) -> RunData:
    """Open the datasets and check every shard, before anything is trained.

    Args:
        begun_with: names of the latent caches that a resumed run had, in the order of the datasets.

    Raises:
        UsageError: wrong folders or settings; LposekitError: a shard is damaged, or the latent cache does not fit.
    """
    datasets = open_catalog(settings.data, "image" if settings.stage == 1 else "video")
    images = open_catalog(settings.images, "image") if settings.images else ()
    if settings.loader.verify_sha256:
        check_hashes((*datasets, *images), world)
    caches, recipe = (), sample_recipe(settings, base)
    if settings.loader.latents:
        identity = cache_identity(weights_digest(base.vae), settings.image.size, settings.image.crop)
        frames = cached_frames(recipe.clip)
        wanted = [*((each, frames) for each in datasets), *((each, EVERY_FRAME) for each in images)]
        names = chain(begun_with, repeat(None))
        caches = tuple(
            open_cache(each, identity, kept, name) for (each, kept), name in zip(wanted, names, strict=False)
        )
    weights = settings.loader.weights or (1.0,) * len(datasets)
    parts = split_datasets(datasets, settings.loader.held_out)
    rows = parts.trained if parts.num_held else ()
    order = SampleOrder(parts.sizes(datasets), weights, settings.seed, settings.loader.block_samples, rows)
    if images:
        order = _joint_order(settings, order, images, len(datasets))
    reader = SampleReader(datasets, recipe, caches, parts, images)
    micro_batch = settings.optim.micro_batch
    # one that is yet to be found divides every share
    split = BatchSplit(batch_size(settings), micro_batch if isinstance(micro_batch, int) else 1, world.rank, world.size)
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
        "held_out": settings.loader.held_out,
        # by their names, which stand for VAE, size, precision and batch size; none: encoded as they come
        "latents": [cache.folder.root.name for cache in caches],
    }
    if images:
        share = settings.loader.image_share
        facts = {**facts, "images": [dataset.digest() for dataset in images], "image_share": share}
    return RunData(datasets, loader, facts, images)


def _joint_order(settings: TrainSettings, clips: SampleOrder, images: Sequence[Dataset], first: int) -> JointOrder:
    """Clips with batches of images between them; every image dataset once an epoch."""
    sizes = [[len(shard) for shard in dataset.shards] for dataset in images]
    order = SampleOrder(sizes, (1.0,) * len(images), settings.seed, settings.loader.block_samples)
    return JointOrder(clips, order, first, settings.loader.image_share, settings.seed)


def held_out_refs(reader: SampleReader, count: int) -> list[SampleRef]:
    """At most so many of the samples that are held out and long enough, spread evenly."""
    held = [ref for ref in (reader.split.held_refs() if reader.split else []) if reader.is_long_enough(ref)]
    wanted = min(count, len(held))
    return [held[i * len(held) // wanted] for i in range(wanted)]


def watched_refs(reader: SampleReader, count: int) -> list[SampleRef]:
    """So many samples to watch a run by, spread evenly: of those held out (fewer where their clips are too short), or
    of all data if none are."""
    if held_out := held_out_refs(reader, count):
        return held_out
    count = min(count, reader.num_samples)
    return [reader.ref(i * reader.num_samples // count, WATCH_VISIT) for i in range(count)]


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
    image, pose = settings.image, settings.pose
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
        clip=clip_plan(settings.clip) if settings.stage == 2 else None,
        caption_dropout=settings.loss.caption_dropout,
        noise=noise,
    )
