"""The rows of a shard as a report reads them: each column has the type that it expects."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from lposekit.errors import LposekitError
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.tables import shard_table

COMMON = dict.fromkeys(("key", "url", "caption", "outcome", "error_message"), pa.string())
"""Columns of every kind."""


def report_rows(
    layout: DatasetLayout, shard: int, columns: Mapping[str, pa.DataType], where: pc.Expression | None = None
) -> pa.Table:
    """The table of a shard. A column that it lacks is there, and empty; further ones stay.

    Args:
        columns: of the kind, beside `COMMON`.
        where: only rows for which this holds.

    Raises:
        LposekitError: the table is damaged, or a column has another type or is there twice.
    """
    path = layout.parquet(shard)
    rows = shard_table(layout, path, where=where)
    for name, kind in {**COMMON, **columns}.items():
        found = [i for i, column in enumerate(rows.column_names) if column == name]
        if not found:
            rows = rows.append_column(name, pa.nulls(len(rows), kind))
            continue
        try:
            if len(found) > 1:
                raise ValueError("it is there twice")
            rows = rows.set_column(found[0], name, rows[name].cast(kind))
        except (pa.ArrowException, ValueError) as error:
            raise LposekitError(
                f"{path}: the column {name} cannot be read ({error}). Build the shard again, or verify the dataset."
            ) from error
    return rows
