"""Digests of the weights that judge: they stand in the report, so that two reports can be told comparable."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import nn


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and all values of a module's weights."""
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
