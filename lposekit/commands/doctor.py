"""`lposekit doctor`: check this machine; one line per check, with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lposekit.commands.flags import load
from lposekit.commands.output import write_result
from lposekit.commands.registry import COMMANDS


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings:
    """Settings of `lposekit doctor`."""

    weights_dir: Path | None = None
    """First folder to search for weights."""
    output: Path | None = None
    """Folder whose disk is checked; default: the working directory."""


def run(argv: Sequence[str]) -> int:
    settings_and_flags = load(COMMANDS["doctor"], DoctorSettings, argv)
    settings = settings_and_flags.settings
    from lposekit.doctor import examine

    checks = examine(settings.output or Path.cwd(), settings.weights_dir)
    write_result(
        [{"name": check.name, "state": check.state, "found": check.found, "fix": check.fix} for check in checks],
        [check.line() for check in checks],
        as_json=settings_and_flags.json,
    )
    return 1 if any(check.state == "bad" for check in checks) else 0
