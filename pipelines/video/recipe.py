"""The recipe of video shards: from videos to shards of short captioned clips."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import JsonObject, JsonValue
from lposekit.recipe import ActorHandle, CardFacts, Claim, Machine
from lposekit.shards.card import differing_fields, read_card, stated
from lposekit.shards.layout import DatasetLayout
from lposekit.store_reads import kind_of
from lposekit.versions import installed_versions
from lposekit.words import counted
from pipelines.fetch.policy import Blocklist
from pipelines.job.stored import shards_with
from pipelines.video.plan import count_videos, input_fingerprint, iter_plans
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.shard import VideoPlan
from pipelines.video.shard_sizes import FIRST_ESTIMATE, estimate, shard_bytes
from pipelines.video.worker import VideoWorker

log = logging.getLogger(__name__)

ESTIMATE = "shard_estimate"
"""In the card: what the sizes of clips were estimated with; see `pipelines.video.shard_sizes`."""


def as_begun(settings: BuildVideoSettings) -> BuildVideoSettings:
    """The settings with the number of videos in a shard that a folder was begun with, where none is named: those of
    older versions always have one."""
    if settings.rows_per_shard is not None:
        return settings
    begun = _begun_with(settings).get("settings")
    number = begun.get("rows_per_shard") if isinstance(begun, Mapping) else None
    return replace(settings, rows_per_shard=number) if isinstance(number, int) else settings


def _begun_with(settings: BuildVideoSettings) -> JsonObject:
    """What the folder that is continued fixes; nothing of one that is to begin."""
    if settings.output is None:
        return {}
    layout = DatasetLayout(settings.output)
    if kind_of(layout.store, layout.relative(layout.card)) is None:
        return {}
    return read_card(layout).fixed or {}


@dataclass(frozen=True)
class VideoRecipe:
    """How a dataset of clips is built. `sample`: from the quickstart's own videos."""

    settings: BuildVideoSettings
    sample: bool = False

    kind = "video"
    packages = ("av", "decord2", "scenedetect-headless", "opencv-python-headless")
    fixed_packages = packages
    """Packages whose versions decide the bytes of clips: other ones do not continue a folder."""

    bytes_in_flight = 0
    """There is no pool that clips are handed to."""

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """Blocklist and encoder; the lists are opened by `plans`, which the build calls before it starts anything."""
        from pipelines.video.clips.writer import require_encoder

        Blocklist.from_files(self.settings.fetch.blocklist)
        require_encoder(self.settings.encode)
        number, shard_mb = self.settings.rows_per_shard, self.settings.shard_mb
        if number is not None and shard_mb != BuildVideoSettings().shard_mb:
            log.warning(
                "--shard-mb %d is not used: a shard holds %s, as --rows-per-shard says or the folder was begun.",
                shard_mb,
                counted(number, "video"),
            )
        return []

    def fixed_facts(self) -> dict[str, JsonValue]:
        facts: dict[str, JsonValue] = {"input": input_fingerprint(self.settings)}
        size, begun = shard_bytes(self.settings), _begun_with(self.settings)
        if size is None:
            return facts
        facts["shard_bytes"] = size
        states_none = "shard_bytes" in begun and ESTIMATE not in begun
        return facts if states_none and estimate() == FIRST_ESTIMATE else {**facts, ESTIMATE: estimate()}

    def card_facts(self) -> CardFacts:
        return {"sample": self.sample}

    def dry_run_notes(self) -> Sequence[str]:
        assert self.settings.output is not None
        plans = list(self.plans(skip=set(DatasetLayout(self.settings.output).committed_shards())))
        videos = sum(len(plan.rows) for plan in plans)
        return [f"would build {counted(videos, 'video')} in {counted(len(plans), 'shard')}"]

    def num_rows(self) -> int | None:
        return count_videos(self.settings)

    def plans(self, skip: Container[int] = ()) -> Iterator[VideoPlan]:
        return iter_plans(self.settings, skip)

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[VideoPlan]:
        """The manifests are read again, so they and the encoders must be those of the folder."""
        fixed = stated(read_card(layout).fixed, "fixed", layout)
        if input_fingerprint(self.settings) != fixed.get("input"):
            raise UsageError(
                f"the input of {layout.root} ({', '.join(self.settings.input)}) changed since the folder was built."
            )
        if ESTIMATE in (now := self.fixed_facts()) and fixed.get(ESTIMATE) != now[ESTIMATE]:
            raise UsageError(
                f"{layout.root} was planned with other sizes of clips ({fixed.get(ESTIMATE) or FIRST_ESTIMATE}; this "
                f"version: {now[ESTIMATE]}). Retry with the version of lposekit that began it."
            )
        other = differing_fields(fixed.get("versions"), installed_versions(self.fixed_packages))
        if other:
            raise UsageError(
                f"{layout.root} was built with other versions: {', '.join(other)}. Install those to retry."
            )
        affected = set(shards_with(layout, outcomes))
        return (replace(plan, redo=outcomes) for plan in iter_plans(self.settings) if plan.shard in affected)

    def pool(self, machine: Machine) -> None:
        return None

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> VideoWorker:
        return VideoWorker(claim, self.settings)
