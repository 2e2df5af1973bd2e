"""The recipe of LAION-Pose: from a list of URLs and captions to shards of image, text and pose."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lposekit.errors import Outcome
from lposekit.json_values import JsonValue
from lposekit.keypoints import KeepRule
from lposekit.pose.backend import Backend
from lposekit.recipe import ActorHandle, CardFacts, Claim, Machine, Pool
from lposekit.settings import flatten_settings
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import pose_card
from lposekit.words import counted
from pipelines.fetch.policy import Blocklist
from pipelines.image.plan import ShardPlan, count_rows, iter_shards, list_warnings
from pipelines.image.pose_batches import MAX_BATCHES_IN_FLIGHT
from pipelines.image.rows import ImageRules
from pipelines.image.settings import BuildImagesSettings
from pipelines.image.sources import Source, open_sources
from pipelines.image.stored import RetryPlan
from pipelines.image.worker import ImageWorker
from pipelines.job.stored import shards_with
from pipelines.lists.fingerprint import lists_fingerprint
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


@dataclass(frozen=True)
class ImageRecipe:
    """How an image-text-pose dataset is built.

    `sample_server`: host and port of the quickstart's own server, which may be private; None for a real list.
    `rule`: the keep rule of a folder whose rows are retried, which needs no list; default: from settings and models.
    """

    settings: BuildImagesSettings
    sample_server: str | None = None
    rule: KeepRule | None = None

    kind = "image"
    packages = ("img2dataset", "simplejpeg", "pillow", "opencv-python-headless", "ray", "pyarrow", "webdataset")
    fixed_packages = ("simplejpeg", "opencv-python-headless")
    """Packages whose versions decide the stored bytes: other ones do not continue a folder."""

    @property
    def bytes_in_flight(self) -> int:
        """Batches on their way to the pose models; an image is taken for half as long again as it is wide."""
        image_bytes = int(1.5 * self.settings.image.size**2 * 3)
        return (MAX_BATCHES_IN_FLIGHT + 1) * self.settings.pose.batch_size * image_bytes

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """Models, blocklist, lists and weights, before anything is started."""
        known_model(self.settings)
        _ = self._cpu_backend  # raises what is wrong with it
        Blocklist.from_files(self.settings.fetch.blocklist)
        reads_lists = self.sample_server is None and self.rule is None
        warnings = list_warnings(self.settings, self._sources) if reads_lists else []
        require_models(self.settings, may_download=not dry_run)  # last: it may take minutes
        return warnings

    def fixed_facts(self) -> dict[str, JsonValue]:
        # The sample's list names the port of its server, which another run may not get.
        files = (source.opened.file for source in self._sources)
        fingerprint = "sample" if self.sample_server else lists_fingerprint(files)
        return {"input": fingerprint, "keep_rule": flatten_settings(self._rules().keep)}

    def card_facts(self) -> CardFacts:
        rules = self._rules()
        return {
            "sample": self.sample_server is not None,
            "keep_rule": flatten_settings(rules.keep),
            "keypoint_format": rules.pose_card["keypoint_format"],
        }

    def dry_run_notes(self) -> Sequence[str]:
        num_rows = self.num_rows()
        rows = "all rows" if num_rows is None else counted(num_rows, "row")
        return [
            f"would read {rows} from {', '.join(self.settings.input)}, {self.settings.rows_per_shard} a shard",
            f"would use {self.settings.detector} and {self.settings.pose_model}",
        ]

    def num_rows(self) -> int | None:
        return count_rows(self.settings, self._sources)

    def plans(self, skip: Container[int] = ()) -> Iterator[ShardPlan | RetryPlan]:
        return iter_shards(self.settings, skip, self._sources)

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[ShardPlan | RetryPlan]:
        return (RetryPlan(shard, outcomes) for shard in shards_with(layout, outcomes))

    def pool(self, machine: Machine) -> Pool:
        """The pose models."""
        pose = self.settings.pose
        return pose_pool(pose, self._pose_spec(has_gpu=machine.gpus > 0), machine)

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> ImageWorker:
        spec = self._pose_spec(has_gpu=False)
        poses = LocalPoses(load_estimator(spec)) if pool is None else RayPoses(pool, spec, first=number)
        local = frozenset({self.sample_server}) if self.sample_server else frozenset[str]()
        return ImageWorker(claim, self.settings, self._rules(), poses, local)

    @cached_property
    def _sources(self) -> list[Source]:
        """The lists, opened once for all that is asked of them."""
        return open_sources(self.settings)

    def __getstate__(self) -> dict[str, object]:
        """Without the opened lists: workers do not read them."""
        return {name: value for name, value in vars(self).items() if name != "_sources"}

    @cached_property
    def _cpu_backend(self) -> Backend:
        """Chosen by the driver; it travels to the workers with the recipe."""
        output = self.settings.output
        return cpu_backend(self.settings, None if output is None else DatasetLayout(output))

    def _rules(self) -> ImageRules:
        known = known_model(self.settings)
        return image_rules(self.settings, self.rule or keep_rule(self.settings, known), known.keypoint_format)

    def _pose_spec(self, *, has_gpu: bool) -> PoseSpec:
        settings = self.settings
        device, box_score = device_of(settings.pose, has_gpu=has_gpu), known_model(settings).box_score_threshold
        return pose_spec(settings, device, box_score, settings.pose.threads, self._cpu_backend)


def keep_rule(settings: BuildImagesSettings, entry: KnownModel) -> KeepRule:
    """The rule for keeping an image: what is not set comes from the models."""
    pose = settings.pose
    return KeepRule(
        keypoint_score_threshold=entry.keypoint_score_threshold,
        min_detected=settings.min_detected,
        person_rule=settings.person_rule,
        box_score_threshold=entry.box_score_threshold,
        min_box_area_fraction=pose.min_box_area_fraction,
        min_box_side_px=pose.min_box_side_px,
    )


def image_rules(settings: BuildImagesSettings, keep: KeepRule, keypoint_format: str) -> ImageRules:
    """What is kept, what is stored, and what is written of both."""
    store_min = settings.store_min_detected
    store = keep if store_min is None else replace(keep, min_detected=store_min)
    return ImageRules(keep, store, pose_card(settings.pose_model, keypoint_format, keep), settings.image.jpeg_quality)
