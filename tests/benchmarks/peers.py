"""Where `make bench` puts the packages that only benchmarks need (`peers.txt`)."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(sys.prefix) / "bench-peers"


def add_peers() -> None:
    """Let them be imported, after the environment's own packages, which must not be shadowed."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
