"""The lists of a run with their columns sorted out, as tables of one schema whatever file a row came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from pipelines.image.settings import BuildImagesSettings
from pipelines.lists.columns import caption_column, url_column
from pipelines.lists.files import OpenedList, find_lists, open_list, read_pieces
from pipelines.lists.text import text_or_none
from pipelines.lists.values import column_values, decoded, is_text

URL, CAPTION = "url", "caption"


@dataclass(frozen=True, slots=True)
class Source:
    """One list. `extra` maps the names that its other columns get to the names they have."""

    opened: OpenedList
    url: str
    caption: str | None
    extra: dict[str, str]


def open_sources(settings: BuildImagesSettings) -> list[Source]:
    """The lists that the input names.

    Raises:
        UsageError: a missing file, an unsupported kind of file, or no URL or caption column.
        LposekitError: a damaged or empty file.
    """
    sources = []
    for file in find_lists(settings.input):
        opened = open_list(file)
        types = opened.types
        url = url_column(file.path, types, settings.url_column)
        # A txt holds addresses only: its captions are empty, and that is no mistake.
        caption = None if file.kind == "txt" else caption_column(file.path, types, settings.caption_column)
        others = [name for name in types if name not in (url, caption)]
        sources.append(Source(opened, url, caption, {_free_name(name): name for name in others}))
    return sources


def _free_name(name: str) -> str:
    """`caption` and `url` mean the ones that were chosen; another column of that name keeps its values beside them."""
    return f"list_{name}" if name in (URL, CAPTION) else name


def extra_types(sources: Sequence[Source]) -> dict[str, pa.DataType]:
    """Types of the pass-through columns of all lists together; a column with two types becomes text."""
    types: dict[str, pa.DataType] = {}
    for source in sources:
        for name, original in source.extra.items():
            kind = _plain_type(source.opened.types[original])
            types[name] = kind if types.setdefault(name, kind) == kind else pa.string()
    return types


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pt.is_dictionary(kind):
        return _plain_type(kind.value_type)
    return pa.string() if is_text(kind) else kind


def source_tables(
    source: Source, types: dict[str, pa.DataType], wanted: Callable[[int, int], bool], max_cell_chars: int
) -> Iterator[tuple[int, pa.Table | None]]:
    """Runs of rows: how many, and their table with the columns url, caption and `types`; None where `wanted` (see
    `read_pieces`) said no. Longer texts are cut to `max_cell_chars`."""
    columns = [name for name in (source.url, source.caption, *source.extra.values()) if name is not None]
    schema = {URL: pa.string(), CAPTION: pa.string(), **types}
    names = {URL: source.url, CAPTION: source.caption, **source.extra}
    for piece in read_pieces(source.opened, columns, wanted, max_cell_chars):
        if piece.batch is None:
            yield piece.num_rows, None
        else:
            arrays = [_column(piece.batch, names.get(name), kind) for name, kind in schema.items()]
            yield piece.num_rows, pa.Table.from_arrays(arrays, names=list(schema))


def _column(batch: pa.RecordBatch, name: str | None, kind: pa.DataType) -> pa.Array:
    if name is None or name not in batch.schema.names:
        return pa.nulls(batch.num_rows, kind)
    column = batch.column(name)
    if column.type == kind:
        return column
    if is_text(column.type):
        return column.cast(kind)
    return pa.array([text_or_none(decoded(value)) for value in column_values(column)], kind)
