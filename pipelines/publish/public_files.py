"""The files of a dataset that the world may see, made one after the other in a scratch folder, each gone after use.

An index: the rows of stored samples with addresses, sha256, captions and poses; card, removals, README, page.
With images, a dataset folder as a build writes it, of the same rows: tars, tables, indexes and commit markers are made
anew, so that they agree; no thumbnails, for those are of images that were turned down.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lposekit.errors import LposekitError
from lposekit.json_values import strict_json
from lposekit.recipe import Claim
from lposekit.records import shard_name
from lposekit.report.html import write_report
from lposekit.shards.card import DatasetCard, claim_folder, update_card, write_card
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.private import published
from lposekit.shards.rows import RowResult
from lposekit.shards.tables import shard_table
from lposekit.shards.writer import final_files
from lposekit.stage_times import StageTimes
from pipelines.export.card import card_text
from pipelines.fetch.removals import write_removals
from pipelines.image.index_rows import INDEX_KIND
from pipelines.image.worker import IMAGE_SHARDS
from pipelines.job.lock import owned_folder
from pipelines.job.shard import write_shard
from pipelines.job.stored import read_stored_shard
from pipelines.publish.public_rows import PublicRows, told, told_row
from pipelines.video.rows import VIDEO_SHARDS

logger = logging.getLogger(__name__)
File = tuple[str, Path]
"""Name at its destination, and where it lies now."""
_OF_MACHINES = ("input", "output", "ray_address", "weights_dir", "fetch.blocklist", "fetch.ca_file")
_HOW_INDEX = (
    "An index: addresses, captions and poses of images, without the images. `lposekit materialize` fetches them again, "
    "checks each by its sha256, and writes the dataset that this index was made of, without running a model."
)
_HOW_OTHER_INDEX = (
    "An index: addresses, captions and what else is known of the samples, without their files. `lposekit materialize` "
    "fetches images alone: download the videos, and build the clips again with the settings in `_dataset/dataset.json`."
)
_HOW_IMAGES = "A dataset folder of lposekit: `lposekit.open_dataset`, webdataset and img2dataset's readers open it."


def index_files(
    dataset: PoseDataset, rules: PublicRows, scratch: Path, *, with_page: bool = True
) -> Generator[File, None, None]:
    """The files of an index, the card last: without it the others are none."""
    layout, num_rows, names = DatasetLayout(dataset.root), 0, list[str]()
    for shard in layout.committed_shards():
        table = rules.of(shard_table(layout, layout.parquet(shard)))
        if table.num_rows:
            num_rows += table.num_rows
            names.append(shard_name(shard))
            yield from _written(scratch, f"{names[-1]}.parquet", lambda path, table=table: _write_table(table, path))
    of_images = dataset.card.kind == "image"
    how, kind = (_HOW_INDEX, INDEX_KIND) if of_images else (_HOW_OTHER_INDEX, f"{dataset.card.kind}-index")
    yield from _words(dataset, rules, scratch, num_rows, how, tars=None, with_page=with_page)
    extra = {**public_card(dataset.card).extra, "index_rows": num_rows}
    card = replace(public_card(dataset.card), kind=kind, shards=names, extra=extra)
    out = DatasetLayout(scratch / "index")
    out.meta.mkdir(parents=True)
    write_card(out, card)
    yield out.relative(out.card), out.card


def dataset_files(
    dataset: PoseDataset, rules: PublicRows, scratch: Path, *, with_page: bool = True
) -> Generator[File, None, None]:
    """The files of a dataset folder with its images or clips, each shard's marker last, the card at the end."""
    source, target = DatasetLayout(dataset.root), DatasetLayout(scratch / "dataset")
    kind = IMAGE_SHARDS if dataset.card.kind == "image" else VIDEO_SHARDS
    num_samples = 0
    with owned_folder(target) as run_id:
        claim_folder(target, _claim_card(dataset.card))
        for shard in source.committed_shards():
            rows = _public_results(source, shard, rules)
            report = write_shard(Claim(target.root, run_id), shard, rows, kind, StageTimes())
            num_samples += report.num_samples
            for path in [*final_files(target, shard), target.stats(shard)]:
                yield target.relative(path), path
                if path != target.stats(shard):
                    path.unlink()  # the card is made of the markers
        yield from _words(dataset, rules, scratch, num_samples, _HOW_IMAGES, tars="*.tar", with_page=with_page)
        update_card(target)
        yield target.relative(target.card), target.card


def _public_results(source: DatasetLayout, shard: int, rules: PublicRows) -> Generator[RowResult, None, None]:
    """The shard's rows that may be told, with their samples."""
    stored = read_stored_shard(source, shard)
    public = {columns["key"]: columns for columns in rules.rows(stored.columns)}
    for position, columns in enumerate(stored.columns):
        if columns["key"] in public:
            result = stored.result(position)
            samples = tuple((key, _told_members(members)) for key, members in result.samples)
            yield replace(result, columns=public[columns["key"]], samples=samples, thumbnail=None)


def _told_members(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The sample, with what may be told in its json."""
    there = json.loads(members["json"])
    public = told_row(there)
    if public == there:
        return dict(members)
    text = strict_json(public, ensure_ascii=False, sort_keys=True)
    return {**members, "json": text.encode("utf-8", "replace")}


def _claim_card(card: DatasetCard) -> DatasetCard:
    fixed = {**(card.fixed or {}), "published": True}  # no build continues it
    return replace(public_card(card), fixed=fixed, totals=None, shards=None)


def public_card(card: DatasetCard) -> DatasetCard:
    """The card without where things lie: no list, folder or address of a machine or an account."""
    shown = published(card)
    settings = {name: told(value) for name, value in (shown.settings or {}).items() if name not in _OF_MACHINES}
    return replace(
        shown,
        settings=settings,
        models=told(shown.models),
        extra=told(shown.extra),
        warnings=[text for text in map(told, shown.warnings or ()) if text],
    )


def _words(
    dataset: PoseDataset,
    rules: PublicRows,
    scratch: Path,
    exported: int,
    how: str,
    *,
    tars: str | None,
    with_page: bool,
) -> Iterator[File]:
    layout = DatasetLayout(dataset.root)
    text = card_text(dataset.card, rules.licences, "lposekit", how, exported, rules.left_out, tars=tars)
    yield from _written(scratch, "README.md", lambda path: path.write_text(text, encoding="utf-8"))
    if with_page and not rules.left_out and (page := _page(layout)) is not None:
        yield "index.html", page
    if rules.removals:
        out = DatasetLayout(scratch / "removed")
        out.meta.mkdir(parents=True)
        write_removals(out, rules.removals)
        yield out.relative(out.removed), out.removed


def _page(layout: DatasetLayout) -> Path | None:
    """The public page; none where the source cannot be written to. It shows skeletons of all that is stored, so it goes
    only where all of that does."""
    try:
        return write_report(layout.root, public=True)
    except LposekitError as error:
        logger.warning("push: no page goes along (%s)", error)
        return None


def _written(scratch: Path, name: str, write: Callable[[Path], object]) -> Iterator[File]:
    path = scratch / name
    write(path)
    yield name, path
    path.unlink()


def _write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")
