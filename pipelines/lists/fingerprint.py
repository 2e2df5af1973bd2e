"""Whether an input is still the one that a folder was built from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import fsspec

from pipelines.lists.files import ListFile

_WHOLE_BYTES = 8 * 2**20
_PART_BYTES = 2**16
_NUM_PARTS = 64


def lists_fingerprint(files: Iterable[ListFile]) -> str:
    """sha256 (hex) over the size and content of the lists, in order, names and times aside: a moved copy is the same
    input. Of a list above 8 MiB, 64 parts spread over it stand for the whole, its head and tail (a parquet footer)
    among them."""
    digest = hashlib.sha256()
    for file in files:
        filesystem, path = fsspec.core.url_to_fs(file.path)
        size = filesystem.size(path)
        digest.update(f"{file.kind} {size}\n".encode())
        if size is None or size <= _WHOLE_BYTES:
            digest.update(filesystem.cat_file(path))
            continue
        starts = [(size - _PART_BYTES) * part // (_NUM_PARTS - 1) for part in range(_NUM_PARTS)]
        ends = [start + _PART_BYTES for start in starts]
        for part in filesystem.cat_ranges([path] * _NUM_PARTS, starts, ends):  # at the same time, where it is remote
            digest.update(part)
    return digest.hexdigest()
