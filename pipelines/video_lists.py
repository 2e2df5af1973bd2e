"""Rows of the video lists that people have: generic, WebVid, HD-VILA-100M, Follow-Your-Pose captions, Panda-70M.

Each function takes the rows of one list (dicts as they stand in the file) and yields `VideoRow`s. A cell that cannot be
understood makes the row keep less (no span, no time), never the run fail: lists of millions of rows have such cells.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from lposekit.errors import LposekitError
from pipelines.decode.video_records import Span, TimedCaption, VideoRow
from pipelines.list_columns import CAPTION_ALIASES, find_column
from pipelines.list_text import text_rows
from pipelines.lists import ListFile

Record = Mapping[str, Any]
VideoFormat = Literal["generic", "webvid", "hdvila", "hdvila_captions", "panda70m"]

PATH_ALIASES = ("path", "file", "video", "video_path", "filename", "file_name", "file_path")
URL_ALIASES = ("url", "video_url", "contenturl", "download_url")
KEY_ALIASES = ("key", "id", "video_id", "videoid", "clip_id", "name", *PATH_ALIASES, "url")
START_ALIASES = ("start", "start_s", "start_time", "clip_start", "begin")
END_ALIASES = ("end", "end_s", "end_time", "clip_end", "stop")
TIMED_ALIASES = ("captions", "timed_captions")
CUTS_ALIASES = ("cuts", "cuts_s", "scene_cuts_s")
TIME_ALIASES = ("time", "time_s", "timestamp", "second")
FRAME_ALIASES = ("frame", "frame_id", "frame_index")


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Where the files of a list lie: relative paths count from `folder` (the list's own, or `--video-root`)."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def existing(self, *names: str) -> str | None:
        """The first of these files that is there."""
        return next((str(self.folder / name) for name in names if (self.folder / name).is_file()), None)


def detect_format(columns: Iterable[str]) -> VideoFormat | None:
    """Which list has these columns; None when none of them names a video."""
    names = {column.lower() for column in columns}
    if {"videoid", "contenturl"} <= names:
        return "webvid"
    if {"part_id", "clip_id", "frame_id"} <= names:
        return "hdvila_captions"
    if {"video_id", "clip"} <= names:
        return "hdvila"
    if {"url", "timestamp", "caption"} <= names and names & {"matching_score", "shot_boundary_detection", "videoid"}:
        return "panda70m"
    return "generic" if names & {*PATH_ALIASES, *URL_ALIASES} else None


def list_records(file: ListFile) -> Iterator[Mapping[str, Any]]:
    """The rows of a list as they stand in it, one at a time."""
    try:
        if file.kind == "parquet":
            with pq.ParquetFile(file.path) as parquet:
                for batch in parquet.iter_batches(1000):
                    yield from batch.to_pylist()
        else:
            yield from text_rows(file.path, file.kind)
    except (OSError, EOFError, ValueError) as error:
        raise LposekitError(
            f"input {file.path} cannot be read: {error}. It may be truncated: compare its size with the original's."
        ) from error


def video_rows(records: Iterable[Record], kind: VideoFormat, place: ListPlace) -> Iterator[VideoRow]:
    """The rows of a list of this format."""
    if kind == "hdvila_captions":
        return hdvila_caption_rows(records, place)
    one: dict[str, Callable[[Record, ListPlace], VideoRow]] = {
        "generic": generic_row,
        "webvid": webvid_row,
        "hdvila": hdvila_row,
        "panda70m": panda70m_row,
    }
    return (one[kind](record, place) for record in records)


def generic_row(record: Record, place: ListPlace) -> VideoRow:
    """`path` or `url`, `caption`, optional `start`, `end`, timed `captions`, `cuts`; aliases as above."""
    path, url = _text(record, PATH_ALIASES), _text(record, URL_ALIASES)
    start_s, end_s = seconds(_cell(record, START_ALIASES)), seconds(_cell(record, END_ALIASES))
    cuts = _literal(_cell(record, CUTS_ALIASES))
    return VideoRow(
        name=_text(record, ("key", "id", "video_id", "videoid")) or path or url or "",
        path=place.path(path) if path else None,
        url=url or None,
        caption=_text(record, CAPTION_ALIASES),
        spans=() if start_s is None and end_s is None else (Span(start_s or 0.0, end_s),),
        captions=timed_captions(_literal(_cell(record, TIMED_ALIASES))),
        cuts_s=tuple(_seconds_of(cuts)) if isinstance(cuts, list) else None,
        extra=_others(record, PATH_ALIASES, URL_ALIASES, CAPTION_ALIASES, START_ALIASES, END_ALIASES, TIMED_ALIASES),
    )


def webvid_row(record: Record, place: ListPlace) -> VideoRow:
    """WebVid csv: videoid, contentUrl, duration, page_dir, name (the caption). Files in `page_dir/videoid.mp4` count
    before the address, which its owner has withdrawn."""
    name = _text(record, ("videoid",))
    folder = _text(record, ("page_dir",))
    return VideoRow(
        name=name,
        path=place.existing(f"{folder}/{name}.mp4", f"{name}.mp4"),
        url=_text(record, ("contenturl",)) or None,
        caption=_text(record, ("name", "caption")),
        extra=_others(record, ("contenturl",), ("name",)),
    )


def hdvila_row(record: Record, place: ListPlace) -> VideoRow:
    """HD-VILA-100M jsonl: video_id, url, clip: [{clip_id, span: [start, end]}]; one row a video, one span a clip."""
    name = _text(record, ("video_id",))
    clips = _literal(_cell(record, ("clip",)))
    spans = []
    for clip in clips if isinstance(clips, list) else []:
        span = clip.get("span") if isinstance(clip, Mapping) else None
        times = _seconds_of(span if isinstance(span, list) else [])
        if len(times) == 2:
            spans.append(Span(times[0], times[1], clip.get("caption"), clip.get("clip_id")))
    return VideoRow(
        name=name,
        path=place.existing(f"{name}.mp4", f"{name}.mkv", f"{name}.webm"),
        url=_text(record, ("url",)) or None,
        caption=_text(record, CAPTION_ALIASES),
        spans=tuple(spans),
        extra=_others(record, ("clip",), ("url",)),
    )


def hdvila_caption_rows(records: Iterable[Record], place: ListPlace) -> Iterator[VideoRow]:
    """Follow-Your-Pose's csv: part_id, clip_id, frame_id, caption; a caption every 64 frames, the lines of one clip
    together; the clip is the file part_N/video_clips/clip_id."""

    def clip_of(record: Record) -> tuple[str, str]:
        return _text(record, ("part_id",)), _text(record, ("clip_id",))

    for (part, clip), lines in groupby(records, key=clip_of):
        name = hdvila_clip_name(part, clip)
        captions = []
        for place_in_clip, line in enumerate(lines):
            frame = _number(_cell(line, ("frame_id",)))
            captions.append(
                TimedCaption(_text(line, ("caption",)), frame=int(64 * place_in_clip if frame is None else frame))
            )
        yield VideoRow(
            name=name,
            path=place.path(name),
            caption=captions[0].text,
            captions=tuple(captions),
            extra={"part_id": part},
        )


def hdvila_clip_name(part: str, clip: str) -> str:
    """Where Follow-Your-Pose keeps a clip, below its data folder."""
    number = _number(part)
    suffix = "" if Path(clip).suffix else ".mp4"
    return f"part_{part if number is None else int(number)}/video_clips/{clip}{suffix}"


def panda70m_row(record: Record, place: ListPlace) -> VideoRow:
    """Panda-70M csv: videoID, url, and lists of one length: timestamp ([start, end] each), caption, matching_score.

    Its shot boundaries are not used: they are those before stitching.
    """
    name = _text(record, ("videoid", "video_id")) or _text(record, ("url",))
    times, texts = _literal(_cell(record, ("timestamp",))), _literal(_cell(record, ("caption",)))
    texts = texts if isinstance(texts, list) else [texts]
    spans = []
    for number, pair in enumerate(times if isinstance(times, list) else []):
        pair_s = _seconds_of(pair if isinstance(pair, list | tuple) else [])
        if len(pair_s) == 2:
            caption = str(texts[number]) if number < len(texts) else None
            spans.append(Span(pair_s[0], pair_s[1], caption, f"{name}_{number}"))
    return VideoRow(
        name=name,
        path=place.existing(f"{name}.mp4", f"{name}.mkv", f"{name}.webm"),
        url=_text(record, ("url",)) or None,
        caption=spans[0].caption or "" if spans else "",
        spans=tuple(spans),
        extra=_others(record, ("timestamp",), ("caption",), ("url",), ("shot_boundary_detection",)),
    )


def timed_captions(value: Any) -> tuple[TimedCaption, ...]:
    """A list of [time, text] pairs or of objects with text and time, start and end (their middle), or frame."""
    found = []
    for item in value if isinstance(value, list) else []:
        caption = _timed_caption(item)
        if caption is not None:
            found.append(caption)
    return tuple(found)


def _timed_caption(item: Any) -> TimedCaption | None:
    if isinstance(item, list | tuple) and len(item) == 2:
        time_s = seconds(item[0])
        return None if time_s is None else TimedCaption(str(item[1]), time_s=time_s)
    if not isinstance(item, Mapping):
        return None
    return timed_caption_of(item)


def timed_caption_of(record: Record) -> TimedCaption | None:
    """The caption of one moment that these columns state, or None where they state no moment."""
    text = _text(record, CAPTION_ALIASES)
    start_s, end_s = seconds(_cell(record, START_ALIASES)), seconds(_cell(record, END_ALIASES))
    time_s = seconds(_cell(record, TIME_ALIASES))
    if time_s is None and start_s is not None:
        time_s = start_s if end_s is None else (start_s + end_s) / 2
    frame = _number(_cell(record, FRAME_ALIASES))
    if time_s is None and frame is None:
        return None
    return TimedCaption(text, time_s=time_s, frame=None if time_s is not None or frame is None else int(frame))


def seconds(value: Any) -> float | None:
    """12.5, "12.5", "00:00:12.500" or "0:12" in seconds; None where it is no time."""
    try:
        parts = [float(part) for part in str(value).strip().split(":")]
    except ValueError:
        return None
    if value is None or isinstance(value, bool) or len(parts) > 3 or not all(0 <= part < 1e9 for part in parts):
        return None
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


def _seconds_of(values: Iterable[Any]) -> list[float]:
    return [time_s for time_s in map(seconds, values) if time_s is not None]


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _cell(record: Record, aliases: tuple[str, ...]) -> Any:
    column = find_column(record, aliases)
    return None if column is None else record[column]


def _text(record: Record, aliases: tuple[str, ...]) -> str:
    value = _cell(record, aliases)
    return "" if value is None else str(value)


def _literal(value: Any) -> Any:
    """A list in a csv cell is JSON or, in Panda-70M, a Python literal."""
    if not isinstance(value, str):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return value


def _others(record: Record, *used: tuple[str, ...]) -> dict[str, Any]:
    taken = {find_column(record, aliases) for aliases in used}
    return {name: value for name, value in record.items() if name not in taken and isinstance(name, str)}
