"""Parquet tables of a dataset folder, read through its store and up to a size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout
from lposekit.store import Store
from lposekit.store_reads import stream_of

MAX_TABLE_BYTES = 2**31
"""Of one shard's rows in memory: a small file may unfold to any size."""
_ROWS_AT_ONCE = 1024


def read_table(
    store: Store, name: str, *, columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """A parquet file as a table.

    Args:
        columns: default, all.
        where: only rows for which this holds.

    Raises:
        OSError: there is none, or it is refused. ValueError: it is damaged, unfolds to more than `MAX_TABLE_BYTES`, or
            lacks a column.
    """
    try:
        return _read(store, name, columns, where)
    except pa.ArrowException as error:  # not all of them are ValueErrors
        raise ValueError(str(error)) from error


def shard_table(
    layout: DatasetLayout, path: Path, *, columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """A table of a shard, as `read_table`.

    Raises:
        LposekitError: it is missing, refused or damaged.
    """
    try:
        return read_table(layout.store, layout.relative(path), columns=columns, where=where)
    except (OSError, ValueError) as error:
        raise LposekitError(
            f"{path}: cannot be read ({error}). Run `lposekit verify {layout.root}` to see all damage."
        ) from error


def _read(store: Store, name: str, columns: Sequence[str] | None, where: pc.Expression | None) -> pa.Table:
    with stream_of(store, name) as stream, pq.ParquetFile(stream) as file:
        missing = [column for column in columns or () if column not in file.schema_arrow.names]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        taken, schema = list[pa.RecordBatch](), file.schema_arrow
        unfolded = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            unfolded += batch.nbytes
            if unfolded > MAX_TABLE_BYTES:
                raise ValueError(f"it unfolds to more than {MAX_TABLE_BYTES} bytes")
            taken.append(batch)
        if columns is not None:
            schema = pa.schema([schema.field(column) for column in columns])
        table = pa.Table.from_batches(taken, schema=taken[0].schema if taken else schema)
    return table if where is None else table.filter(where)
