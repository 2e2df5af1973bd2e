"""`lposekit remove`: take images, videos and clips out of a finished dataset, and out of all that was made of it.

In this order, so that a kill leaves of each shard the old or the new state, and the same command, run again, ends it:
remember the list -> drop the pages -> write shards anew -> caches of latents and poses of the clips -> totals, pages.
Nothing is fetched and no model runs. docs/decisions/2026-11-29-remove.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lposekit.errors import Outcome, UsageError
from lposekit.faults import fault_point
from lposekit.json_values import JsonValue
from lposekit.recipe import Claim
from lposekit.report.page import PUBLIC_NAME
from lposekit.shards.card import DatasetCard, read_card, update_card, write_card
from lposekit.shards.dataset import read_members
from lposekit.shards.files import disk_error, replacing
from lposekit.shards.index import read_shard_index
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.rows import RowResult, ShardKind
from lposekit.shards.tables import shard_table
from lposekit.stage_times import StageTimes
from lposekit.store_reads import kind_of
from pipelines.fetch.removals import DETAIL, Entry, Removals, read_removals, traits, write_removals
from pipelines.image.stored import NEEDS_PIXELS
from pipelines.image.worker import IMAGE_SHARDS
from pipelines.job.lock import owned_folder
from pipelines.job.report_page import write_report
from pipelines.job.rows import removed_columns
from pipelines.job.shard import write_shard
from pipelines.job.stored import StoredShard, read_stored_shard
from pipelines.made_of import FORMER_TARS, MadeOf, made_of, refuse_strange
from pipelines.video.poses.clip_shard import POSE_SHARDS
from pipelines.video.rows import VIDEO_SHARDS, removed_video, without_clips

SHARD_KINDS: Mapping[str, ShardKind] = {"image": IMAGE_SHARDS, "video": VIDEO_SHARDS, "poses": POSE_SHARDS}
KIND_COLUMNS: Mapping[str, Sequence[str]] = {"image": (), "video": ("clip_keys",), "poses": ("video_key",)}
HASHED_MEMBERS = ("jpg", "mp4")
"""Of which a sha256 may be named, beside that of the file that was fetched."""
MAX_LINES_SHOWN = 10
FORMER_DIGESTS = "former_digests"
"""In a card: what runs called the bytes of the dataset before each removal."""


@dataclass(slots=True)
class Found:
    """What a list names in one shard."""

    shard: int
    rows: set[int] = field(default_factory=set)
    """Places of rows that go whole."""
    clips: set[str] = field(default_factory=set)
    """Keys of clips that go from videos that stay."""
    samples: list[str] = field(default_factory=list)
    """Keys of all samples that go."""
    remember: set[Entry] = field(default_factory=set)
    """Found by the bytes that are stored here: what tells them in another build."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.clips)


@dataclass(frozen=True, slots=True)
class RemoveReport:
    """The end of a removal. `samples`: keys of those that were taken out; `unmatched`: lines that named nothing."""

    root: Path
    rows: int
    samples: tuple[str, ...]
    shards: int
    unmatched: tuple[str, ...]
    earlier: int
    """Rows that were taken out before."""
    before: frozenset[str] = frozenset()
    """Keys of these rows, and what was remembered of keys before: of videos, clips and images."""
    made_of: tuple[MadeOf, ...] = ()
    notes: tuple[str, ...] = ()
    report_path: Path | None = None
    dry_run: bool = False
    exit_code: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "dataset": str(self.root),
            "rows": self.rows,
            "samples": list(self.samples),
            "shards": self.shards,
            "unmatched": list(self.unmatched),
            "removed_before": self.earlier,
            "made_of": [
                {"folder": str(each.root), "kind": each.kind, "samples": each.samples} for each in self.made_of
            ],
            "report": str(self.report_path) if self.report_path else None,
            "notes": list(self.notes),
            "dry_run": self.dry_run,
            "exit_code": self.exit_code,
        }

    def summary_lines(self) -> list[str]:
        verb = "would remove" if self.dry_run else "removed"
        before = f"; {self.earlier} rows were removed before" if self.earlier else ""
        lines = [f"{self.root}: {verb} {self.rows} rows and {len(self.samples)} samples, {self.shards} shards{before}"]
        lines += [f"{each.what}: {verb} {each.samples} samples" for each in self.made_of]
        if self.unmatched:
            more = "nothing more" if self.earlier or self.before else "nothing"
            lines.append(f"{len(self.unmatched)} lines of the list name {more} in this dataset:")
            lines += [f"  {line}" for line in self.unmatched[:MAX_LINES_SHOWN]]
            lines += ["  ..."] if self.unmatched[MAX_LINES_SHOWN:] else []
        lines += self.notes
        return lines + ([f"report: {self.report_path}"] if self.report_path else [])


def former_digests(card: DatasetCard) -> list[str]:
    """What runs called the bytes of a dataset before samples were removed from it."""
    kept = card.extra.get(FORMER_DIGESTS)
    return [each for each in kept if isinstance(each, str)] if isinstance(kept, list) else []


def _keep_digest(layout: DatasetLayout, digest: str) -> None:
    card = read_card(layout)
    kept: JsonValue = [*former_digests(card), digest]
    if digest not in former_digests(card):
        write_card(layout, replace(card, extra={**card.extra, FORMER_DIGESTS: kept}))


def remove(
    dataset: Path,
    entries: Mapping[Entry, str],
    *,
    poses: Sequence[Path] = (),
    dry_run: bool = False,
    digest: str | None = None,
) -> RemoveReport:
    """Take what the entries name out of a dataset folder, in place, and see that no later build brings it back.

    Args:
        entries: see `pipelines.fetch.removals.parse_entries`.
        poses: folders of poses of this dataset's clips, beside those that lie next to it.
        digest: what runs call the bytes of the dataset as it is now; the card keeps it (`former_digests`).

    Raises:
        UsageError: no dataset of images, clips or poses; another command is at work on it.
        LposekitError: the folder is damaged, or the disk is full; the same command goes on.
    """
    layout = DatasetLayout(dataset)
    card = read_card(layout)
    if card.kind not in SHARD_KINDS:
        raise UsageError(f"{dataset} is a dataset of kind {card.kind!r}: name the dataset that it was made of.")
    derived = made_of(layout, card, poses)
    if dry_run:
        return _dry_run(layout, card, entries, derived)
    with owned_folder(layout) as run_id:
        refuse_strange(derived)
        removals = read_removals(layout)
        before = _removed_before(layout, removals)
        removals = removals.with_entries(entries)
        found, matched = _search(layout, card, removals)
        removals = removals.with_entries({entry for each in found for entry in each.remember})
        write_removals(layout, removals)
        if digest is not None and found:
            _keep_digest(layout, digest)
        fault_point("remove:remembered")
        earlier = _removed_rows(layout)
        had_public = _drop_pages(layout) if found else False
        for each in found:
            _write_anew(Claim(layout.root, run_id), layout, card, each)
        _forget_pixels(layout, removals)
        fault_point("remove:shards_written")
        done = tuple(each.bring_into_step(layout) for each in derived)
        update_card(layout)
        report = write_report(layout)
    notes = [f"{layout.removed} remembers the list: no build, retry or refilter brings the rows back"]
    if had_public:
        notes.append(f"the public page was dropped: `lposekit view {dataset} --public` writes it anew")
    return _report(layout, found, matched, entries, earlier, before, done, notes=tuple(notes), report_path=report)


def _removed_before(layout: DatasetLayout, removals: Removals) -> frozenset[str]:
    """Keys that earlier calls took out: of rows, as they say themselves, and as remembered, of single clips."""
    keys = set(removals.keys)
    for shard in layout.committed_shards():
        if layout.read_stats(shard).outcomes.get(Outcome.REMOVED.value):
            rows = shard_table(layout, layout.parquet(shard), columns=["key", "outcome"]).to_pylist()
            keys.update(row["key"] for row in rows if row["outcome"] == Outcome.REMOVED)
    return frozenset(keys)


def _removed_rows(layout: DatasetLayout) -> int:
    """Rows that were removed, by the commit markers."""
    removed = Outcome.REMOVED.value
    return sum(layout.read_stats(shard).outcomes.get(removed, 0) for shard in layout.committed_shards())


def _dry_run(
    layout: DatasetLayout, card: DatasetCard, entries: Mapping[Entry, str], derived: Sequence[MadeOf]
) -> RemoveReport:
    removals = read_removals(layout)
    found, matched = _search(layout, card, removals.with_entries(entries))
    going = {key for each in found for key in each.samples}
    would = tuple(each.without(going) for each in derived)
    before = _removed_before(layout, removals)
    return _report(layout, found, matched, entries, _removed_rows(layout), before, would, dry_run=True)


def _report(
    layout: DatasetLayout,
    found: Sequence[Found],
    matched: Collection[Entry],
    entries: Mapping[Entry, str],
    earlier: int,
    before: frozenset[str],
    derived: tuple[MadeOf, ...],
    *,
    notes: tuple[str, ...] = (),
    report_path: Path | None = None,
    dry_run: bool = False,
) -> RemoveReport:
    return RemoveReport(
        layout.root,
        sum(len(each.rows) for each in found),
        tuple(key for each in found for key in each.samples),
        len(found),
        tuple(line for entry, line in entries.items() if entry not in matched),
        earlier,
        before,
        derived,
        notes,
        report_path,
        dry_run,
    )


def _search(layout: DatasetLayout, card: DatasetCard, removals: Removals) -> tuple[list[Found], set[Entry]]:
    """What the shards hold of it, and all traits of the rows that were found."""
    found, matched = [], set[Entry]()
    for shard in layout.committed_shards():
        each = _search_shard(layout, shard, card.kind, removals, matched)
        if each:
            found.append(each)
    return found, matched


def _search_shard(layout: DatasetLayout, shard: int, kind: str, removals: Removals, matched: set[Entry]) -> Found:
    columns = ["key", "url", "sha256", "outcome", *KIND_COLUMNS[kind]]
    rows = shard_table(layout, layout.parquet(shard), columns=columns).to_pylist()
    found, digests = Found(shard), _member_digests(layout, shard, removals)
    for position, row in enumerate(rows):
        if row["outcome"] == Outcome.REMOVED:
            matched.add(("key", row["key"]))
            continue
        own = traits(row["url"], [row["sha256"]], [row["key"], row.get("video_key")])
        samples = [key for key in (row["clip_keys"] or () if kind == "video" else [row["key"]]) if key in digests]
        of_samples = {key: traits(sha256=[digests[key]], keys=[key]) for key in samples}
        named = [key for key in samples if removals.name(of_samples[key])]
        if removals.name(own) or (named and kind != "video"):
            found.rows.add(position)
            found.samples += samples
            if not removals.name(own):  # by the bytes that are stored here: another build is told by what was fetched
                found.remember.update(traits(sha256=[row["sha256"]]))
            matched.update(own)
        else:
            found.clips.update(named)
            found.samples += named
            found.remember.update(("key", key) for key in named)
        matched.update(name for key in named for name in of_samples[key])
    return found


def _member_digests(layout: DatasetLayout, shard: int, removals: Removals) -> dict[str, str | None]:
    """Each sample's key, and the sha256 of its image or clip if any is asked for: who has only the dataset can name no
    other."""
    index = read_shard_index(layout, shard)
    keys = index.keys.tolist()
    if not removals.entries["sha256"]:
        return dict.fromkeys(keys)
    digests: dict[str, str | None] = {}
    for place, key in enumerate(keys):
        members = read_members(index, place)
        held = next((members[name] for name in HASHED_MEMBERS if name in members), None)
        digests[key] = None if held is None else hashlib.sha256(held).hexdigest()
    return digests


def _write_anew(claim: Claim, layout: DatasetLayout, card: DatasetCard, found: Found) -> None:
    """One shard without what was found, in place of the old one."""
    stored, old = read_stored_shard(layout, found.shard), layout.read_stats(found.shard)
    former = [*_former(old.extra.get(FORMER_TARS)), stored.index.tar_sha256]
    times = StageTimes()
    times.add_all({name: seconds for name, seconds in (old.timings_s or {}).items() if name != "commit"})
    kept = {name: getattr(old, name) for name in ("duration", "start_time", "end_time", "source_sha256")}
    facts = {**old.extra, **{name: value for name, value in kept.items() if value is not None}, FORMER_TARS: former}
    write_shard(claim, found.shard, _rows_left(stored, found, card.kind), SHARD_KINDS[card.kind], times, stats=facts)


def _former(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _rows_left(stored: StoredShard, found: Found, kind: str) -> Generator[RowResult, None, None]:
    for position, columns in enumerate(stored.columns):
        if position not in found.rows:
            row = stored.result(position)
            yield without_clips(row, found.clips) if kind == "video" else row
        elif kind == "video":
            yield removed_video(columns["key"], columns)
        else:
            yield RowResult(columns["key"], Outcome.REMOVED, removed_columns(columns, columns["key"], DETAIL))


def _drop_pages(layout: DatasetLayout) -> bool:
    """Remove the report, which shows what the shards held; returns whether there was a public page."""
    public = layout.report.with_name(PUBLIC_NAME)
    had_public = public.exists()
    try:
        for page in (layout.report, public):
            page.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, layout.report) from error
    return had_public


def _forget_pixels(layout: DatasetLayout, removals: Removals) -> None:
    """The list of rows that `refilter` would keep names addresses, too."""
    path = layout.meta / NEEDS_PIXELS
    if kind_of(layout.store, layout.relative(path)) is None:
        return
    table = shard_table(layout, path)
    gone = [removals.name(traits(row["url"], [row["sha256"]], [row["key"]])) for row in table.to_pylist()]
    if any(gone):
        try:
            with replacing(path) as partial:
                pq.write_table(table.filter(pa.array([not each for each in gone])), partial)
        except OSError as error:
            raise disk_error(error, path) from error
