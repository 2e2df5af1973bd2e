"""Dataset folders of any number of shards, as a finished `lposekit build-laion-pose` leaves them, made fast.

One shard is built by the production code (stub pose model, images made here instead of fetched) under a number that
occurs nowhere by chance. Every other shard is a copy of its files with that number replaced by its own: in keys, web
addresses, captions and hashes, and in tar headers, whose checksums follow. Text columns that hold the number are stored
plain in the parquet files, so that it can be found there; all else is as `ShardWriter` writes it. `lposekit verify`
finds nothing in such a folder, and the build command, run again, finds nothing left to do.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lposekit.commands.flags import load
from lposekit.commands.registry import COMMANDS
from lposekit.errors import Outcome
from lposekit.pose.stub import StubEstimator
from lposekit.recipe import Claim
from lposekit.records import ImageRow, sample_key, shard_name
from lposekit.shards.card import update_card
from lposekit.shards.layout import DatasetLayout
from lposekit.stage_times import StageTimes
from pipelines.fetch.removals import read_removals
from pipelines.image.decode import decode_image
from pipelines.image.download import FetchedRow
from pipelines.image.plan import ShardPlan, iter_shards
from pipelines.image.recipe import image_rules, keep_rule
from pipelines.image.settings import BuildImagesSettings, ImageSettings
from pipelines.image.shard import ImageStages, image_rows
from pipelines.image.worker import IMAGE_SHARDS
from pipelines.job.lock import owned_folder
from pipelines.job.runner import RunResult
from pipelines.job.shard import write_shard
from pipelines.pose.models import known_model
from pipelines.pose.pool import LocalPoses
from pipelines.recipes import build_images
from tests.support.build_process import Build
from tests.support.stub_images import stub_image

MARK = 97531
"""Number of the shard that the others are made from."""
BLOCK_BYTES = 4096
_MARK_DIGITS = np.frombuffer(str(MARK).encode(), np.uint8).astype(np.int64)
_CHECKSUM_AT, _CHECKSUM_DIGITS, _MAGIC_AT = 148, 6, 257  # in a tar header
_CHUNK = 200
_template: Template | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """One file of the marked shard. ``places``: where the mark stands; ``headers``: where tar headers begin."""

    data: bytes
    places: npt.NDArray[np.int64]
    headers: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def of_shard(self, shard: int) -> bytes:
        """The same file of another shard."""
        digits = np.frombuffer(shard_name(shard).encode(), np.uint8)
        filled = np.frombuffer(self.data, np.uint8).copy()
        filled[self.places[:, None] + np.arange(len(digits))] = digits
        if len(self.headers):
            # A header's checksum is the sum of its bytes, and it holds the number once: in the member's name.
            grown = int(digits.astype(np.int64).sum() - _MARK_DIGITS.sum())
            at = self.headers[:, None] + _CHECKSUM_AT + np.arange(_CHECKSUM_DIGITS)
            octal = 8 ** np.arange(_CHECKSUM_DIGITS)[::-1]
            sums = ((filled[at] - 48) * octal).sum(axis=1) + grown
            filled[at] = sums[:, None] // octal % 8 + 48
        return filled.tobytes()


@dataclass(frozen=True, slots=True)
class Template:
    """The files of the marked shard by their names relative to the folder, and its commit marker, in which ``@0``,
    ``@1``, ... stand for their hashes."""

    rows: int
    files: dict[str, Pattern]
    marker: str

    @property
    def disk_bytes(self) -> int:
        """What one shard takes on a disk, its commit marker included."""
        sizes = [len(pattern.data) for pattern in self.files.values()]
        return sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in [*sizes, 1])

    @property
    def num_files(self) -> int:
        return len(self.files) + 1

    def write(self, root: Path, shard: int) -> None:
        """Write one shard; nothing is synced."""
        marker = _of_shard(self.marker, shard)
        for number, (name, pattern) in enumerate(self.files.items()):
            data = pattern.of_shard(shard)
            (root / _of_shard(name, shard)).write_bytes(data)
            marker = marker.replace(f"@{number}", hashlib.sha256(data).hexdigest())
        DatasetLayout(root).stats(shard).write_text(marker, encoding="utf-8")


def build_arguments(root: Path, rows_per_shard: int) -> list[str]:
    """The command line of the build whose result `make_folder` writes; its list lies beside the folder."""
    return Build(_list_path(root), root, rows_per_shard=rows_per_shard).arguments()


def make_template(scratch: Path, rows: int) -> Template:
    """Build the marked shard by the production code in an empty folder."""
    scratch.mkdir(parents=True)
    root = scratch / "marked"
    root.mkdir()
    layout, settings = DatasetLayout(root), _settings(scratch / "unused", rows)
    known, times = known_model(settings), StageTimes()
    rules = image_rules(settings, keep_rule(settings, known), known.keypoint_format)
    poses, removals = LocalPoses(StubEstimator()), read_removals(layout)
    stages = ImageStages(_made_images, poses, rules, settings.pose.batch_size, False, None, 1, removals)
    with owned_folder(layout) as run_id:
        made = image_rows(_marked_plan(scratch, rows), stages, scratch, times)
        write_shard(Claim(root, run_id), MARK, made, IMAGE_SHARDS, times)
    finals = [layout.tar(MARK), layout.parquet(MARK), layout.index(MARK), layout.thumbnails(MARK)]
    files = {layout.relative(path): _pattern(path) for path in finals}
    return Template(rows, files, _marker(layout.read_stats(MARK).as_json(), files))


def make_folder(root: Path, template: Template, num_shards: int) -> None:
    """A finished folder of that many shards, and its list."""
    assert num_shards <= 10**5, "the mark has five digits"
    root.mkdir(parents=True)
    layout = DatasetLayout(root)
    write_list(_list_path(root), range(num_shards), template.rows)
    # The build itself claims the folder and writes the card, then is stopped before the first shard.
    build_images(_settings(root, template.rows), execute=lambda *_: RunResult(stopped="interrupted"))
    for name in template.files:
        (root / name).parent.mkdir(exist_ok=True)
    chunks = [range(first, min(first + _CHUNK, num_shards)) for first in range(0, num_shards, _CHUNK)]
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, _receive_template, (template,)) as pool:
        for _ in pool.map(_write_shards, [root] * len(chunks), chunks):
            pass
    update_card(layout, models=StubEstimator().card())


def write_list(path: Path, shards: Sequence[int], rows: int) -> None:
    """A parquet list of URLs and captions, `rows` for each of these shards."""
    schema = pa.schema(
        [("url", pa.string()), ("caption", pa.string()), ("LICENSE", pa.string()), ("NSFW", pa.string())]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, len(shards), 10_000):
            records = [record for shard in shards[first : first + 10_000] for record in _list_rows(shard, rows)]
            writer.write_table(pa.Table.from_pylist(records, schema))


def _list_path(root: Path) -> Path:
    return root.with_name(f"{root.name}-list.parquet")


def _list_rows(shard: int, rows: int) -> Iterator[dict[str, str]]:
    for row in range(rows):
        place = f"{shard_name(shard)}-{row:04d}"
        yield {
            "url": f"http://images.example/{place}.jpg",
            "caption": f"two people on a bench beside a lake, number {place}",
            "LICENSE": "?",
            "NSFW": "UNLIKELY",
        }


def _settings(root: Path, rows: int) -> BuildImagesSettings:
    return load(COMMANDS["build-laion-pose"], BuildImagesSettings, build_arguments(root, rows)[1:]).settings


def _marked_plan(scratch: Path, rows: int) -> ShardPlan:
    """The plan of the marked shard, from a list in which it is the first."""
    root = scratch / "planned"
    write_list(_list_path(root), [MARK], rows)
    planned = next(iter_shards(_settings(root, rows)))
    rows_as_marked = (
        replace(each, row=replace(each.row, key=sample_key(MARK, row))) for row, each in enumerate(planned.rows)
    )
    return ShardPlan(MARK, tuple(rows_as_marked))


def _made_images(
    rows: Sequence[ImageRow], work_dir: Path, times: StageTimes, cancel: object = None
) -> Generator[FetchedRow, None, None]:
    """Stands in for the fetch: of four images two have a person to keep, one has none, and one is not there."""
    for number, row in enumerate(rows):
        if number % 4 == 3:
            yield FetchedRow(row, Outcome.HTTP_4XX, "status 404", http_status=404)
            continue
        image = decode_image(stub_image(number, num_persons=int(number % 4 < 2)), ImageSettings())
        yield FetchedRow(row, None, image=image, sha256=f"{number:059x}{MARK}")


def _marker(stats: dict[str, Any], files: dict[str, Pattern]) -> str:
    """The commit marker as `write_json` writes it."""
    described = {
        name: {"bytes": len(pattern.data), "sha256": f"@{number}"}
        for number, (name, pattern) in enumerate(files.items())
    }
    return json.dumps({**stats, "files": described}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _of_shard(text: str, shard: int) -> str:
    """A text with names of the marked shard's files, with those of another."""
    return text.replace(f"{MARK}.", f"{shard_name(shard)}.")


def _pattern(path: Path) -> Pattern:
    if path.suffix == ".parquet":
        data = _with_plain_texts(path)
        return Pattern(data, _find(data, str(MARK).encode()))
    data = path.read_bytes()
    return Pattern(data, _find(data, str(MARK).encode()), _find(data, b"ustar") - _MAGIC_AT)


def _with_plain_texts(path: Path) -> bytes:
    """A parquet file with the text columns that hold the mark neither compressed nor put into a dictionary."""
    table, metadata = pq.read_table(path), pq.read_metadata(path)
    plain = [name for name in table.column_names if table[name].type == pa.string() and _holds_mark(table[name])]
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    codecs = {column.path_in_schema: column.compression for column in columns}
    stream = io.BytesIO()
    pq.write_table(
        table,
        stream,
        compression=cast(Any, {name: "none" if name in plain else _codec(codec) for name, codec in codecs.items()}),
        use_dictionary=cast(Any, [name for name in codecs if name not in plain]),
    )
    return stream.getvalue()


def _codec(stored: str) -> str:
    return "none" if stored == "UNCOMPRESSED" else stored.lower()


def _holds_mark(column: pa.ChunkedArray) -> bool:
    return any(str(MARK) in value for value in column.to_pylist() if value is not None)


def _find(data: bytes, wanted: bytes) -> npt.NDArray[np.int64]:
    places, start = [], data.find(wanted)
    while start >= 0:
        places.append(start)
        start = data.find(wanted, start + len(wanted))
    return np.array(places, np.int64)


def _receive_template(template: Template) -> None:
    """Once in every process that writes."""
    global _template
    _template = template


def _write_shards(root: Path, shards: range) -> None:
    assert _template is not None
    for shard in shards:
        _template.write(root, shard)
