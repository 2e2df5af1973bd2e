"""Arrow columns of lists as Python values."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)


def column_values(column: pa.ChunkedArray | pa.Array) -> list[object]:
    """The values as Python objects. Parquet does not promise that its texts are UTF-8: what is not becomes U+FFFD.
    A value that Python has no form for (the year 60,000) is None."""
    if is_text(column.type):
        return [decoded(value) for value in column.cast(pa.binary()).to_pylist()]
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # one value within: a text in a list that is no UTF-8, a year beyond Python's
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return None


def decoded(value: object) -> object:
    """Bytes as text, what is not UTF-8 as U+FFFD; anything else as it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def plain_and_cut(batch: pa.RecordBatch, max_cell_bytes: int) -> pa.RecordBatch:
    """The batch without dictionary columns, its texts cut: one page of a kilobyte may say a million times a text of a
    megabyte."""
    columns = []
    for column in batch.columns:
        if pt.is_dictionary(column.type):
            column = column.dictionary_decode()
        if is_text(column.type):  # as bytes, since texts of a parquet list need not be UTF-8
            cut = pc.binary_slice(column.cast(pa.binary()), 0, max_cell_bytes)  # type: ignore[attr-defined]
            column = pa.Array.from_buffers(pa.string(), len(cut), cut.buffers(), offset=cut.offset)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
