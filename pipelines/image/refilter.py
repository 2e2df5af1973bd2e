"""`lposekit refilter`: another keep rule for a finished dataset, from the stored poses alone."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lposekit.errors import Outcome, UsageError
from lposekit.json_values import strict_json
from lposekit.keypoints import KEYPOINT_FORMATS, KeepRule, keep_verdict
from lposekit.recipe import Claim
from lposekit.records import Columns
from lposekit.settings import flatten_settings
from lposekit.shards.card import DatasetCard, claim_folder, read_card, stated, update_card
from lposekit.shards.keep_rule import keep_rule_of
from lposekit.shards.layout import SCHEMA_VERSION, DatasetLayout
from lposekit.shards.pose_json import PoseHead, person_record, pose_card, pose_json
from lposekit.shards.private import whole_settings
from lposekit.shards.rows import RowResult
from lposekit.stage_times import StageTimes
from lposekit.words import counted
from pipelines.fetch.removals import DETAIL, Removals, joined, read_removals, traits, write_removals
from pipelines.image.stored import NEEDS_PIXELS, stored_persons
from pipelines.image.worker import IMAGE_SHARDS
from pipelines.job.build_report import BuildReport
from pipelines.job.lock import owned_folder
from pipelines.job.report_page import write_report
from pipelines.job.rows import img2dataset_status, removed_columns
from pipelines.job.shard import write_shard
from pipelines.job.stored import StoredShard, read_stored_shard

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Refilter:
    """One pass over a dataset: the new rule, and what it met."""

    source: DatasetLayout
    target: DatasetLayout
    rule: KeepRule
    head: PoseHead
    dedup: bool
    removals: Removals
    """What must not come back."""
    run_id: str = ""
    seen_sha256: set[str] = field(default_factory=set)
    needs_pixels: list[dict[str, object]] = field(default_factory=list)


def run(
    dataset: Path,
    output: Path | None,
    changes: Mapping[str, object],
    *,
    dedup: bool = False,
    dry_run: bool = False,
) -> BuildReport:
    """Write a new dataset folder with the samples of `dataset` that another keep rule keeps.

    Nothing is fetched and no model runs. Rows that the new rule would keep, but whose pixels were never stored, keep
    their outcome and are listed in `_dataset/needs_pixels.parquet`; `lposekit retry --only
    few_keypoints,no_person` on the new folder fetches them by URL and sha256.

    Args:
        changes: fields of `KeepRule` to change.
        dedup: turn down images whose bytes came in an earlier row, over the whole dataset.
        dry_run: count, write nothing; `output` may be None then.

    Raises:
        UsageError: the folder is no image dataset, or the rule is unknown.
    """
    source = DatasetLayout(dataset)
    card = read_card(source)
    if card.kind != "image":
        raise UsageError(f"{dataset} is a dataset of kind {card.kind!r}: refilter judges the poses of images.")
    named = {name: value for name, value in changes.items() if value is not None}
    rule = replace(keep_rule_of(card)[0], **named)
    if output is None and not dry_run:
        raise UsageError("name the new dataset folder with --output; a dataset is never changed in place by refilter.")
    target = DatasetLayout(output or dataset)
    head = pose_card(_pose_model(source, card), stated(card.keypoint_format, "keypoint_format", source), rule)
    work = _Refilter(source, target, rule, head, dedup, read_removals(source))
    if dry_run:
        return _count_only(work)
    if target.root.resolve() == source.root.resolve():
        raise UsageError("--output must be another folder: a dataset is never changed in place by refilter.")
    with owned_folder(target) as work.run_id:
        work.removals = joined(source, target)
        claim_folder(target, _new_card(source, card, rule, dedup))
        return _write_all(work)


def _pose_model(source: DatasetLayout, card: DatasetCard) -> str:
    name = stated(card.settings, "settings", source).get("pose_model")
    return stated(name if isinstance(name, str) else None, "settings.pose_model", source)


def _new_card(source: DatasetLayout, card: DatasetCard, rule: KeepRule, dedup: bool) -> DatasetCard:
    fixed, totals = stated(card.fixed, "fixed", source), stated(card.totals, "totals", source)
    keep_rule = flatten_settings(rule)
    changed = {"keep_rule": keep_rule, "dedup": dedup, "rows": totals.rows}
    return replace(
        card,
        schema=SCHEMA_VERSION,
        settings=whole_settings(source, card),
        fixed={**fixed, "refilter": changed},
        keep_rule=keep_rule,
        totals=None,
        shards=None,
    )


def _count_only(work: _Refilter) -> BuildReport:
    outcomes: Counter[str] = Counter()
    for shard in work.source.committed_shards():
        stored = read_stored_shard(work.source, shard)
        outcomes.update(_judge(work, stored, i)[0].value for i in range(len(stored)))
    notes = (f"would keep {counted(outcomes['kept'], 'sample')}", *_needs_pixels_note(work))
    return BuildReport(work.source.root, dict(outcomes), outcomes["kept"], notes=notes, dry_run=True, foresees=True)


def _write_all(work: _Refilter) -> BuildReport:
    start = time.monotonic()
    if work.removals:
        write_removals(work.target, work.removals)  # a later `retry` of the new folder does not bring it back
    done = set(work.target.committed_shards())
    for shard in work.source.committed_shards():
        # A shard that an interrupted run committed is judged again, for the lists that span shards, but not rewritten.
        _rewrite_shard(work, shard, write=shard not in done)
    if work.needs_pixels:
        pq.write_table(pa.Table.from_pylist(work.needs_pixels), work.target.meta / NEEDS_PIXELS)
    totals = update_card(work.target)
    return BuildReport(
        work.target.root,
        totals.outcomes,
        totals.samples,
        report_path=write_report(work.target),
        seconds=time.monotonic() - start,
        new_rows=totals.rows,
        notes=_needs_pixels_note(work),
    )


def _needs_pixels_note(work: _Refilter) -> tuple[str, ...]:
    if not work.needs_pixels:
        return ()
    note = (
        f"{counted(len(work.needs_pixels), 'row passes', 'rows pass')} this rule, but not stored: the outcome stays. "
        f"`lposekit retry {work.target.root} --only few_keypoints,no_person` fetches them again, without a model."
    )
    return (note,)


def _rewrite_shard(work: _Refilter, shard: int, *, write: bool) -> None:
    stored = read_stored_shard(work.source, shard)
    rows = (_refiltered(work, stored, position) for position in range(len(stored)))
    if write:
        write_shard(Claim(work.target.root, work.run_id), shard, rows, IMAGE_SHARDS, StageTimes())
    else:
        deque(rows, maxlen=0)


def _judge(work: _Refilter, stored: StoredShard, position: int) -> tuple[Outcome, bool]:
    """A row's new outcome, and whether its sample is taken over."""
    old, columns = stored.outcome(position), stored.columns[position]
    if work.removals.name(traits(columns["url"], [columns["sha256"]], [columns["key"]])):
        return Outcome.REMOVED, False
    layout = KEYPOINT_FORMATS[work.head["keypoint_format"]]
    persons = stored_persons(stored, position, layout)
    if persons is None:
        return old, False
    verdict = keep_verdict(persons, columns["width"], columns["height"], work.rule, layout)
    if verdict is not Outcome.KEPT:
        return verdict, False
    if not stored.is_stored(position):
        work.needs_pixels.append({"key": columns["key"], "url": columns["url"], "sha256": columns["sha256"]})
        return old, False
    if work.dedup and columns["sha256"] in work.seen_sha256:
        return Outcome.DUPLICATE, False
    work.seen_sha256.add(columns["sha256"])
    return verdict, True


def _refiltered(work: _Refilter, stored: StoredShard, position: int) -> RowResult:
    outcome, taken = _judge(work, stored, position)
    result = stored.result(position)
    if not taken:
        if outcome is result.outcome and not result.samples:
            return result
        if outcome is Outcome.REMOVED:
            key = result.columns["key"]
            return RowResult(str(key), outcome, removed_columns(result.columns, key, DETAIL))
        columns = {
            **result.columns,
            "outcome": outcome.value,
            "status": img2dataset_status(outcome, False),
            "error_message": f"{outcome.value}: turned down by refilter",
        }
        return replace(result, outcome=outcome, columns=columns, samples=())
    return _kept(work, stored, position, result)


def _kept(work: _Refilter, stored: StoredShard, position: int, result: RowResult) -> RowResult:
    """A sample taken over: image and caption as they are, the account and the detected counts anew."""
    layout = KEYPOINT_FORMATS[work.head["keypoint_format"]]
    persons = stored_persons(stored, position, layout)
    assert persons is not None
    columns = {**result.columns, "outcome": Outcome.KEPT.value, "status": "success", "error_message": None}
    width, height = columns["width"], columns["height"]
    records = [person_record(p, width, height, work.rule.keypoint_score_threshold, layout) for p in persons]
    columns |= {"max_detected": max((record["num_detected"] for record in records), default=None)}
    [(key, members)] = result.samples
    changed = {
        "json": _updated_json(members["json"], columns),
        "pose.json": pose_json(records, width, height, work.head),
    }
    return replace(
        result, outcome=Outcome.KEPT, columns=columns, samples=((key, {**members, **changed}),), thumbnail=None
    )


def _updated_json(old: bytes, columns: Columns) -> bytes:
    changed = ("outcome", "status", "error_message", "max_detected")
    value = json.loads(old) | {name: columns[name] for name in changed}
    return strict_json(value, ensure_ascii=False, sort_keys=True).encode("utf-8")
