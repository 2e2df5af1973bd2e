"""The recipe of video shards: from videos to shards of short captioned clips."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import JsonValue
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
from pipelines.video.shard_sizes import shard_bytes
from pipelines.video.worker import VideoWorker


def as_begun(settings: BuildVideoSettings) -> BuildVideoSettings:
    """The settings with the number of videos in a shard that a folder was begun with, where none is named: those of
    older versions always have one."""
    if settings.rows_per_shard is not None or settings.output is None:
        return settings
    layout = DatasetLayout(settings.output)
    if kind_of(layout.store, layout.relative(layout.card)) is None:
        return settings
    begun = (read_card(layout).fixed or {}).get("settings")
    number = begun.get("rows_per_shard") if isinstance(begun, Mapping) else None
    return replace(settings, rows_per_shard=number) if isinstance(number, int) else settings


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
        return []

    def fixed_facts(self) -> dict[str, JsonValue]:
        size = shard_bytes(self.settings)
        return {"input": input_fingerprint(self.settings), **({} if size is None else {"shard_bytes": size})}

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
