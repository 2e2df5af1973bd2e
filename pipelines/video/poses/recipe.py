"""The recipe of poses of clips: from a dataset folder of clips to sibling shards with the poses of their frames."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import JsonValue
from lposekit.pose.backend import Backend
from lposekit.pose.choose import check_choice
from lposekit.recipe import ActorHandle, CardFacts, Claim, Machine, Pool
from lposekit.shards.card import differing_fields, read_card, stated
from lposekit.shards.layout import DatasetLayout
from lposekit.versions import installed_versions
from lposekit.words import counted
from pipelines.job.stored import shards_with
from pipelines.pose.actor import PoseSpec, load_estimator
from pipelines.pose.models import (
    KnownModel,
    cpu_backend,
    device_of,
    known_model,
    pose_pool,
    pose_spec,
    require_models,
)
from pipelines.pose.pool import LocalPoses, RayPoses
from pipelines.video.poses.clip_shard import PosesPlan, PosesWorker
from pipelines.video.poses.clip_source import ClipSource, open_clip_source
from pipelines.video.poses.poser import Reference, VideoPoser, read_reference
from pipelines.video.poses.settings import PosesSettings


@dataclass(frozen=True)
class PosesRecipe:
    """How the poses of a dataset of clips are found. One shard for each shard of clips, with its number and keys."""

    settings: PosesSettings

    kind = "poses"
    packages = ("av", "opencv-python-headless", "scipy", "ray", "pyarrow", "webdataset")
    fixed_packages = ("av", "opencv-python-headless")
    """Packages whose versions decide the frames: other ones do not continue a folder."""

    @property
    def bytes_in_flight(self) -> int:
        """One batch on its way to the pose models; a frame is taken for one of 1920 x 1080."""
        return self.settings.pose.batch_size * 1920 * 1080 * 3

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """The source, the choice of persons, the reference, and the weights."""
        settings = self.settings
        check_choice(settings.person)
        if settings.skeleton_video:
            raise UsageError(
                "--skeleton-video: drawn of single videos only. The poses of a dataset are drawn where they are read, "
                "as by `lposekit sample --pose`."
            )
        _ = self._source, self._known, self._reference, self._cpu_backend  # each raises what is wrong with it
        require_models(settings, may_download=not dry_run)  # last: it may take minutes
        return []

    def fixed_facts(self) -> dict[str, JsonValue]:
        """The clips' own settings; the bytes of each shard of clips are bound by its commit marker, so that a dataset
        that has grown goes on."""
        reference = self._reference
        return {
            "source": self._source.identity(),
            "reference_sha256": None if reference is None else reference.sha256,
        }

    def card_facts(self) -> CardFacts:
        return {
            "sample": bool(self._source.card.sample),
            "keypoint_format": self._known.keypoint_format,
            "extra": {"keypoint_score_threshold": self._known.keypoint_score_threshold},
        }

    def dry_run_notes(self) -> Sequence[str]:
        shards = self._source.shards
        clips = counted(sum(shard.num_clips for shard in shards), "clip")
        return [
            f"would find the poses of {clips} in {counted(len(shards), 'shard')}",
            f"would use {self.settings.detector} and {self.settings.pose_model}",
        ]

    def num_rows(self) -> int | None:
        return sum(shard.num_clips for shard in self._source.shards)

    def plans(self, skip: Container[int] = ()) -> Iterator[PosesPlan]:
        self._source.refuse_changed(self._layout)
        return (PosesPlan(shard.number, shard.tar_sha256) for shard in self._source.shards if shard.number not in skip)

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[PosesPlan]:
        """The clips are read again, so they and their decoder must be those of the folder."""
        fixed = stated(read_card(layout).fixed, "fixed", layout)
        facts = {"versions": installed_versions(self.fixed_packages), **self.fixed_facts()}
        other = differing_fields({name: fixed.get(name) for name in facts}, json.loads(json.dumps(facts)))
        if other:
            raise UsageError(f"{layout.root} was built from other things: {', '.join(other)}. Put the old ones back.")
        affected = set(shards_with(layout, outcomes))
        unaffected = {shard.number for shard in self._source.shards} - affected
        return (PosesPlan(plan.shard, plan.tar_sha256, outcomes) for plan in self.plans(unaffected))

    def pool(self, machine: Machine) -> Pool:
        """The pose models, the same actors as those of an image build."""
        return pose_pool(self.settings.pose, self._spec(has_gpu=machine.gpus > 0), machine)

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> PosesWorker:
        spec = self._spec(has_gpu=False)
        client = LocalPoses(load_estimator(spec)) if pool is None else RayPoses(pool, spec, first=number)
        poser = VideoPoser(self.settings, self._known, self._reference)
        return PosesWorker(claim, self._source.layout, poser, client)

    @cached_property
    def _source(self) -> ClipSource:
        return open_clip_source(self.settings.input, self._layout.root)

    @cached_property
    def _known(self) -> KnownModel:
        return known_model(self.settings)

    @cached_property
    def _cpu_backend(self) -> Backend:
        """Chosen by the driver; it travels to the workers with the recipe."""
        return cpu_backend(self.settings, self._layout)

    @cached_property
    def _reference(self) -> Reference | None:
        return read_reference(self.settings, self._known.keypoint_format)

    @property
    def _layout(self) -> DatasetLayout:
        assert self.settings.output is not None
        return DatasetLayout(self.settings.output)

    def _spec(self, *, has_gpu: bool) -> PoseSpec:
        """The models, told to report boxes that may continue a track, with one thread where none is named: how many
        cores a node has must not decide any byte."""
        settings = self.settings
        device = device_of(settings.pose, has_gpu=has_gpu)
        lowest = self._known.box_score_threshold * settings.tracking.continue_score
        return pose_spec(settings, device, lowest, settings.pose.threads or 1, self._cpu_backend)
