"""Where files are pushed to: a folder, an object store, or a repository on the Hugging Face hub.

What is pushed replaces what an earlier push put there, and removes what that one had and this one has not: what was
taken out of a dataset must not stay. So a place belongs to the pushes of one kind (`_dataset/pushed.json` says so); a
place that holds the same names by other hands is refused before anything is written (`claim`).
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lposekit.errors import LposekitError, UsageError
from lposekit.remote.places import is_remote
from lposekit.remote.retries import with_retries
from lposekit.remote.store import file_system
from lposekit.shards.files import disk_error, refuse_links, replacing
from lposekit.store import LocalStore
from lposekit.store_reads import read_whole, walk

HUB = "hub:"
_GOES_WITH_COMMIT_BYTES = 10 * 2**20
"""The hub takes larger files apart from their commit, whatever they are."""
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)
_LOG_IN = "Log in with `hf auth login` (or HF_TOKEN) as somebody who may write there, then run the same command again."
_MAX_READ_BYTES = 2**24
T = TypeVar("T")


class Destination(Protocol):
    """A place for files. All raise LposekitError for what cannot be read or written."""

    def names(self) -> set[str]:
        """What lies there."""
        ...

    def read(self, name: str) -> bytes:
        """A small file that lies there."""
        ...

    def put(self, name: str, path: Path) -> None:
        """Take a file. Its bytes are there, or bound to come, when this returns: the local file may go."""
        ...

    def withdraw(self, name: str) -> None:
        """Take away a file that would be wrong beside those that are put next; nothing to do where all of a push
        becomes visible at once."""
        ...

    def finish(self, stale: Collection[str]) -> None:
        """Make what was put visible, and remove `stale`."""
        ...


def destination(to: str, *, of_run: bool, private: bool) -> Destination:
    """The place that `--to` names.

    Raises:
        UsageError: it names none, or what reaches it is not installed.
    """
    if to.startswith(HUB):
        return HubRepository(to.removeprefix(HUB), "model" if of_run else "dataset", private)
    if is_remote(to):
        return ObjectStore(to.rstrip("/"))
    if "://" in to:
        raise UsageError(f"--to {to}: give hub:USER/NAME, s3://bucket/prefix or a folder.")
    return LocalFolder(Path(to))


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        if root.is_dir():
            refuse_links(root)
        self._root = root

    def names(self) -> set[str]:
        if not self._root.is_dir():
            return set()
        return {name for name, kind in walk(LocalStore(self._root)) if kind == "file"}

    def read(self, name: str) -> bytes:
        return read_whole(LocalStore(self._root), name, _MAX_READ_BYTES)

    def put(self, name: str, path: Path) -> None:
        target = self._root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                shutil.copyfile(path, partial)
        except OSError as error:
            raise disk_error(error, target) from error

    def withdraw(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def finish(self, stale: Collection[str]) -> None:
        for name in sorted(stale):
            self.withdraw(name)


class ObjectStore:
    """A prefix of a bucket, written through fsspec. Each object replaces the one before it as a whole."""

    def __init__(self, url: str) -> None:
        self._url = url
        protocol, _, self._prefix = url.partition("://")
        self._system = file_system(protocol, url)

    def names(self) -> set[str]:
        found = self._do(lambda: self._system.find(self._prefix, refresh=True), f"list {self._url}")
        return {path.removeprefix(f"{self._prefix}/") for path in found}

    def read(self, name: str) -> bytes:
        return self._do(lambda: self._system.cat_file(f"{self._prefix}/{name}"), f"read {self._url}/{name}")

    def put(self, name: str, path: Path) -> None:
        self._do(lambda: self._system.put_file(str(path), f"{self._prefix}/{name}"), f"write {self._url}/{name}")

    def withdraw(self, name: str) -> None:
        self._do(lambda: self._system.rm_file(f"{self._prefix}/{name}"), f"remove {self._url}/{name}")

    def finish(self, stale: Collection[str]) -> None:
        for name in sorted(stale):
            self.withdraw(name)

    def _do(self, call: Callable[[], T], what: str) -> T:
        try:
            return with_retries(call, what)
        except OSError as error:
            raise LposekitError(f"{error}. Run the same command again.") from error


class HubRepository:
    """A repository on the hub, through its own client. Large files go up one by one and stay unseen; one commit at the
    end shows all, so nobody reads half a push. A push that was cut short finds what it had sent."""

    def __init__(self, name: str, kind: str, private: bool) -> None:
        if not _REPOSITORY.fullmatch(name):
            raise UsageError(f"--to {HUB}{name}: give hub:USER/NAME.")
        try:
            self._client: Any = importlib.import_module("huggingface_hub")
        except ImportError as error:
            raise UsageError(
                f"--to {HUB}{name}: the hub's client is not installed. pip install huggingface_hub"
            ) from error
        self._name, self._kind = name, kind
        self._errors = _client_errors()
        self._api = self._client.HfApi()
        self._added: list[Any] = []
        self._call(lambda: self._api.create_repo(name, repo_type=kind, private=private, exist_ok=True), "open")
        if private and not self._call(lambda: self._api.repo_info(name, repo_type=kind), "look at").private:
            raise UsageError(
                f"--private: hub:{name} is there and is public. Make it private on the hub, or drop the flag."
            )

    def names(self) -> set[str]:
        return set(self._call(lambda: self._api.list_repo_files(self._name, repo_type=self._kind), "list"))

    def read(self, name: str) -> bytes:
        path = self._call(lambda: self._api.hf_hub_download(self._name, name, repo_type=self._kind), f"read {name} of")
        return Path(path).read_bytes()

    def put(self, name: str, path: Path) -> None:
        # what is small goes with the commit, when the file is gone
        data = path.read_bytes() if path.stat().st_size <= _GOES_WITH_COMMIT_BYTES else str(path)
        add = self._client.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
        self._call(
            lambda: self._api.preupload_lfs_files(self._name, additions=[add], repo_type=self._kind), f"write {name} to"
        )
        self._added.append(add)

    def withdraw(self, name: str) -> None:
        """Nobody sees a part of a push."""

    def finish(self, stale: Collection[str]) -> None:
        removed = [self._client.CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
        self._call(
            lambda: self._api.create_commit(
                self._name, [*self._added, *removed], commit_message="lposekit push", repo_type=self._kind
            ),
            "commit to",
        )

    def _call(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except self._errors as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            status = getattr(getattr(error, "response", None), "status_code", None)
            advice = _LOG_IN if status in (401, 403) else "Run the same command again."
            told = lines[0] if lines else type(error).__name__
            raise LposekitError(f"cannot {what} hub:{self._name}: {told}. {advice}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises: its own kinds, those of what it talks through, those of the transfer of large files
    (RuntimeError), and those of an answer that is none (ValueError, KeyError). They have no common kind."""
    named = list(vars(importlib.import_module("huggingface_hub.errors")).values())
    with contextlib.suppress(ImportError):  # clients before 1.0 talk through requests, whose errors are OSErrors
        named += vars(importlib.import_module("httpx")).values()
    kinds = {kind for kind in named if isinstance(kind, type) and issubclass(kind, Exception)}
    return (OSError, ValueError, RuntimeError, KeyError, *kinds)
