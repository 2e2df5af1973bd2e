"""Where files are pushed to: a folder, an object store, or a repository on the Hugging Face hub.

Each takes one file after the other, and is told at the end which of them are all that there is: files of ours from an
earlier push that are not among them go, since what was taken out of a dataset must not stay there.
"""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lposekit.errors import LposekitError, UsageError
from lposekit.remote.places import is_remote
from lposekit.remote.retries import with_retries
from lposekit.shards.files import disk_error, refuse_links, replacing
from lposekit.store import LocalStore
from lposekit.store_reads import walk

HUB = "hub:"
_GOES_WITH_COMMIT_BYTES = 10 * 2**20
"""The hub takes larger files apart from their commit, whatever they are."""
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)
_OURS = re.compile(r"(\d{5,18}(\.tar|\.parquet|_stats\.json)|_dataset/.*|README\.md|index\.html)", re.ASCII)
"""Names that a push of a dataset writes. What else lies there is left alone."""
T = TypeVar("T")


class Destination(Protocol):
    """A place for the files of one push."""

    def put(self, name: str, path: Path) -> None:
        """Take a file. Its bytes are there, or bound to come, when this returns: the local file may go.

        Raises:
            LposekitError: it cannot be written.
        """
        ...

    def finish(self, names: Collection[str]) -> None:
        """Make what was put visible, and remove files of earlier pushes that are not in `names`."""
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

    def put(self, name: str, path: Path) -> None:
        target = self._root / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                shutil.copyfile(path, partial)
        except OSError as error:
            raise disk_error(error, target) from error

    def finish(self, names: Collection[str]) -> None:
        there = [name for name, kind in walk(LocalStore(self._root)) if kind == "file"]
        for name in stale(there, names):
            (self._root / name).unlink()


class ObjectStore:
    """A prefix of a bucket, written through fsspec. Each object replaces the one before it as a whole."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            fsspec = importlib.import_module("fsspec")
            self._system: Any = fsspec.filesystem(url.partition("://")[0], use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"{url}: what writes there is not installed ({error}). pip install 'lposekit[s3]'"
            ) from error
        self._prefix = url.partition("://")[2]

    def put(self, name: str, path: Path) -> None:
        self._do(lambda: self._system.put_file(str(path), f"{self._prefix}/{name}"), f"write {self._url}/{name}")

    def finish(self, names: Collection[str]) -> None:
        found = self._do(lambda: self._system.find(self._prefix, refresh=True), f"list {self._url}")
        there = [path.removeprefix(f"{self._prefix}/") for path in found]
        for name in stale(there, names):
            self._do(lambda name=name: self._system.rm_file(f"{self._prefix}/{name}"), f"remove {self._url}/{name}")

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
        self._api = self._client.HfApi()
        self._added: list[Any] = []
        self._call(lambda: self._api.create_repo(name, repo_type=kind, private=private, exist_ok=True), "open")

    def put(self, name: str, path: Path) -> None:
        # what is small goes with the commit, when the file is gone
        data = path.read_bytes() if path.stat().st_size <= _GOES_WITH_COMMIT_BYTES else str(path)
        add = self._client.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
        self._call(
            lambda: self._api.preupload_lfs_files(self._name, additions=[add], repo_type=self._kind), f"write {name} to"
        )
        self._added.append(add)

    def finish(self, names: Collection[str]) -> None:
        there = self._call(lambda: self._api.list_repo_files(self._name, repo_type=self._kind), "list")
        removed = [self._client.CommitOperationDelete(path_in_repo=name) for name in stale(there, names)]
        self._call(
            lambda: self._api.create_commit(
                self._name, [*self._added, *removed], commit_message="lposekit push", repo_type=self._kind
            ),
            "commit to",
        )

    def _call(self, call: Callable[[], T], what: str) -> T:
        errors = importlib.import_module("huggingface_hub.errors")
        try:
            return call()
        except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise LposekitError(
                f"cannot {what} hub:{self._name}: {lines[0] if lines else type(error).__name__}. Log in with "
                "`hf auth login` (or HF_TOKEN), then run the same command again."
            ) from error


def stale(there: Collection[str], names: Collection[str]) -> list[str]:
    """Files of ours that lie there and were not written now."""
    return sorted(name for name in there if name not in names and _OURS.fullmatch(name))
