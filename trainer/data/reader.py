"""From the name of a draw to its sample: read by offset, decode, draw, and all of its random numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lposekit.errors import LposekitError
from lposekit.shards.index import ShardIndex
from trainer.data.batch import Sample
from trainer.data.catalog import Dataset
from trainer.data.decode import (
    ClipPlan,
    DamagedSample,
    Framing,
    ShortClip,
    Skeleton,
    decode_clip,
    decode_skeleton,
    decode_training_image,
    image_geometry,
    read_clip_facts,
)
from trainer.data.held_out import Split
from trainer.data.latent_cache import LatentCache
from trainer.data.order import SampleRef
from trainer.data.random import SampleRandom


@dataclass(frozen=True, slots=True)
class NoiseRecipe:
    """The random numbers of a sample's diffusion step. `downscale`: pixels of an image to one of its latent."""

    channels: int = 4
    downscale: int = 8
    num_timesteps: int = 1000
    offset_noise: float = 0.0


MOST_PASSED_OVER = 10_000
"""Clips that are looked at in the place of one that is too short."""


@dataclass(frozen=True, slots=True)
class SampleRecipe:
    """How a sample is made. `skeleton` None: no pose (stage 2). `noise` None: no random numbers (to time the
    rest)."""

    framing: Framing
    seed: int
    skeleton: Skeleton | None = None
    clip: ClipPlan | None = None
    caption_dropout: float = 0.0
    noise: NoiseRecipe | None = NoiseRecipe()

    @property
    def frames(self) -> int:
        return 1 if self.clip is None else self.clip.frames


@dataclass(frozen=True, slots=True)
class SampleReader:
    """Reads draws of the datasets' samples. `caches`: one for each dataset, or none at all. `split`: which samples are
    held out; None: none. `images`: datasets of images beside those of clips, numbered behind them; their samples are
    clips of one frame, none is held out, and they have caches where the others do."""

    datasets: Sequence[Dataset]
    recipe: SampleRecipe
    caches: Sequence[LatentCache] = ()
    split: Split | None = None
    images: Sequence[Dataset] = ()

    def read(self, ref: SampleRef) -> Sample:
        """The sample of a draw; the same for the same draw, always and everywhere. A clip that is too short gives way
        to the next one that is not, in its shard first, under the random numbers of the draw.

        Raises:
            LposekitError: names the shard and the sample whose bytes are damaged, or the shard from which on no clip is
                long enough.
        """
        for passed_over, source in enumerate(self._in_its_place(ref)):
            try:
                return replace(self._make(source, SampleRandom(self.recipe.seed, ref)), passed_over=passed_over)
            except ShortClip:
                continue
            except DamagedSample as error:
                dataset = self._dataset(ref.dataset)
                raise damaged_sample(dataset, dataset.shards[source.shard], source.row, error) from error
        raise LposekitError(
            f"{self.where(ref.dataset, ref.shard)}: neither its clips nor those behind them have {self.recipe.frames} "
            "frames. Lower --clip.frames, build longer clips, or take --clip.short repeat."
        )

    def is_long_enough(self, ref: SampleRef) -> bool:
        """Whether the sample of a draw can be read without another in its place."""
        if self.recipe.clip is None or self.recipe.clip.repeats:
            return True
        num_frames, _ = read_clip_facts(self._members(ref, "json")["json"])
        return num_frames >= self.recipe.clip.frames

    def _in_its_place(self, ref: SampleRef) -> Iterator[SampleRef]:
        """The sample of a draw, then those behind it in its shard, around its end, then those of the shards behind
        that one; of the same side of the split, and not for ever."""
        yield ref
        held = self.split is not None and self.split.is_held(ref)
        others = (other for other in self._behind(ref) if self.split is None or self.split.is_held(other) == held)
        yield from itertools.islice(others, MOST_PASSED_OVER)

    def _behind(self, ref: SampleRef) -> Iterator[SampleRef]:
        shards = self._dataset(ref.dataset).shards
        rows = len(shards[ref.shard])
        for ahead in range(1, rows):
            yield ref._replace(row=(ref.row + ahead) % rows)
        for ahead in range(1, len(shards)):
            other = (ref.shard + ahead) % len(shards)
            for row in range(len(shards[other])):
                yield ref._replace(shard=other, row=row)

    @property
    def num_samples(self) -> int:
        """Samples of `datasets`."""
        return sum(len(shard) for dataset in self.datasets for shard in dataset.shards)

    def ref(self, index: int, visit: int) -> SampleRef:
        """The draw of sample `index`, counted through the shards of `datasets`. Raises IndexError behind the last."""
        for d, dataset in enumerate(self.datasets):
            for s, shard in enumerate(dataset.shards):
                if index < len(shard):
                    return SampleRef(d, s, index, visit)
                index -= len(shard)
        raise IndexError("behind the last sample")

    def kinds(self) -> list[SampleRef]:
        """A draw of each kind of sample: the first of `datasets`, and the first of `images` if there are any."""
        number = len(self.datasets)
        first = (
            SampleRef(number + d, s, 0, 0)
            for d, dataset in enumerate(self.images)
            for s, shard in enumerate(dataset.shards)
            if len(shard)
        )
        return [self.ref(0, 0), *itertools.islice(first, 1)]

    def key(self, ref: SampleRef) -> str:
        """Name of a sample for logs and messages."""
        key = self._dataset(ref.dataset).shards[ref.shard].key(ref.row)
        return key if len(self.datasets) + len(self.images) == 1 else f"{ref.dataset}:{key}"

    def where(self, dataset: int, shard: int) -> str:
        """Name of a shard for messages."""
        found = self._dataset(dataset)
        return found.describe(found.shards[shard])

    def _dataset(self, number: int) -> Dataset:
        clips = len(self.datasets)
        return self.datasets[number] if number < clips else self.images[number - clips]

    def _make(self, ref: SampleRef, random: SampleRandom) -> Sample:
        text = self._members(ref, "txt")["txt"]
        caption = text.decode("utf-8", errors="replace")
        if self.recipe.caption_dropout and random.stream("caption").random() < self.recipe.caption_dropout:
            caption = ""
        is_clip = self.recipe.clip is not None and ref.dataset < len(self.datasets)
        rgb, skeleton, moments = self._clip(ref, random) if is_clip else self._image(ref, random)
        timestep, noise, latent_noise = self._noise(random, self.recipe.frames if is_clip else 1)
        return Sample(self.key(ref), caption, timestep, noise, latent_noise, rgb, skeleton, moments)

    def _members(self, ref: SampleRef, *names: str) -> dict[str, bytes]:
        dataset = self._dataset(ref.dataset)
        return dataset.read(dataset.shards[ref.shard], ref.row, names)

    def _image(self, ref: SampleRef, random: SampleRandom) -> tuple[npt.NDArray | None, ...]:
        by_pose = self.recipe.skeleton is not None or self.recipe.framing.crop == "person"
        members = self._members(ref, "jpg", *(("pose.json",) if by_pose else ()))
        pose_json = members.get("pose.json")
        rgb_FHWC = moments_FCHW = None
        if self.caches:
            geometry = image_geometry(members["jpg"], self.recipe.framing, random, pose_json)
            moments_FCHW = self.caches[ref.dataset].read(ref.shard, ref.row, np.zeros(1, np.int64))
        else:
            rgb_HWC, geometry = decode_training_image(members["jpg"], self.recipe.framing, random, pose_json)
            rgb_FHWC = rgb_HWC[None]
        skeleton_FHWC = None
        if self.recipe.skeleton:
            skeleton_FHWC = decode_skeleton(members["pose.json"], geometry, self.recipe.skeleton)[None]
        return rgb_FHWC, skeleton_FHWC, moments_FCHW

    def _clip(self, ref: SampleRef, random: SampleRandom) -> tuple[npt.NDArray | None, ...]:
        assert self.recipe.clip is not None
        num_frames, fps = read_clip_facts(self._members(ref, "json")["json"])
        wanted_F = self.recipe.clip.indices(num_frames, fps, random)
        if self.caches:
            stride = self.recipe.clip.stride_in(num_frames, fps)
            return None, None, self.caches[ref.dataset].read_clip(ref.shard, ref.row, wanted_F, stride)
        mp4 = self._members(ref, "mp4")["mp4"]
        return decode_clip(mp4, wanted_F, self.recipe.framing, random), None, None

    def _noise(self, random: SampleRandom, frames: int) -> tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        recipe = self.recipe.noise
        if recipe is None:
            return 0, np.zeros(0, np.float32), np.zeros(0, np.float32)
        side = self.recipe.framing.size // recipe.downscale
        shape = (recipe.channels, frames, side, side)
        noise_CFHW = random.stream("noise").standard_normal(shape, np.float32)
        if recipe.offset_noise:
            shift_C111 = random.stream("offset_noise").standard_normal((recipe.channels, 1, 1, 1), np.float32)
            noise_CFHW += np.float32(recipe.offset_noise) * shift_C111
        latent_shape = (frames, recipe.channels, side, side)
        latent_noise_FCHW = random.stream("latent").standard_normal(latent_shape, np.float32)
        return int(random.stream("timestep").integers(recipe.num_timesteps)), noise_CFHW, latent_noise_FCHW


def damaged_sample(dataset: Dataset, shard: ShardIndex, row: int, error: DamagedSample) -> LposekitError:
    """What is wrong with a sample, with its name and where it lies."""
    return LposekitError(
        f"{dataset.describe(shard)}: sample {shard.key(row)} is damaged: {error}. Run `lposekit verify {dataset.root}`."
    )
