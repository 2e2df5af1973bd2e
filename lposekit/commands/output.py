"""The final output of a command: lines of text or one JSON object, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from lposekit.json_values import strict_json
from lposekit.terminal import printable


class Report(Protocol):
    """The result of a finished job."""

    @property
    def exit_code(self) -> int: ...

    def as_json(self) -> Mapping[str, object]: ...

    def summary_lines(self) -> list[str]: ...


def finish(report: Report, *, as_json: bool) -> int:
    """Write the report; returns its exit code."""
    write_result(report.as_json(), report.summary_lines(), as_json=as_json)
    return report.exit_code


def write_result(value: Mapping[str, object] | Sequence[object], lines: Sequence[str], *, as_json: bool) -> None:
    text = strict_json(value, indent=1, default=str) if as_json else printable("\n".join(lines))
    if text:
        # Names of files and captions may hold what a C locale cannot write: better escaped than lost.
        stream = sys.stdout
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
