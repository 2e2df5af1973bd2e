"""Arrow columns of lists as Python values."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts."""
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)


def column_values(column: pa.ChunkedArray) -> list[object]:
    """The values as Python objects. Parquet does not promise that its texts are UTF-8: what is not becomes U+FFFD."""
    if is_text(column.type):
        return [decoded(value) for value in column.cast(pa.binary()).to_pylist()]
    return column.to_pylist()


def decoded(value: object) -> object:
    """Bytes as text, what is not UTF-8 as U+FFFD; anything else as it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
