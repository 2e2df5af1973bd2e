"""The HTML report of a dataset that a job has written."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from lposekit.shards.layout import DatasetLayout

logger = logging.getLogger(__name__)


def write_report(layout: DatasetLayout) -> Path | None:
    """Write the report in a process of its own, so that reading all rows costs the driver no memory.

    A report that cannot be written costs nothing but a warning; `lposekit view` tries again.
    """
    if not layout.committed_shards():
        return None
    command = [sys.executable, "-m", "lposekit.report", str(layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else f"exit code {done.returncode}"
        logger.warning("the report was not written (%s). `lposekit view %s` tries again.", why, layout.root)
        return None
    return layout.report
