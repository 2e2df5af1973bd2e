"""From lists of URLs to shards of rows.

Which row goes where is a pure function of the input order and the settings: row i belongs to shard i // rows_per_shard.
So a resumed run passes over the shards that are there without building their rows, and memory stays flat however long
the lists are.

With `shuffle_seed` the rows are first shuffled within blocks of about 65,536 neighbouring rows, whole shards each: that
spreads a burst to one host over a block, in bounded memory, and is the same for the same seed and `rows_per_shard`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lposekit.records import sample_key
from pipelines.image.plan_rows import PlannedRow, RowRules, bind_limits, metadata_limits, plan_row, row_rules
from pipelines.image.settings import BuildImagesSettings
from pipelines.image.sources import Source, extra_types, open_sources, source_tables
from pipelines.lists.columns import safety_warnings
from pipelines.lists.tail import check_tail
from pipelines.lists.text import MAX_CELL_CHARS
from pipelines.lists.values import column_values

SHUFFLE_BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The rows of one shard, in the order of their keys."""

    shard: int
    rows: tuple[PlannedRow, ...]

    @property
    def captions_trimmed(self) -> int:
        return sum(planned.caption_trimmed for planned in self.rows)


def iter_shards(
    settings: BuildImagesSettings, skip: Container[int] = (), sources: Sequence[Source] | None = None
) -> Iterator[ShardPlan]:
    """The shards of the input in order, without those in `skip`; `sources`: its lists, if they are open already.

    What can be wrong with the input is looked for in this call, before the first shard is asked for.

    Raises:
        UsageError: a missing file or column, an unsupported kind of file.
        LposekitError: a damaged file; one that shows its damage only later raises while iterating.
    """
    rules = row_rules(settings.filter, settings.fetch.stored_query)
    sources = open_sources(settings) if sources is None else sources
    for source in sources:
        check_tail(source.opened.file)
    return (_plan_shard(shard, table, rules) for shard, table in _shard_tables(settings, sources, skip))


def _plan_shard(shard: int, table: pa.Table, rules: RowRules) -> ShardPlan:
    urls, captions, *others = (column_values(column) for column in table.columns)
    names = table.column_names[2:]
    limits = bind_limits(rules.limits, names)
    extras = zip(*others, strict=True) if others else ((),) * table.num_rows
    rows = (
        plan_row(sample_key(shard, index), url, caption, dict(zip(names, extra, strict=True)), rules, limits)
        for index, (url, caption, extra) in enumerate(zip(urls, captions, extras, strict=True))
    )
    return ShardPlan(shard, tuple(rows))


def _shard_tables(
    settings: BuildImagesSettings, sources: Sequence[Source], skip: Container[int]
) -> Iterator[tuple[int, pa.Table]]:
    """Shards as tables. A unit is what is read at once: one shard, or a block of shards to be shuffled."""
    size, seed = settings.rows_per_shard, settings.shuffle_seed
    shards_per_unit = 1 if seed is None else -(-SHUFFLE_BLOCK_ROWS // size)

    def wanted(unit: int) -> bool:
        return any(shard not in skip for shard in range(unit * shards_per_unit, (unit + 1) * shards_per_unit))

    max_cell_chars = max(
        MAX_CELL_CHARS, 4 * (settings.filter.max_caption_chars + 1)
    )  # one more: it is counted as trimmed
    for unit, table in _units(sources, size * shards_per_unit, settings.max_rows, wanted, max_cell_chars):
        ordered = table if seed is None else table.take(_permutation(table.num_rows, seed, unit))
        for offset in range(0, ordered.num_rows, size):
            shard = unit * shards_per_unit + offset // size
            if shard not in skip:
                yield shard, ordered.slice(offset, size)


def _permutation(num_rows: int, seed: int, unit: int) -> list[int]:
    # Python keeps random.Random's sequence for a seed from version to version; numpy does not promise that.
    order = list(range(num_rows))
    random.Random(f"{seed}:{unit}").shuffle(order)
    return order


def _units(
    sources: Sequence[Source],
    unit_rows: int,
    max_rows: int | None,
    wanted: Callable[[int], bool],
    max_cell_chars: int,
) -> Iterator[tuple[int, pa.Table]]:
    parts: list[pa.Table] = []
    end = 0
    for begin, end, table in _runs(sources, unit_rows, wanted, max_cell_chars):
        end = end if max_rows is None else min(end, max_rows)
        for unit in range(begin // unit_rows, -(-end // unit_rows)):
            first, last = max(begin, unit * unit_rows), min(end, (unit + 1) * unit_rows)
            if table is not None and wanted(unit):
                parts.append(table.slice(first - begin, last - first))
            if last == (unit + 1) * unit_rows and parts:
                yield unit, pa.concat_tables(parts)
                parts = []
        if end == max_rows:
            break
    if parts:
        yield end // unit_rows, pa.concat_tables(parts)


def _runs(
    sources: Sequence[Source], unit_rows: int, wanted: Callable[[int], bool], max_cell_chars: int
) -> Iterator[tuple[int, int, pa.Table | None]]:
    """The rows of all lists as (begin, end, table), begin and end counted over all lists."""
    types, position = extra_types(sources), 0
    for source in sources:
        start = position

        def rows_wanted(first: int, num_rows: int, start: int = start) -> bool:
            begin, end = start + first, start + first + num_rows
            return any(wanted(unit) for unit in range(begin // unit_rows, -(-end // unit_rows)))

        for num_rows, table in source_tables(source, types, rows_wanted, max_cell_chars):
            yield position, position + num_rows, table
            position += num_rows


def count_rows(settings: BuildImagesSettings, sources: Sequence[Source] | None = None) -> int | None:
    """Rows of the input, where footers say so; None where the lists would have to be read."""
    total = 0
    for source in open_sources(settings) if sources is None else sources:
        if source.opened.num_rows is None:
            return None
        total += source.opened.num_rows
    return total if settings.max_rows is None else min(total, settings.max_rows)


def list_warnings(settings: BuildImagesSettings, sources: Sequence[Source] | None = None) -> list[str]:
    """What a user should know about these lists before fetching them; goes to the log and to the dataset card."""
    sources = open_sources(settings) if sources is None else sources
    lists = {source.opened.file.path: source.opened.types for source in sources}
    warnings = safety_warnings(lists, settings.list_source)
    columns = extra_types(sources)
    limits = metadata_limits(settings.filter)
    bound = [limit for limit, _ in bind_limits(limits, columns)]
    for limit in limits:
        if limit not in bound:
            flag = "--filter." + limit.setting.replace("_", "-")
            warnings.append(f"{flag} is set, but the list has no column {limit.metadata}: it turns nothing down.")
    return warnings
