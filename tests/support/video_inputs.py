"""Video lists and folders for tests, and their rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from pipelines.video.clips.records import VideoRow
from pipelines.video.inputs import open_inputs, read_rows


def write_csv(path: Path, records: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return str(path)


def write_jsonl(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def rows(*inputs: object, **options: Any) -> list[VideoRow]:
    return list(read_rows(open_inputs([str(each) for each in inputs], **options)))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
