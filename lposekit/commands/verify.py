"""`lposekit verify DIR`: check every byte of a dataset against its commit markers; exit code 1 on findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lposekit.commands.flags import load
from lposekit.commands.output import write_result
from lposekit.commands.registry import COMMANDS
from lposekit.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """Settings of `lposekit verify`."""

    data: Path | None = None
    """The dataset folder; the flag may be omitted."""


def run(argv: Sequence[str]) -> int:
    loaded = load(COMMANDS["verify"], VerifySettings, argv)
    folder = loaded.settings.data
    assert folder is not None
    from lposekit.shards.verify import verify_dataset

    findings = verify_dataset(folder)
    rows = [{"where": finding.where, "what": finding.what} for finding in findings]
    verdict = (
        f"{folder}: {counted(len(findings), 'finding')}" if findings else f"{folder}: every file is as it was committed"
    )
    lines = [*map(str, findings), verdict]
    write_result({"dataset": str(folder), "findings": rows}, lines, as_json=loaded.json)
    return 1 if findings else 0
