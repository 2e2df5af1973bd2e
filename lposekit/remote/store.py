"""A folder of an object store, read through fsspec: `s3://bucket/prefix` with s3fs, and whatever else fsspec knows."""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lposekit.errors import UsageError
from lposekit.remote.blocks import user_cache
from lposekit.remote.retries import ShortAnswer, with_retries
from lposekit.store import REFUSALS, Entry, Facts, Kind, RefusedFile, relative_parts

CACHED_SUFFIX = ".tar"
"""What samples are read from, again and again; all else is read once, and small."""
_READ_AT_ONCE = 1 << 24
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
OPENED_S = 30.0
"""How long a tar is taken to be the same when it is opened again: readers of samples open it each time."""
_MOST_OPENED = 1024
_VERSIONS = ("ETag", "etag", "xet_hash", "blob_id", "generation", "md5Hash", "version_id")
_PROCESS = secrets.token_hex(8)
"""In the place of a version where a store states none: what is cached then serves this process alone."""
_systems: dict[tuple[int, str], Any] = {}
_opened: dict[str, tuple[float, RemoteFile]] = {}


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """Files below an address. There are no links in it. Objects are cheap, and hold nothing open."""

    url: str

    def __str__(self) -> str:
        return self.url

    def list(self, folder: str = "") -> Mapping[str, Kind]:
        return dict(sorted((entry.name, entry.kind) for entry in self.scan(folder)))

    def scan(self, folder: str = "") -> Iterator[Entry]:
        path = self._path(folder)
        for info in with_retries(
            lambda: self._system().ls(path, detail=True, refresh=True), f"list {self._url(folder)}"
        ):
            name = info["name"].rstrip("/").removeprefix(path).strip("/")
            if name and "/" not in name:  # a folder may be listed as an empty object of its own name
                yield RemoteEntry(name, _facts(info))

    def stat(self, name: str) -> Facts:
        relative_parts(name)
        path = self._path(name)
        return _facts(with_retries(lambda: self._system().info(path, refresh=True), f"look at {self._url(name)}"))

    def open(self, name: str) -> RemoteFile:
        relative_parts(name)
        path = self._path(name)
        opened = _opened.get(self._url(name))
        if opened is not None and time.monotonic() < opened[0]:
            return opened[1]
        info = with_retries(lambda: self._system().info(path, refresh=True), f"open {self._url(name)}")
        facts = _facts(info)
        if facts.kind != "file":
            raise RefusedFile(errno.ELOOP, REFUSALS[facts.kind], name)
        version = f"{self._url(name)}\n{facts.size}\n{_version(info) or facts.changed_ns or _PROCESS}"
        file = RemoteFile(self, name, facts.size, hashlib.sha256(version.encode()).hexdigest()[:32])
        if name.endswith(CACHED_SUFFIX):
            if len(_opened) >= _MOST_OPENED:
                _opened.clear()
            _opened[self._url(name)] = time.monotonic() + OPENED_S, file
        return file

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` of a file, from the server.

        Raises:
            OSError: it cannot be read, now and after some time.
        """
        path = self._path(name)

        def once() -> bytes:
            data = self._system().cat_file(path, start=start, end=stop)
            if len(data) != stop - start:
                raise ShortAnswer(f"{len(data)} bytes instead of {stop - start}")
            return data

        return with_retries(once, f"read {self._url(name)}")

    def _path(self, name: str) -> str:
        return self._url(name).partition("://")[2]

    def _url(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}" if name else self.url.rstrip("/")

    def _system(self) -> Any:
        """fsspec's file system, one a process: its connections do not outlive a fork."""
        protocol = self.url.partition("://")[0]
        key = os.getpid(), protocol
        if key not in _systems:
            _systems[key] = file_system(protocol, self.url)
        return _systems[key]


def _version(info: Mapping[str, Any]) -> str:
    """What a store says of a file that changes with its bytes, by any of the names in use; empty if nothing."""
    return " ".join(str(info[name]) for name in _VERSIONS if info.get(name))


def file_system(protocol: str, url: str) -> Any:
    """fsspec's file system for a protocol.

    Raises:
        UsageError: its driver is not installed; `url` is what was asked for.
    """
    try:
        return importlib.import_module("fsspec").filesystem(protocol, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        package = {"s3": "lposekit[s3]", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}.get(protocol)
        advice = f"pip install {package or 'the driver that fsspec names'}"
        raise UsageError(f"{url}: the driver of {protocol}:// is not installed ({error}). {advice}") from error


@dataclass(slots=True)
class RemoteEntry:
    """A name in a listing, which tells all at once."""

    name: str
    found: Facts

    @property
    def kind(self) -> Kind:
        return self.found.kind

    def facts(self) -> Facts:
        return self.found


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of an object store. `identity` stands for its address and what it was when it was opened."""

    store: RemoteStore
    name: str
    size: int
    identity: str

    def read(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self.name.endswith(CACHED_SUFFIX):
            return user_cache().read(self.identity, offset, size, self.size, self._fetch)
        starts = range(offset, offset + size, _READ_AT_ONCE)
        return b"".join(self._fetch(start, min(start + _READ_AT_ONCE, offset + size)) for start in starts)

    def close(self) -> None:
        pass

    def _fetch(self, start: int, stop: int) -> bytes:
        return self.store.fetch(self.name, start, stop)


def _facts(info: Mapping[str, Any]) -> Facts:
    """What fsspec says of a name; each driver has words of its own."""
    if info["type"] == "directory":
        return Facts("folder", 0)
    changed = next(
        (info[name] for name in ("LastModified", "last_modified", "updated", "mtime") if info.get(name)), None
    )
    changed_ns = int(changed.timestamp() * 1e9) if isinstance(changed, datetime) else 0
    md5 = _MD5.fullmatch(str(info.get("ETag") or ""))
    return Facts("file", int(info["size"] or 0), changed_ns, bytes.fromhex(md5[1]) if md5 else None)
