"""`lposekit push`: a dataset or the weights of a run, to a folder, an object store or the hub; nothing private goes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from lposekit.errors import UsageError
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.words import counted
from pipelines.fetch.policy import Blocklist
from pipelines.fetch.removals import read_removals
from pipelines.publish.destinations import Destination, destination
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
    layout = DatasetLayout(settings.source)
    rules = PublicRows(
        Blocklist.from_files(settings.blocklist),
        read_removals(layout),
        not settings.with_images,
        settings.allow_private_addresses,
    )
    what = "the dataset with its images" if settings.with_images else "an index without images"
    with tempfile.TemporaryDirectory(prefix="lposekit-push-") as folder:
        make = dataset_files if settings.with_images else index_files
        with closing(make(dataset, rules, Path(folder))) as files:
            names, num_bytes = _send(files, settings, of_run=False, dry_run=dry_run)
    return PushReport(str(settings.to), what, names, num_bytes, rules.left_out, dry_run)


def push_folder(folder: Path, settings: PushSettings, *, dry_run: bool = False) -> PushReport:
    """Push the files of a folder that holds an exported run.

    Raises:
        UsageError, LposekitError: as `push_dataset`.
    """
    files = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    names, num_bytes = _send(files, settings, of_run=True, dry_run=dry_run)
    return PushReport(str(settings.to), "the weights of the run", names, num_bytes, dry_run=dry_run)


def _send(files: Iterable[File], settings: PushSettings, *, of_run: bool, dry_run: bool) -> tuple[tuple[str, ...], int]:
    """Names and bytes of all files, which are sent unless this is a dry run."""
    place: Destination | None = None
    if settings.to is None:
        raise UsageError(
            "push: nowhere is named to push to. Give --to hub:USER/NAME, --to s3://bucket/prefix or a folder."
        )
    if not dry_run:
        place = destination(settings.to, of_run=of_run, private=settings.private)
    names, num_bytes = list[str](), 0
    for name, path in files:
        names.append(name)
        num_bytes += path.stat().st_size
        if place is not None:
            logger.info("push: %s", name)
            place.put(name, path)
    if place is not None:
        place.finish(set(names))
    return tuple(names), num_bytes
