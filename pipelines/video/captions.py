"""Captions from a file of their own, joined to the videos by key, since people caption again.

The file is a csv, jsonl or parquet with a key (`key`, `id`, `video_id`, `path`, `url`, ...) and a `caption`; with times
(`time`, `start` and `end`, or `frame`) a video may have many. Follow-Your-Pose's caption csv is understood too. A key
may also be the name of a span: the clip ids of HD-VILA-100M and of Panda-70M.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath

from lposekit.errors import UsageError
from pipelines.lists.columns import CAPTION_ALIASES, find_column
from pipelines.lists.files import find_lists, open_list
from pipelines.video.cells import Record, caption_of, cell, text_cell
from pipelines.video.clips.records import Span, TimedCaption, VideoRow
from pipelines.video.formats import KEY_ALIASES, hdvila_clip_name, list_records, timed_caption_of

log = logging.getLogger(__name__)

ROWS_CHECKED = 10_000
"""First rows of an input that are checked before any work."""


@dataclass(slots=True)
class NewCaption:
    """What a captions file says about one video."""

    text: str = ""
    timed: list[TimedCaption] = field(default_factory=list)

    @property
    def first(self) -> str:
        """The caption as a whole: the text, or else that of the first moment."""
        return self.text or (self.timed[0].text if self.timed else "")


def read_captions(path: str) -> dict[str, NewCaption]:
    """All captions of a file by key; held in memory.

    Raises:
        UsageError: a column is missing.
    """
    captions: dict[str, NewCaption] = {}
    for file in find_lists([path]):
        opened = open_list(file)
        columns = tuple(opened.types)
        if find_column(columns, CAPTION_ALIASES) is None:
            raise UsageError(f"captions {file.path}: no caption column. Found: {', '.join(columns)}.")
        if find_column(columns, KEY_ALIASES) is None:
            raise UsageError(f"captions {file.path}: no key column ({', '.join(KEY_ALIASES[:6])}, ...).")
        for record in list_records(opened):
            key = _key(record)
            if key:
                _add(record, captions.setdefault(key, NewCaption()))
    if not captions:
        raise UsageError(f"captions {path}: no caption was found. Give a file with a key and a caption column.")
    return captions


def _key(record: Record) -> str:
    part, clip = text_cell(record, ("part_id",)), text_cell(record, ("clip_id",))
    return hdvila_clip_name(part, clip) if part and clip else text_cell(record, KEY_ALIASES)


def _add(record: Record, caption: NewCaption) -> None:
    timed = timed_caption_of(record)
    if timed is None:
        caption.text = caption_of(cell(record, CAPTION_ALIASES))
    else:
        caption.timed.append(timed)


def check_keys(rows: Iterable[VideoRow], captions: Mapping[str, NewCaption]) -> None:
    """Raises UsageError if none of the first 10,000 rows has a new caption: the keys are of another list."""
    looked_at = list(islice(rows, ROWS_CHECKED))
    if looked_at and not any(_recaptioned(row, captions) for row in looked_at):
        raise UsageError(
            f"none of the {len(captions)} keys of the captions file (such as {next(iter(captions))!r}) is one of the "
            f"videos' (such as {looked_at[0].name!r}). Check which list the captions were made for."
        )


def with_captions(rows: Iterable[VideoRow], captions: Mapping[str, NewCaption]) -> Iterator[VideoRow]:
    """The rows with their new captions; what has none keeps what it has. Says in the log how many there were."""
    met = total = 0
    for row in rows:
        changed = _recaptioned(row, captions)
        total += 1
        met += changed is not None
        yield changed or row
    log.info("new captions for %d of %d videos; the file has %d keys", met, total, len(captions))


def _recaptioned(row: VideoRow, captions: Mapping[str, NewCaption]) -> VideoRow | None:
    """The row with what the file says about the video and about its spans; None where it says nothing."""
    caption = _found(row_keys(row), captions)
    spans = tuple(_recaptioned_span(span, captions) for span in row.spans)
    if caption is not None:
        return replace(row, caption=caption.first, captions=tuple(caption.timed), spans=spans)
    return None if spans == row.spans else replace(row, spans=spans)


def _recaptioned_span(span: Span, captions: Mapping[str, NewCaption]) -> Span:
    caption = _found((span.name, _without_suffix(span.name)), captions) if span.name else None
    return span if caption is None else replace(span, caption=caption.first)


def _found(keys: Iterable[str], captions: Mapping[str, NewCaption]) -> NewCaption | None:
    return next((captions[key] for key in keys if key in captions), None)


def row_keys(row: VideoRow) -> Iterator[str]:
    """The keys under which a captions file may name a video, the most telling one first."""
    for name in (row.name, row.listed_path, row.path, row.url):
        if name:
            yield name
            yield _without_suffix(name)
    yield PurePosixPath(row.name).name
    yield PurePosixPath(row.name).stem


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and "/" not in suffix else name
