"""`python -m lposekit.report DIR`: the report of a dataset, as a build writes it at its end."""

from __future__ import annotations

import sys
from pathlib import Path

from lposekit.errors import LposekitError
from lposekit.report.html import write_report
from lposekit.terminal import printable

if __name__ == "__main__":
    try:
        write_report(Path(sys.argv[1]), public=False)
    except LposekitError as error:
        sys.exit(printable(f"lposekit: {error}"))
