"""Where a dataset lies: a local folder, or an address such as `s3://bucket/prefix`."""

from __future__ import annotations

import re
from pathlib import Path

from lposekit.store import LocalStore, Store

# one slash: what `Path` makes of an address
_ADDRESS = re.compile(r"(s3|gs|gcs|az|abfs|abfss|hf|memory):/{1,2}(?=[^/])")


class UrlPath(type(Path())):
    """The path of an address: joined and taken apart like one, shown as the address that it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return _ADDRESS.sub(r"\1://", super().__str__(), count=1)


def is_remote(root: str | Path) -> bool:
    """Whether this names something in an object store."""
    return _ADDRESS.match(str(root)) is not None


def place_of(root: str | Path) -> Path:
    """The root as a path, which knows whether it is an address."""
    return UrlPath(str(root)) if is_remote(root) else Path(root)


def store_of(root: Path) -> Store:
    """What is read through to get at a root's files."""
    if not is_remote(root):
        return LocalStore(root)
    from lposekit.remote.store import RemoteStore

    return RemoteStore(str(place_of(root)))
