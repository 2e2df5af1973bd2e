"""Turns a folder of photos into a served folder of opaque names, repeated up to a number of rows, and its URL list."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def serve_folder(folder: Path, served: Path, rows: int) -> Path:
    """Links the photos of ``folder`` into ``served`` under names that say nothing; returns ``served``."""
    served.mkdir(parents=True)
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_ENDINGS)
    for row in range(rows):
        name = hashlib.sha256(f"photo {row}".encode()).hexdigest()[:16]
        (served / f"{row:06d}-{name}").symlink_to(photos[row % len(photos)].resolve())
    return served


def write_list(path: Path, served: Path, url: str) -> Path:
    """A jsonl list of the served photos, captions empty."""
    rows = ({"url": f"{url}/{photo.name}", "caption": ""} for photo in sorted(served.iterdir()))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
