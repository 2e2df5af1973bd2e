"""Captions from a file of their own, joined to the videos by key, since people caption again.

The file is a csv, jsonl or parquet with a key (`key`, `id`, `video_id`, `path`, `url`, ...) and a `caption`; with times
(`time`, `start` and `end`, or `frame`) a video may have many. Follow-Your-Pose's caption csv is understood too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from lposekit.errors import UsageError
from pipelines.decode.video_records import TimedCaption, VideoRow
from pipelines.list_columns import CAPTION_ALIASES, find_column
from pipelines.lists import find_lists
from pipelines.video_lists import KEY_ALIASES, hdvila_clip_name, list_records, timed_caption_of

log = logging.getLogger(__name__)

_CHECKED_ROWS = 10_000


@dataclass(slots=True)
class NewCaption:
    """What a captions file says about one video."""

    text: str = ""
    timed: list[TimedCaption] = field(default_factory=list)


def read_captions(path: str) -> dict[str, NewCaption]:
    """All captions of a file by key; held in memory. Raises UsageError where a column is missing."""
    captions: dict[str, NewCaption] = {}
    for file in find_lists([path]):
        for record in list_records(file):
            key = _key(record, file.path)
            caption = captions.setdefault(key, NewCaption())
            timed = timed_caption_of(record)
            if timed is None:
                column = find_column(record, CAPTION_ALIASES)
                caption.text = str(record[column]) if column and record[column] is not None else ""
            else:
                caption.timed.append(timed)
    if not captions:
        raise UsageError(f"captions {path}: no caption was found. Give a file with a key and a caption column.")
    return captions


def _key(record: Mapping[str, Any], path: str) -> str:
    if find_column(record, CAPTION_ALIASES) is None:
        raise UsageError(f"captions {path}: no caption column. Found: {', '.join(map(str, record))}.")
    if find_column(record, ("part_id",)) and find_column(record, ("clip_id",)):
        part, clip = (record[find_column(record, (name,)) or ""] for name in ("part_id", "clip_id"))
        return hdvila_clip_name(str(part), str(clip))
    column = find_column(record, KEY_ALIASES)
    if column is None:
        raise UsageError(f"captions {path}: no key column ({', '.join(KEY_ALIASES[:6])}, ...).")
    return str(record[column])


def check_keys(rows: Iterable[VideoRow], captions: Mapping[str, NewCaption]) -> None:
    """Raises UsageError if none of the first 10,000 rows has a new caption: the keys are of another list."""
    looked_at = list(islice(rows, _CHECKED_ROWS))
    if looked_at and not any(_found(row, captions) for row in looked_at):
        raise UsageError(
            f"none of the {len(captions)} keys of the captions file (such as {next(iter(captions))!r}) is one of the "
            f"videos' (such as {looked_at[0].name!r}). Check which list the captions were made for."
        )


def with_captions(rows: Iterable[VideoRow], captions: Mapping[str, NewCaption]) -> Iterator[VideoRow]:
    """The rows with their new captions; a row without one keeps what it has. Says in the log how many there were."""
    met = total = 0
    for row in rows:
        caption = _found(row, captions)
        total += 1
        met += caption is not None
        yield row if caption is None else _recaptioned(row, caption)
    log.info("new captions for %d of %d videos; the file has %d keys", met, total, len(captions))


def _found(row: VideoRow, captions: Mapping[str, NewCaption]) -> NewCaption | None:
    return next((captions[key] for key in row_keys(row) if key in captions), None)


def _recaptioned(row: VideoRow, caption: NewCaption) -> VideoRow:
    timed = tuple(caption.timed)
    text = caption.text or (timed[0].text if timed else "")
    spans = tuple(replace(span, caption=None) for span in row.spans)
    return replace(row, caption=text, captions=timed, spans=spans)


def row_keys(row: VideoRow) -> Iterator[str]:
    """The keys under which a captions file may name a video, the most telling one first."""
    for name in (row.name, row.path, row.url):
        if name:
            yield name
            yield _without_suffix(name)
    yield PurePosixPath(row.name).name
    yield PurePosixPath(row.name).stem


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and "/" not in suffix else name
