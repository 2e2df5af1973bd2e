"""Makes the pairs of a protocol from a dataset: samples in an order drawn by a seed, of which those are taken that have
a caption and a pose that a square image shows."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lposekit.errors import UsageError
from lposekit.json_values import JsonObject
from lposekit.keypoints import KEYPOINT_FORMATS, reaches
from lposekit.pose.choose import select_persons
from lposekit.pose.tracks import MEMBER, PoseTracks, decode_tracks, persons_at
from lposekit.shards.dataset import PoseSample, open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.tables import shard_table
from lposekit.skeleton import drop_outside
from lposekit.words import counted
from trainer.evaluate.protocol import Pair, pair_seed
from trainer.evaluate.settings import EvaluateSettings
from trainer.inference.fit import Fit
from trainer.inference.pose_input import pose_threshold, still_tracks

log = logging.getLogger(__name__)

CLIP_FRAMES = 24
"""The released sampler draws 24 to 32."""
SHOWN = 0.5
"""Share of the body's joints that some person must show in the middle square, in every frame of a pair."""
_SQUARE = Fit(512, 512)


class PoseSource:
    """A dataset of poses, of images or clips: samples by number, with their captions."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError: a dataset without poses."""
        self.dataset = open_dataset(folder)
        self._layout = DatasetLayout(self.dataset.root)
        self._ends = np.cumsum([len(shard) for shard in self.dataset.shards])
        self._captions = functools.lru_cache(maxsize=64)(self._read_captions)
        if self.dataset.card.kind == "video":
            raise UsageError(
                f"--data {folder}: clips, whose poses are not known. Estimate them with `lposekit pose --input "
                f"{folder} --output DIR`, then name --data DIR --real {folder}."
            )

    def sample(self, number: int) -> tuple[PoseSample, str]:
        """The sample of a number from 0, and its caption."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        shard = self.dataset.shards[place]
        found = self.dataset.sample(shard, number - (int(self._ends[place]) - len(shard)))
        return found, found.caption or self._captions(shard.shard).get(found.key, "")

    def _read_captions(self, shard: int) -> dict[str, str]:
        """Captions by key, of a dataset whose samples hold none."""
        rows = shard_table(self._layout, self._layout.parquet(shard))
        if "caption" not in rows.column_names:
            return {}
        return {key: text or "" for key, text in zip(rows["key"].to_pylist(), rows["caption"].to_pylist(), strict=True)}


def make_pairs(folder: Path, settings: EvaluateSettings) -> tuple[JsonObject, list[Pair]]:
    """What the protocol says of itself, and its pairs by rising key.

    Raises:
        UsageError: the dataset has no poses, or none that fits. LposekitError: it is damaged.
    """
    source = PoseSource(folder)
    pairs = list(itertools.islice(_fitting(source, settings), settings.pairs))
    if not pairs:
        raise UsageError(
            f"--data {folder}: none of its {len(source.dataset)} samples has a caption, enough frames, and a person "
            "in the middle. Take another one, or fewer --num-frames."
        )
    if len(pairs) < settings.pairs:
        log.warning("--data %s: %s fit, of the %d asked for", folder, counted(len(pairs), "pair"), settings.pairs)
    facts = {
        "kind": source.dataset.card.kind,
        "dataset": folder.resolve().name,
        "seed": settings.seed,
        "stride": settings.stride,
        "person": settings.person,
        "num_frames": pairs[0].tracks.num_frames,
    }
    return facts, sorted(pairs, key=lambda pair: pair.key)


def _fitting(source: PoseSource, settings: EvaluateSettings) -> Iterator[Pair]:
    """The pairs of the samples that fit, in the order that the seed draws."""
    order = np.random.Generator(np.random.Philox(settings.seed)).permutation(len(source.dataset))
    for number in order.tolist():
        sample, caption = source.sample(number)
        tracks = _tracks(sample)
        frames = None if tracks is None else frames_of(tracks.num_frames, settings)
        if tracks is None or frames is None or not caption.strip():
            continue
        chosen = at_frames(select_persons(tracks, settings.person), frames)
        if is_shown(chosen):
            yield Pair(sample.key, caption.strip(), pair_seed(settings.seed, sample.key), frames, chosen)


def _tracks(sample: PoseSample) -> PoseTracks | None:
    if "pose.json" in sample.members:
        return still_tracks(sample.members["pose.json"], sample.key)
    return decode_tracks(sample.members[MEMBER], sample.key) if MEMBER in sample.members else None


def frames_of(num_frames: int, settings: EvaluateSettings) -> tuple[int, ...] | None:
    """Which frames of a pose are taken: from the first on, at the largest stride that fits; a still pose is held. None
    of a clip that is too short."""
    if num_frames == 1:
        return (0,) * (settings.num_frames or 1)
    wanted = settings.num_frames or CLIP_FRAMES
    if num_frames < wanted:
        return None
    stride = min(settings.stride, (num_frames - 1) // max(1, wanted - 1))
    return tuple(range(0, wanted * stride, stride))


def at_frames(tracks: PoseTracks, frames: Sequence[int]) -> PoseTracks:
    """The poses of some frames, in their order."""
    chosen = list(frames)
    persons = [replace(p, keypoints_FK3=p.keypoints_FK3[chosen], boxes_F5=p.boxes_F5[chosen]) for p in tracks.persons]
    there = tuple(person for person in persons if person.present_F.any())
    return replace(tracks, num_frames=len(chosen), persons=there)


def is_shown(tracks: PoseTracks) -> bool:
    """Whether the middle square of every frame shows somebody: at least `SHOWN` of the joints of some person."""
    return all(_most_joints(tracks, frame) for frame in range(tracks.num_frames))


def _most_joints(tracks: PoseTracks, frame: int) -> bool:
    body = list(KEYPOINT_FORMATS[tracks.keypoint_format].body17)
    inside_PK3 = _SQUARE.keypoints(persons_at(tracks, frame)[:, body], tracks.height, tracks.width)
    counts_P = (drop_outside(inside_PK3, 512, 512)[..., 2] >= pose_threshold(tracks)).sum(-1)
    return any(reaches(int(count), len(body), SHOWN) for count in counts_P)
