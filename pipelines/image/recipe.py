"""The recipe of LAION-Pose: from a list of URLs and captions to shards of image, text and pose."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import JsonValue
from lposekit.keypoints import KeepRule
from lposekit.pose import stub
from lposekit.pose.weights import require_weights
from lposekit.pose.zoo import detector_entry, pose_entry, precision_on
from lposekit.recipe import ActorHandle, CardFacts, Claim, Machine, Pool
from lposekit.settings import flatten_settings
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.pose_json import pose_card
from pipelines.fetch.policy import Blocklist
from pipelines.image.plan import ShardPlan, count_rows, iter_shards, list_warnings
from pipelines.image.pose_actor import PoseActor, PoseSpec, load_estimator
from pipelines.image.pose_pool import LocalPoses, RayPoses
from pipelines.image.rows import ImageRules
from pipelines.image.settings import BuildImagesSettings
from pipelines.image.sources import Source, open_sources
from pipelines.image.stored import RetryPlan
from pipelines.image.worker import ImageWorker
from pipelines.job.stored import shards_with
from pipelines.lists.fingerprint import lists_fingerprint


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

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """Models, blocklist, lists and weights, before anything is started."""
        known_model(self.settings)
        Blocklist.from_files(self.settings.fetch.blocklist)
        reads_lists = self.sample_server is None and self.rule is None
        warnings = list_warnings(self.settings, self._sources) if reads_lists else []
        self._require_weights(may_download=not dry_run)  # last: it may take minutes
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
        rows = "all rows" if num_rows is None else f"{num_rows} rows"
        return [
            f"would read {rows} from {', '.join(self.settings.input)}",
            f"would use {self.settings.detector} and {self.settings.pose_model}",
        ]

    def num_rows(self) -> int | None:
        return count_rows(self.settings, self._sources)

    def plans(self, skip: Container[int] = ()) -> Iterator[ShardPlan | RetryPlan]:
        return iter_shards(self.settings, skip, self._sources)

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[ShardPlan | RetryPlan]:
        return (RetryPlan(shard, outcomes) for shard in shards_with(layout, outcomes))

    def pool(self, machine: Machine) -> Pool:
        """The pose models. Workers claim no CPU: they wait for the network, and must not starve these."""
        pose = self.settings.pose
        use_gpu = machine.gpus > 0 if pose.device == "auto" else pose.device.startswith("cuda")
        if use_gpu and not machine.gpus:
            raise UsageError(
                "pose.device asks for a GPU, and the Ray cluster has none. Set pose.device to cpu or auto."
            )
        spec = self._pose_spec("cuda" if use_gpu else "cpu")
        if use_gpu:
            size = pose.actors or machine.gpus * pose.actors_per_gpu
            num_cpus = 1.0 if machine.cpus > size else 0.0
            return Pool(PoseActor, (spec,), size, num_cpus, min(1.0, machine.gpus / size))
        size = pose.actors or max(1, machine.cpus // pose.threads)
        return Pool(PoseActor, (spec,), size, min(float(pose.threads), machine.cpus / size), 0.0)

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> ImageWorker:
        spec = self._pose_spec("cpu" if self.settings.pose.device == "auto" else self.settings.pose.device)
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

    def _require_weights(self, *, may_download: bool) -> None:
        settings = self.settings
        if settings.pose_model == stub.NAME or settings.ray_address or os.environ.get("RAY_ADDRESS"):
            return  # on a cluster the nodes need them, and this machine may not have them
        entries = detector_entry(settings.detector), pose_entry(settings.pose_model)
        wanted = [entry.weights for entry in entries]
        require_weights(wanted, settings.weights_dir, may_download=may_download)

    def _rules(self) -> ImageRules:
        known = known_model(self.settings)
        return image_rules(self.settings, self.rule or keep_rule(self.settings, known), known.keypoint_format)

    def _pose_spec(self, device: str) -> PoseSpec:
        """The pose model of a run, on a device."""
        settings = self.settings
        # Named here, not left to the environment: the actors may run on other machines and in bare children.
        named = settings.weights_dir or os.environ.get("LPOSEKIT_WEIGHTS")
        weights_dir = Path(named).resolve() if named else None
        return PoseSpec(
            settings.detector,
            settings.pose_model,
            weights_dir,
            device,
            precision_on(device, settings.pose.precision),
            box_score_threshold(settings, known_model(settings)),
            settings.pose,
        )


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the zoo entries of pose model and detector say that a build needs before they are loaded."""

    keypoint_format: str
    keypoint_score_threshold: float
    box_score_threshold: float


def known_model(settings: BuildImagesSettings) -> KnownModel:
    """What is known of the pose model before it is loaded.

    Raises:
        UsageError: no such detector or pose model.
    """
    if settings.pose_model == stub.NAME:
        return KnownModel(stub.KEYPOINT_FORMAT, stub.KEYPOINT_SCORE_THRESHOLD, stub.BOX_SCORE_THRESHOLD)
    detector, entry = detector_entry(settings.detector), pose_entry(settings.pose_model)
    return KnownModel(entry.keypoint_format, entry.keypoint_score_threshold, detector.box_score_threshold)


def box_score_threshold(settings: BuildImagesSettings, entry: KnownModel) -> float:
    """Score from which a box counts as a person, for the keep rule and for the pose actors alike."""
    named = settings.pose.box_score_threshold
    return entry.box_score_threshold if named is None else named


def keep_rule(settings: BuildImagesSettings, entry: KnownModel) -> KeepRule:
    """The rule for keeping an image: what is not set comes from the models."""
    pose = settings.pose
    keypoint = pose.keypoint_score_threshold
    return KeepRule(
        keypoint_score_threshold=entry.keypoint_score_threshold if keypoint is None else keypoint,
        min_detected=settings.min_detected,
        person_rule=settings.person_rule,
        box_score_threshold=box_score_threshold(settings, entry),
        min_box_area_fraction=pose.min_box_area_fraction,
        min_box_side_px=pose.min_box_side_px,
    )


def image_rules(settings: BuildImagesSettings, keep: KeepRule, keypoint_format: str) -> ImageRules:
    """What is kept, what is stored, and what is written of both."""
    store_min = settings.store_min_detected
    store = keep if store_min is None else replace(keep, min_detected=store_min)
    return ImageRules(keep, store, pose_card(settings.pose_model, keypoint_format, keep), settings.image.jpeg_quality)
