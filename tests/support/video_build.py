"""Settings of video builds for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.video.settings import BuildVideoSettings


def listed(folder: Path, rows: Sequence[Mapping[str, Any]], **changes: Any) -> BuildVideoSettings:
    """Settings of a build over these rows, into `folder`/d; a caption where a row has none. Videos may lie anywhere."""
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps({"caption": "somebody walks", **row}) + "\n" for row in rows))
    return BuildVideoSettings(
        input=(str(path),), output=folder / "d", workers=1, **{"allow_outside_paths": True, **changes}
    )
