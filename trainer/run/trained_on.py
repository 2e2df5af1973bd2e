"""Which runs were trained on a dataset, and on which of its samples, as far as their folders tell. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import LposekitError, UsageError
from lposekit.store import LocalStore
from lposekit.store_reads import kind_of, stream_of
from trainer.data.catalog import open_dataset_folder
from trainer.run.run_card import KEYS_NAME, RUN_NAME, RunCard, read_run_card

MAX_DEPTH = 3
MAX_LINE_BYTES = 2**24
CLIP_DIGITS = 4
"""By which a clip's key is longer than that of its video."""


@dataclass(frozen=True, slots=True)
class RunOfDataset:
    """A run that read a dataset. `samples`: how many of the samples asked for were in its batches; None: it kept
    no list of them, or which are asked for is not known."""

    run: Path
    samples: int | None
    recorded: bool = True

    def line(self) -> str:
        if self.samples is None and self.recorded:
            return f"run {self.run}: trained on this dataset; whether these samples were in its batches is not known"
        if self.samples is None:
            return f"run {self.run}: trained on this dataset; which samples it saw is not recorded (--watch.keys)"
        return f"run {self.run}: trained on this dataset; {self.samples} of these samples were in its batches"


def dataset_digest(dataset: Path) -> str | None:
    """What runs record of a dataset's bytes; None if it is none that a run can read."""
    try:
        return open_dataset_folder(dataset).digest()
    except LposekitError:
        return None


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among and below these.

    Raises:
        UsageError: there is none in one of them.
    """
    found: list[Path] = []
    for folder in folders:
        runs = list(_runs_below(folder, MAX_DEPTH))
        if not runs:
            raise UsageError(f"--runs {folder}: no run folder there (no {RUN_NAME}). Name one, or a folder of them.")
        found += [run for run in runs if run not in found]
    return found


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    store = LocalStore(folder)
    try:
        if kind_of(store, RUN_NAME) is not None:
            yield folder
            return
        below = [name for name, kind in store.list().items() if kind == "folder"]
    except OSError:
        return
    for name in below if depth else ():
        yield from _runs_below(folder / name, depth - 1)


def runs_of(
    runs: Sequence[Path], dataset: Path, digests: Collection[str], samples: Collection[str]
) -> list[RunOfDataset]:
    """Those of these runs that were trained on a dataset: it is named in their card, or its bytes are.

    Args:
        digests: of the dataset, as it is and as it was.
        samples: keys of samples; the key of a video stands for all of its clips.

    Raises:
        LposekitError: a run's card is damaged.
    """
    found = []
    for run in runs:
        card = read_run_card(run)
        if _positions(card, dataset, digests):
            count = _count(run, _names(card, dataset, digests, samples))
            found.append(RunOfDataset(run, count if samples else None, count is not None))
    return found


def _positions(card: RunCard, dataset: Path, digests: Collection[str]) -> list[int]:
    """Which of the run's datasets it is, counted as the run counts them; empty: none."""
    listed = [card.fixed.get(name) for name in ("data", "images")]  # in this order, the run numbers them
    read = [digest for each in listed if isinstance(each, list) for digest in each]
    by_bytes = [i for i, digest in enumerate(read) if digest in digests]
    by_name = [i for i, name in enumerate(card.data) if Path(name).resolve() == dataset.resolve()]
    return sorted({*by_bytes, *by_name})


def _names(card: RunCard, dataset: Path, digests: Collection[str], samples: Collection[str]) -> frozenset[str]:
    """The samples under the names that the run gives them (`SampleReader.key`)."""
    if len(card.data) <= 1:
        return frozenset(samples)
    return frozenset(f"{i}:{key}" for i in _positions(card, dataset, digests) for key in samples)


def _count(run: Path, samples: frozenset[str]) -> int | None:
    """How many of these samples a run lists among those of its steps; None if it kept no list."""
    store, seen = LocalStore(run), set[str]()
    try:
        with stream_of(store, KEYS_NAME) as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                try:
                    keys = json.loads(line)["keys"]
                    seen.update(key for key in keys if key in samples or key[:-CLIP_DIGITS] in samples)
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the last line of a run that was killed
    except OSError:
        return None
    return len(seen)
