"""`lposekit weights`: which models have their weights here; fetches those that are missing before any build."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lposekit.commands.flags import load
from lposekit.commands.output import write_result
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from lposekit.pose.at_hand import ModelState, model_state, model_states
from lposekit.pose.download import Progress, download
from lposekit.pose.weights import WeightsError, cache_folder
from lposekit.pose.zoo import DETECTORS, POSE_MODELS, DetectorEntry, PoseEntry
from lposekit.setting_values import nearest

logger = logging.getLogger(__name__)

ALL_NEEDED = "all-needed"
LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSettings:
    """Settings of `lposekit weights`."""

    fetch: tuple[str, ...] = ()
    """Models to download into the user's cache, or `all-needed`: those that builds here are set to use."""
    weights_dir: Path | None = None
    """First folder to search for weights; then LPOSEKIT_WEIGHTS, and the user's cache."""


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["weights"], WeightsSettings, argv)
    folder, needed = loaded.settings.weights_dir, needed_models()
    failed = [why for entry in _to_fetch(loaded.settings.fetch, needed) if (why := _fetch(entry, folder)) is not None]
    states = list(model_states(folder))
    values = [
        {
            "model": state.entry.name,
            "kind": state.kind,
            "state": state.state,
            "needed": state.entry.name in needed,
            "path": None if state.path is None else str(state.path),
            "checked_by": state.checked_by,
            "url": state.entry.weights.url,
            "problem": state.problem,
        }
        for state in states
    ]
    write_result(values, [*_lines(states, needed), *failed], as_json=loaded.json)
    lacking = [
        each for each in states if each.state == "damaged" or (each.state != "here" and each.entry.name in needed)
    ]
    return 1 if lacking or failed else 0


def needed_models() -> list[str]:
    """The models that `build-laion-pose` and `pose` are set to use in this folder."""
    names: list[str] = []
    told = logging.getLogger("lposekit.commands.flags")
    before = told.level
    told.setLevel(logging.WARNING)  # where the settings of other commands come from is of no interest here
    try:
        for name in ("build-laion-pose", "pose"):
            command = COMMANDS[name]
            settings: Any = load(command, command.load_settings_class(), ["--input", "-", "--output", "-"]).settings
            names += [settings.detector, settings.pose_model]
    finally:
        told.setLevel(before)
    return [name for name in dict.fromkeys(names) if name in DETECTORS or name in POSE_MODELS]


def _to_fetch(named: Sequence[str], needed: Sequence[str]) -> list[DetectorEntry | PoseEntry]:
    names = dict.fromkeys(each for name in named for each in (needed if name == ALL_NEEDED else [name]))
    known = {**DETECTORS, **POSE_MODELS}
    for name in names:
        if name not in known:
            raise UsageError(f"--fetch {name}: no model is called that{nearest(name, [*known, ALL_NEEDED])}")
    return [known[name] for name in names]


def _fetch(entry: DetectorEntry | PoseEntry, folder: Path | None) -> str | None:
    """Fetch a model's weights unless they are here; returns why they could not be had."""
    state = model_state(entry, folder)
    if state.state == "here":
        return None
    cached = cache_folder() / entry.weights.file
    if state.state == "damaged" and state.path == cached:
        cached.unlink()  # ours, and of no use
    elif state.state == "damaged":
        return f"{entry.name}: not fetched, since the file that is found first is damaged. {state.problem}"
    try:
        with _shown(entry.name) as progress:
            download(entry.weights, folder, progress)
    except WeightsError as error:
        return f"{entry.name}: {error}"
    return None


@contextmanager
def _shown(name: str) -> Iterator[Progress]:
    """A bar on a terminal, a line now and then elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, whole: bar.update(task, completed=done, total=whole)
        return
    last = time.monotonic()

    def say(done: int, whole: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S or done == whole:
            last = time.monotonic()
            logger.info("%s: %.1f of %s MB", name, done / 1e6, "?" if whole is None else f"{whole / 1e6:.1f}")

    yield say


def _lines(states: Sequence[ModelState], needed: Sequence[str]) -> list[str]:
    width = max(len(state.entry.name) for state in states)
    lines = [
        f"{'*' if state.entry.name in needed else ' '} {state.entry.name:{width}}  {_words(state)}" for state in states
    ]
    lines.append("* what build-laion-pose and pose are set to use here")
    fetchable = [
        s.entry.name for s in states if s.state == "missing" and s.entry.name in needed and s.entry.weights.url
    ]
    if fetchable:
        lines.append("fetch what is needed: lposekit weights --fetch all-needed")
    return lines


def _words(state: ModelState) -> str:
    if state.state == "here":
        return f"here     {state.path} (checked by {state.checked_by})"
    if state.state == "damaged":
        return f"damaged  {state.problem}"
    url = state.entry.weights.url
    return f"missing  {url}" if url else f"missing  nobody serves {state.entry.weights.file} for download"
