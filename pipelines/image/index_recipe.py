"""The recipe of `lposekit materialize`: from an index without pixels to the shards it was made of, without a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import COUNT, JsonFields, JsonValue
from lposekit.recipe import ActorHandle, CardFacts, Claim, Machine
from lposekit.settings import flatten_settings, stored_settings
from lposekit.shards.card import DatasetCard, deciding_models, read_card, stated, write_card
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import DatasetLayout
from lposekit.store_reads import sha256_of
from lposekit.versions import installed_versions
from lposekit.words import counted
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.removals import joined, read_removals
from pipelines.image.index_rows import IndexPlan, index_shards, out_of_step, read_index_card
from pipelines.image.index_settings import MaterializeSettings
from pipelines.image.recipe import ImageRecipe, image_rules
from pipelines.image.rows import ImageRules
from pipelines.image.settings import BuildImagesSettings, ImageSettings
from pipelines.image.worker import ImageWorker
from pipelines.job.stored import shards_with
from pipelines.pose.actor import Image
from pipelines.pose.pool import PendingPoses

MATERIALIZED = "materialized"
"""Key of a card: its poses are those of an index, not of a model that ran."""
INDEX_SHA256 = "index_sha256"
"""Key of a card: the index that its shards are in step with."""


class NoModel:
    """In place of a pose model, where all poses are known."""

    def submit(self, images: list[Image]) -> PendingPoses:
        raise AssertionError("the poses of an index are known")


@dataclass(frozen=True)
class IndexRecipe:
    """How an index becomes the dataset that it was made of.

    settings: of the dataset, as the index states them, with where to fetch and write as the user says.
    """

    settings: BuildImagesSettings

    kind = "image"
    packages = ImageRecipe.packages
    fixed_packages = ImageRecipe.fixed_packages
    bytes_in_flight = 0

    @property
    def index(self) -> DatasetLayout:
        """Where the index lies."""
        return DatasetLayout(Path(self.settings.input[0]))

    def preflight(self, *, dry_run: bool = False) -> Sequence[str]:
        """Index and blocklist, before anything is started."""
        card = read_index_card(self.index)
        self._rules(card)
        Blocklist.from_files(self.settings.fetch.blocklist)
        made_with, here = card.versions or {}, installed_versions(self.fixed_packages)
        return [
            f"the index was made with {name} {made_with[name]}, here is {here[name]}: other bytes may be stored"
            for name in self.fixed_packages
            if made_with.get(name, here[name]) != here[name]
        ]

    def fixed_facts(self) -> dict[str, JsonValue]:
        """Of the dataset that the index was made of, not of its rows: a later index of it goes on in a folder."""
        card = read_index_card(self.index)
        decides = [card.fixed, card.keypoint_format, deciding_models(card.models or {})]
        text = json.dumps(decides, sort_keys=True)
        rule, _ = keep_rule_of(card)
        return {"input": f"index {hashlib.sha256(text.encode()).hexdigest()}", "keep_rule": flatten_settings(rule)}

    def card_facts(self) -> CardFacts:
        card = read_index_card(self.index)
        return {
            "sample": False,
            "keep_rule": flatten_settings(keep_rule_of(card)[0]),
            "keypoint_format": keep_rule_of(card)[1].name,
            "models": card.models,
            "extra": {MATERIALIZED: True, INDEX_SHA256: self.index_sha256},
        }

    @property
    def index_sha256(self) -> str:
        """Of what the index says of its rows: its card, and what was removed from it."""
        layout, sha = self.index, hashlib.sha256()
        for path in (layout.card, layout.removed):
            with contextlib.suppress(FileNotFoundError):
                sha.update(sha256_of(layout.store, layout.relative(path)).encode())
        return sha.hexdigest()

    def is_taken_up(self, layout: DatasetLayout) -> bool:
        """Whether the shards of a folder were last brought into step with this very index."""
        return read_card(layout).extra.get(INDEX_SHA256) == self.index_sha256

    def remember(self, layout: DatasetLayout) -> None:
        """Say in the card of a folder that its shards are in step with this index."""
        card = read_card(layout)
        write_card(layout, replace(card, extra={**card.extra, INDEX_SHA256: self.index_sha256}))

    def dry_run_notes(self) -> Sequence[str]:
        num_rows = self.num_rows()
        rows = "all rows" if num_rows is None else counted(num_rows, "row")
        return [f"would fetch {rows} of {self.index.root}, and run no model"]

    def num_rows(self) -> int | None:
        return JsonFields(read_index_card(self.index).extra).take("index_rows", COUNT)

    def plans(self, skip: Container[int] = ()) -> Iterator[IndexPlan]:
        layout = self.index
        shards = index_shards(layout)
        if not shards:
            raise UsageError(f"{layout.root}: an index without rows (no 00000.parquet). Get it again.")
        keypoints = self._keypoint_format()
        return (IndexPlan(layout.root, shard, keypoints) for shard in shards if shard not in skip)

    def retry_plans(self, layout: DatasetLayout, outcomes: frozenset[Outcome]) -> Iterator[IndexPlan]:
        """Rows with these outcomes; and what is no longer as in the index, where that is another one than before."""
        again, removals = set(shards_with(layout, outcomes)), read_removals(layout)
        newer, keypoints = not self.is_taken_up(layout), self._keypoint_format()
        tables = set(index_shards(self.index))
        for shard in layout.committed_shards():
            if shard in again or (newer and any(out_of_step(self.index, layout, shard, removals))):
                yield IndexPlan(self.index.root, shard, keypoints, outcomes, has_table=shard in tables)

    def taking_up(self, layout: DatasetLayout) -> str | None:
        """What would be done to the shards of a folder that are there, to bring them into step; None: nothing."""
        if self.is_taken_up(layout):
            return None
        removals, shards = joined(self.index, layout), layout.committed_shards()
        found = [out_of_step(self.index, layout, shard, removals) for shard in shards]
        more, gone = (sum(counts) for counts in zip(*found, strict=True)) if found else (0, 0)
        parts = [f"take out {counted(gone, 'row')} that the index no longer has"] if gone else []
        parts += [f"fetch {counted(more, 'row')} that the folder lacks"] if more else []
        return f"would {' and '.join(parts)}, in shards that are there" if parts else None

    def pool(self, machine: Machine) -> None:
        """No model runs."""

    def worker(self, claim: Claim, pool: Sequence[ActorHandle] | None = None, number: int = 0) -> ImageWorker:
        return ImageWorker(claim, self.settings, self._rules(read_index_card(self.index)), NoModel())

    def _keypoint_format(self) -> str:
        return keep_rule_of(read_index_card(self.index))[1].name

    def _rules(self, card: DatasetCard) -> ImageRules:
        rule, keypoint_format = keep_rule_of(card)
        return image_rules(self.settings, rule, keypoint_format.name)


def index_recipe(given: MaterializeSettings) -> IndexRecipe:
    """The recipe of what a user asks for.

    Raises:
        UsageError: nothing, or no index, is named. LposekitError: its card is damaged.
    """
    if given.index is None or given.output is None:
        raise UsageError("name the index, and the dataset folder with --output")
    layout = DatasetLayout(given.index)
    settings = stated(read_index_card(layout).settings, "settings", layout)
    stored = stored_settings(BuildImagesSettings, {"pose.duplicate_oks": None, **settings}, "card of the index")
    return IndexRecipe(
        BuildImagesSettings(
            input=(str(layout.root),),
            output=given.output,
            rows_per_shard=stored.rows_per_shard,
            min_detected=stored.min_detected,
            store_min_detected=stored.store_min_detected,
            person_rule=stored.person_rule,
            detector=stored.detector,
            pose_model=stored.pose_model,
            workers=given.workers,
            ray_address=given.ray_address,
            allow_private_addresses=given.allow_private_addresses,
            min_success=given.min_success,
            network_failure_limit=given.network_failure_limit,
            stall_minutes=given.stall_minutes,
            fetch=given.fetch,
            image=replace(_bounded(stored.image), decode_processes=given.decode_processes),
            pose=replace(stored.pose, device="cpu", actors=None),
        )
    )


def _bounded(image: ImageSettings) -> ImageSettings:
    """What a stranger's card says of images, with our own limits of what one may cost."""
    own = ImageSettings()
    return replace(
        own,
        size=image.size,
        jpeg_quality=image.jpeg_quality,
        keep_jpeg=image.keep_jpeg,
        min_size=image.min_size,
        max_aspect_ratio=image.max_aspect_ratio,
        max_pixels=min(image.max_pixels, own.max_pixels),
    )
