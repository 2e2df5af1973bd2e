"""`lposekit push`: a dataset or the weights of a run, to a folder, an object store or the hub; nothing private goes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lposekit.errors import UsageError
from lposekit.remote.places import is_remote
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.words import counted
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.removals import read_removals
from pipelines.job.lock import driver_lock
from pipelines.publish.claim import PUSHED, Claim, claimed, marker_of, write_claim
from pipelines.publish.destinations import HUB, destination
from pipelines.publish.public_files import File, dataset_files, index_files
from pipelines.publish.public_rows import PublicRows
from pipelines.publish.settings import PushSettings

logger = logging.getLogger(__name__)
SHOWN = 12
"""Names of files that the last lines list."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What was pushed. left_out: rows, by reason. num_bytes: of all files."""

    to: str
    what: str
    files: tuple[str, ...]
    num_bytes: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        return 0

    def as_json(self) -> Mapping[str, object]:
        return {
            "to": self.to,
            "what": self.what,
            "files": list(self.files),
            "bytes": self.num_bytes,
            "left_out": dict(self.left_out),
            "dry_run": self.dry_run,
        }

    def summary_lines(self) -> list[str]:
        verb = "would push" if self.dry_run else "pushed"
        size = f"{self.num_bytes / 2**20:,.1f} MiB"
        lines = [f"{verb} {self.what} to {self.to}: {counted(len(self.files), 'file')}, {size}"]
        lines += [f"  {name}" for name in self.files[:SHOWN]]
        lines += [f"  and {len(self.files) - SHOWN} more"] if len(self.files) > SHOWN else []
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return [*lines, f"rows left out: {left}"] if left else lines


def push_dataset(settings: PushSettings, *, dry_run: bool = False) -> PushReport:
    """Push a dataset: an index of it, or with `with_images` all of what is stored.

    Raises:
        UsageError: no dataset, or no place to push it to.
        LposekitError: it is damaged; the place cannot be written.
    """
    assert settings.source is not None
    dataset = open_dataset(settings.source)
    if dataset.card.kind not in ("image", "video"):
        raise UsageError(
            f"{settings.source}: a dataset of kind {dataset.card.kind!r} cannot be pushed, only images and clips."
        )
    _place_apart(settings)
    layout = DatasetLayout(settings.source)
    rules = PublicRows(
        Blocklist.from_files(settings.blocklist),
        read_removals(layout),
        not settings.with_images,
        settings.allow_private_addresses,
    )
    what = "the dataset with its images" if settings.with_images else "an index without images"
    make = dataset_files if settings.with_images else index_files
    with (
        tempfile.TemporaryDirectory(prefix="lposekit-push-") as folder,
        _held(layout),
        closing(make(dataset, rules, Path(folder), with_page=not dry_run)) as files,
    ):
        names, num_bytes = _send(files, settings, "dataset", dry_run=dry_run)
    return PushReport(str(settings.to), what, names, num_bytes, rules.left_out, dry_run)


@contextlib.contextmanager
def _held(layout: DatasetLayout) -> Iterator[None]:
    """Keep builds and removals out of a folder while it is read, where this process may write into it.

    Raises:
        UsageError: one of them is at work.
    """
    if is_remote(layout.root) or not os.access(layout.meta, os.W_OK):
        yield
        return
    with driver_lock(layout, secrets.token_hex(4)):
        yield


def push_folder(folder: Path, settings: PushSettings, *, dry_run: bool = False) -> PushReport:
    """Push the files of a folder that holds an exported run.

    Raises:
        UsageError, LposekitError: as `push_dataset`.
    """
    files = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    names, num_bytes = _send(files, settings, "run", dry_run=dry_run)
    return PushReport(str(settings.to), "the weights of the run", names, num_bytes, dry_run=dry_run)


def _send(files: Iterable[File], settings: PushSettings, what: str, *, dry_run: bool) -> tuple[tuple[str, ...], int]:
    """Names and bytes of all files, which are sent unless this is a dry run."""
    to = _place_apart(settings)
    if dry_run:
        sizes = [(name, path.stat().st_size) for name, path in files]
        return tuple(name for name, _ in sizes), sum(size for _, size in sizes)
    place = destination(to, of_run=what == "run", private=settings.private)
    claim = claimed(place, what, to)
    names, num_bytes = list[str](), 0
    for name, path in itertools.chain(_claim_file(claim, what), files):
        if name in claim.others:
            logger.info("push: %s stays as it is there, since no push wrote it", name)
            continue
        if (marker := marker_of(name)) in claim.there - set(names):
            place.withdraw(str(marker))  # a shard is not whole while its files are replaced
        logger.info("push: %s", name)
        place.put(name, path)
        names.append(name)
        num_bytes += path.stat().st_size
    place.finish(claim.stale(names) if what == "dataset" else ())
    return tuple(names), num_bytes


def _place_apart(settings: PushSettings) -> str:
    """The place that is named.

    Raises:
        UsageError: there is none, or it is the source itself.
    """
    if settings.to is None:
        raise UsageError("push: no place is named. Give --to hub:USER/NAME, --to s3://bucket/prefix or a folder.")
    assert settings.source is not None
    is_local = "://" not in settings.to and not settings.to.startswith(HUB)
    if is_local and Path(settings.to).resolve().is_relative_to(settings.source.resolve()):
        raise UsageError(
            f"--to {settings.to}: lies in {settings.source}, which holds its own files only. Name another."
        )
    if settings.to.rstrip("/") == str(settings.source).rstrip("/"):
        raise UsageError(f"--to {settings.to}: is the source. Name another place.")
    return settings.to


def _claim_file(claim: Claim, what: str) -> Iterator[File]:
    with tempfile.TemporaryDirectory(prefix="lposekit-push-") as folder:
        path = Path(folder) / "pushed.json"
        write_claim(claim, what, path)
        yield PUSHED, path
