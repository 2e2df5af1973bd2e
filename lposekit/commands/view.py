"""`lposekit view DIR`: an HTML report of a dataset or of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lposekit.commands.flags import load
from lposekit.commands.output import write_result
from lposekit.commands.registry import COMMANDS
from lposekit.errors import UsageError
from lposekit.store import LocalStore, RefusedFile
from lposekit.store_reads import kind_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSettings:
    """Settings of `lposekit view`."""

    data: Path | None = None
    """The dataset folder or run folder; the flag may be omitted."""
    public: bool = False
    """Write `public.html` beside the report: a page to share, with skeletons and numbers, but without photos, frames or
    captions."""


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["view"], ViewSettings, argv)
    folder = loaded.settings.data
    assert folder is not None
    path = _write(folder, public=loaded.settings.public)
    write_result({"report": str(path)}, [f"report: {path}"], as_json=loaded.json)
    return 0


def _write(folder: Path, *, public: bool) -> Path:
    if _holds(folder, "_dataset/dataset.json"):
        from lposekit.report.html import write_report

        return write_report(folder, public=public)
    if _holds(folder, "metrics.jsonl"):
        from trainer.run.view import write_report as write_run_report

        return write_run_report(folder, public=public)
    raise UsageError(
        f"{folder} is neither a dataset folder (no _dataset/dataset.json) nor a run folder (no metrics.jsonl). "
        "Name the folder that was given as --output."
    )


def _holds(folder: Path, name: str) -> bool:
    """Whether something of that name is there. What it is, the reader says."""
    try:
        return kind_of(LocalStore(folder), name) is not None
    except RefusedFile:
        return True
    except NotADirectoryError:
        return False
