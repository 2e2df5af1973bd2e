"""`lposekit remove DIR --list FILE`: take images and clips out of a dataset, for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lposekit.commands.flags import load
from lposekit.commands.output import write_result
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError

AFTER_EARLIER = "counted with what was removed before"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveSettings:
    """Settings of `lposekit remove`."""

    data: Path | None = None
    """The dataset folder; the flag may be omitted."""
    list: Path | None = None
    """What to remove, one per line: URLs, domains, sha256 of files, keys of rows or clips."""
    poses: tuple[Path, ...] = ()
    """Folders of poses of this dataset's clips (`lposekit pose`); those next to the dataset are found."""
    runs: tuple[Path, ...] = ()
    """Run folders, or folders of them: those that were trained on the dataset are named."""


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["remove"], RemoveSettings, argv)
    settings = loaded.settings
    assert settings.data is not None
    if settings.list is None:
        raise UsageError("remove: no list is named. Give --list FILE: URLs, domains, sha256 and keys, one per line.")
    from lposekit.shards.card import read_card
    from lposekit.shards.layout import DatasetLayout
    from pipelines.fetch.removals import read_entries
    from pipelines.remove import former_digests, remove
    from trainer.run.trained_on import dataset_digest, find_runs, runs_of

    entries = read_entries(settings.list)
    card = read_card(DatasetLayout(settings.data))  # a wrong folder is named before any other one
    runs = find_runs(settings.runs)
    digest = dataset_digest(settings.data)
    report = remove(settings.data, entries, poses=settings.poses, dry_run=loaded.dry_run, digest=digest)
    gone = {*report.samples, *report.before}
    digests = [*former_digests(card), *([digest] if digest else [])]
    trained = runs_of(runs, settings.data, digests, gone) if report.rows or report.earlier or gone else []
    lines = [*report.summary_lines(), *(each.line() for each in trained)]
    if not trained and gone:
        none = "none of the runs that were named" if runs else "no run was named (--runs)"
        lines.append(f"trained on it: {none}")
    if runs and report.before:
        lines.append(AFTER_EARLIER)
    value = {**report.as_json(), "runs": [{"run": str(each.run), "samples": each.samples} for each in trained]}
    write_result(value, lines, as_json=loaded.json)
    return report.exit_code
