"""Lists of URLs on disk: which files they are, which columns they have, and their rows as Arrow batches.

Damage is found before any work starts as far as that is cheap, and later as soon as the reader comes to it; either way
one error names the file.
"""

from __future__ import annotations

import csv
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from lposekit.errors import LposekitError, UsageError
from pipelines.lists.text import MAX_CELL_CHARS, MAX_COLUMNS, text_batch, text_columns, text_rows, text_type
from pipelines.lists.values import plain_and_cut

KINDS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "txt",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TEXT_BATCH_ROWS = 1000
PARQUET_BATCH_ROWS = 64
"""Few: texts that a page holds once may stand in every row, and are written out before they can be cut."""
_DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, UnicodeError)


@dataclass(frozen=True, slots=True)
class ListFile:
    """One list. `path` is local or an fsspec URL, `kind` one of the values of `KINDS`."""

    path: str
    kind: str

    @property
    def compressed(self) -> bool:
        return self.kind != "parquet" and self.path.endswith(COMPRESSED)


@dataclass(frozen=True, slots=True)
class OpenedList:
    """A list and what was read of it, once, before any work: its columns and their types, and of parquet the footer."""

    file: ListFile
    types: dict[str, pa.DataType]
    footer: pq.FileMetaData | None = None

    @property
    def num_rows(self) -> int | None:
        """Rows of a parquet list; None for the others, which would have to be read."""
        return None if self.footer is None else self.footer.num_rows


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of neighbouring rows; `batch` is None where nobody wanted them."""

    num_rows: int
    batch: pa.RecordBatch | None


def find_lists(inputs: Sequence[str]) -> list[ListFile]:
    """The files that the inputs name, in order; a folder or a pattern stands for its lists, sorted by name.

    Raises:
        UsageError: an input does not exist, is of an unsupported kind, or a folder holds no list.
    """
    if not inputs:
        raise UsageError("no input is named. Give --input FILE, a list of URLs and captions.")
    return [file for each in inputs for file in _expand(each)]


def _expand(name: str) -> list[ListFile]:
    try:
        filesystem, path = fsspec.core.url_to_fs(name)
    except (ValueError, ImportError) as error:
        # An unknown protocol, or one whose package is missing: fsspec says which.
        raise UsageError(f"input {name}: {error}") from error
    if filesystem.isfile(path):
        return [ListFile(name, _kind(name))]
    is_folder = filesystem.isdir(path)
    found = filesystem.ls(path, detail=False) if is_folder else filesystem.glob(path)
    lists = sorted(file for file in found if _suffix(file) in KINDS and filesystem.isfile(file))
    if lists:
        return [ListFile(filesystem.unstrip_protocol(file) if "://" in name else file, _kind(file)) for file in lists]
    if is_folder:
        raise UsageError(f"input {name}: the folder holds no list ({', '.join(KINDS)}). Name the files.")
    raise UsageError(f"input {name}: no such file or folder. Check the path.")


def _suffix(name: str) -> str:
    path = PurePosixPath(name)
    return PurePosixPath(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def _kind(name: str) -> str:
    kind = KINDS.get(_suffix(name))
    if kind is None or (kind == "parquet" and name.endswith(COMPRESSED)):
        raise UsageError(f"input {name}: unsupported kind of file. Supported: {', '.join(KINDS)}; text also as .gz.")
    return kind


@contextmanager
def damage_named(file: ListFile) -> Iterator[None]:
    """Turns what a damaged file raises into one error that names the file."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LposekitError(
            f"input {file.path} cannot be read: {reason}. It may be truncated: compare its size with the original's, "
            "or fetch it again."
        ) from error


def open_list(file: ListFile) -> OpenedList:
    """A list with its columns and their types, from its head (of parquet: its footer).

    Raises:
        UsageError: a column comes twice, or there are more than any list has.
        LposekitError: the file is damaged or empty.
    """
    with damage_named(file):
        if file.kind == "parquet":
            with _open_parquet(file) as parquet:
                types = {field.name: field.type for field in parquet.schema_arrow}
                _check_columns(file, [field.name for field in parquet.schema_arrow])
                return OpenedList(file, types, parquet.metadata)
        names = text_columns(file.path, file.kind)
        _check_columns(file, names)
    if not names:
        raise LposekitError(f"input {file.path}: no columns were found, the file is empty. Check how it was written.")
    return OpenedList(file, {name: text_type(name) for name in names})


def _check_columns(file: ListFile, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"input {file.path}: {len(twice)} columns come twice ({twice[0]!r:.80}). Rename one of each.")
    if len(names) > MAX_COLUMNS:
        raise UsageError(
            f"input {file.path}: {len(names)} columns (limit {MAX_COLUMNS}). Leave out what is not needed."
        )


def read_pieces(
    opened: OpenedList,
    columns: Sequence[str],
    wanted: Callable[[int, int], bool],
    max_cell_chars: int = MAX_CELL_CHARS,
) -> Iterator[Piece]:
    """The rows of a list in order, memory bounded by one batch.

    Args:
        columns: those to read; one that the file lacks is left out.
        wanted: asked with (first row, number of rows) of a run; where it says no, nothing is built, and of parquet
            whole row groups are not even read.
        max_cell_chars: longer texts are cut; of parquet those of more bytes.

    Raises:
        LposekitError: the file turned out to be damaged.
    """
    with damage_named(opened.file):
        pieces = _text_pieces if opened.footer is None else _parquet_pieces
        yield from pieces(opened, columns, wanted, max_cell_chars)


def parquet_batches(opened: OpenedList, max_cell_chars: int) -> Iterator[pa.RecordBatch]:
    """All rows of a parquet list.

    Raises:
        LposekitError: the file turned out to be damaged.
    """
    with damage_named(opened.file), _open_parquet(opened.file, opened.footer) as parquet:
        for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, use_threads=False):
            yield plain_and_cut(batch, max_cell_chars)


@contextmanager
def _open_parquet(file: ListFile, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A parquet list, local or not; a footer that is given is not read again."""
    with cast(Any, fsspec.open(file.path, "rb")) as stream:
        # pre_buffer would hold whole row groups of all columns.
        yield pq.ParquetFile(stream, metadata=footer, pre_buffer=False)


def _parquet_pieces(
    opened: OpenedList, columns: Sequence[str], wanted: Callable[[int, int], bool], max_cell_chars: int
) -> Iterator[Piece]:
    with _open_parquet(opened.file, opened.footer) as parquet:
        there = [name for name in columns if name in opened.types]
        first = 0
        for group in range(parquet.num_row_groups):
            num_rows = parquet.metadata.row_group(group).num_rows
            if not wanted(first, num_rows):
                yield Piece(num_rows, None)
            else:
                batches = parquet.iter_batches(PARQUET_BATCH_ROWS, row_groups=[group], columns=there, use_threads=False)
                for batch in batches:
                    yield Piece(batch.num_rows, plain_and_cut(batch, max_cell_chars))
            first += num_rows


def _text_pieces(
    opened: OpenedList, columns: Sequence[str], wanted: Callable[[int, int], bool], max_cell_chars: int
) -> Iterator[Piece]:
    file = opened.file
    there = [name for name in columns if name in opened.types]
    rows, first = text_rows(file.path, file.kind, max_cell_chars), 0
    while chunk := list(itertools.islice(rows, TEXT_BATCH_ROWS)):
        yield Piece(len(chunk), text_batch(chunk, there) if wanted(first, len(chunk)) else None)
        first += len(chunk)
