"""Rows of the video lists that people have: generic, WebVid, HD-VILA-100M, Follow-Your-Pose captions, Panda-70M.

Each function takes the rows of one list (dicts as they stand in the file) and yields `VideoRow`s. A cell that cannot be
understood makes the row keep less (no span, no time), never the run fail (see `video_cells`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from lposekit.errors import UsageError
from pipelines.lists.columns import CAPTION_ALIASES, caption_column, find_column
from pipelines.lists.files import ListFile, OpenedList, damage_named, parquet_batches
from pipelines.lists.text import text_rows
from pipelines.lists.values import column_values
from pipelines.video.cells import (
    Record,
    caption_of,
    cell,
    literal,
    other_cells,
    seconds,
    seconds_of,
    text_cell,
    text_of,
    whole_number,
)
from pipelines.video.clips.records import Span, TimedCaption, VideoRow
from pipelines.video.places import ListPlace
from pipelines.video.settings import VideoFormat

PATH_ALIASES = ("path", "file", "video", "video_path", "filename", "file_name", "file_path")
URL_ALIASES = ("url", "video_url", "contenturl", "download_url")
# a clip's name before its video's: captions of clips may name both
KEY_ALIASES = ("key", "id", "clip_id", "video_id", "videoid", "name", *PATH_ALIASES, "url")
START_ALIASES = ("start", "start_s", "start_time", "clip_start", "begin")
END_ALIASES = ("end", "end_s", "end_time", "clip_end", "stop")
TIMED_ALIASES = ("captions", "timed_captions")
CUTS_ALIASES = ("cuts", "cuts_s", "scene_cuts_s")
TIME_ALIASES = ("time", "time_s", "timestamp", "second")
_MAX_CELL_CHARS = 2**20  # Panda-70M keeps the times of all clips of a video in one cell
FRAME_ALIASES = ("frame", "frame_id", "frame_index")
_NEEDED: dict[VideoFormat, tuple[tuple[str, ...], ...]] = {
    "generic": ((*PATH_ALIASES, *URL_ALIASES),),
    "webvid": (("videoid",),),
    "hdvila": (("video_id",), ("clip",)),
    "hdvila_captions": (("part_id",), ("clip_id",)),
    "panda70m": (("videoid", "video_id", "url"), ("timestamp",)),
}
_CAPTIONS: dict[VideoFormat, tuple[str, ...]] = {
    "generic": (*CAPTION_ALIASES, *TIMED_ALIASES),
    "webvid": ("name", "caption"),
    "hdvila_captions": ("caption",),
    "panda70m": ("caption",),
}
"""Where captions stand. HD-VILA-100M has none but those that its clips may hold."""


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


def check_columns(file: ListFile, kind: VideoFormat, columns: Collection[str], caption: str | None) -> None:
    """Raises UsageError where a list lacks what its format needs, or the column that `--caption-column` names."""
    if caption is not None:
        caption_column(file.path, columns, caption)
    missing = [aliases for aliases in _NEEDED[kind] if find_column(columns, aliases) is None]
    if missing:
        raise UsageError(
            f"input {file.path}: the format {kind} needs a column {' or '.join(missing[0])}. "
            f"Found: {', '.join(columns)}. Name another --format."
        )


def lacks_captions(file: ListFile, kind: VideoFormat, columns: Collection[str]) -> bool:
    """Whether a list that could hold captions has no column for them. A txt holds addresses only."""
    return file.kind != "txt" and kind in _CAPTIONS and find_column(columns, _CAPTIONS[kind]) is None


def list_records(opened: OpenedList) -> Iterator[Record]:
    """The rows of a list as they stand in it, one at a time.

    Raises:
        LposekitError: the file is damaged.
    """
    file = opened.file
    if opened.footer is None:
        with damage_named(file):
            yield from text_rows(file.path, file.kind, _MAX_CELL_CHARS)
        return
    for batch in parquet_batches(opened, _MAX_CELL_CHARS):
        columns = [column_values(column) for column in batch.columns]
        yield from (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


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
    """`path` or `url`, `caption`, optional `start`, `end`, timed `captions`, `cuts`; aliases as above.

    Of a row with both, the file counts if it is there. An address in the column of paths is one."""
    path, url = text_cell(record, PATH_ALIASES), text_cell(record, URL_ALIASES)
    if path.lower().startswith(("http://", "https://")):
        path, url = "", url or path
    listed = place.existing(path) if path and url else path or None
    start_s, end_s = seconds(cell(record, START_ALIASES)), seconds(cell(record, END_ALIASES))
    cuts, captions = literal(cell(record, CUTS_ALIASES)), place.captions()
    return VideoRow(
        name=text_cell(record, ("key", "id", "video_id", "videoid")) or path or url,
        path=place.path(listed) if listed else None,
        root=place.root,
        listed_path=listed,
        url=url or None,
        caption=caption_of(cell(record, captions)),
        spans=() if start_s is None and end_s is None else (Span(start_s or 0.0, end_s),),
        captions=timed_captions(literal(cell(record, TIMED_ALIASES))),
        cuts_s=seconds_of(cuts) if isinstance(cuts, list) else None,
        extra=other_cells(record, (PATH_ALIASES, URL_ALIASES, captions, START_ALIASES, END_ALIASES, TIMED_ALIASES)),
    )


def webvid_row(record: Record, place: ListPlace) -> VideoRow:
    """WebVid csv: videoid, contentUrl, duration, page_dir, name (the caption). Files in `page_dir/videoid.mp4` count
    before the address, which its owner has withdrawn."""
    name, folder = text_cell(record, ("videoid",)), text_cell(record, ("page_dir",))
    listed = place.existing(f"{folder}/{name}.mp4", f"{name}.mp4")
    captions = place.captions(_CAPTIONS["webvid"])
    return VideoRow(
        name=name,
        path=place.path(listed) if listed else None,
        root=place.root,
        listed_path=listed,
        url=text_cell(record, ("contenturl",)) or None,
        caption=caption_of(cell(record, captions)),
        extra=other_cells(record, (("contenturl",), captions)),
    )


def hdvila_row(record: Record, place: ListPlace) -> VideoRow:
    """HD-VILA-100M jsonl: video_id, url, clip: [{clip_id, span: [start, end]}]; one row a video, one span a clip."""
    name = text_cell(record, ("video_id",))
    clips = literal(cell(record, ("clip",)))
    spans = [_hdvila_span(clip) for clip in clips if isinstance(clip, Mapping)] if isinstance(clips, list) else []
    listed = place.existing(f"{name}.mp4", f"{name}.mkv", f"{name}.webm")
    return VideoRow(
        name=name,
        path=place.path(listed) if listed else None,
        root=place.root,
        listed_path=listed,
        url=text_cell(record, ("url",)) or None,
        caption=caption_of(cell(record, place.captions())),
        spans=tuple(span for span in spans if span is not None),
        extra=other_cells(record, (("clip",), ("url",), place.captions())),
    )


def _hdvila_span(clip: Record) -> Span | None:
    times_s = seconds_of(clip.get("span"))
    if len(times_s) != 2:
        return None
    return Span(*times_s, caption=caption_of(clip.get("caption")) or None, name=text_of(clip.get("clip_id")))


def hdvila_caption_rows(records: Iterable[Record], place: ListPlace) -> Iterator[VideoRow]:
    """Follow-Your-Pose's csv: part_id, clip_id, frame_id, caption; a caption every 64 frames, the lines of one clip
    together; the clip is the file part_N/video_clips/clip_id."""

    def clip_of(record: Record) -> tuple[str, str]:
        return text_cell(record, ("part_id",)), text_cell(record, ("clip_id",))

    for (part, clip), lines in groupby(records, key=clip_of):
        name = hdvila_clip_name(part, clip)
        captions = []
        for place_in_clip, line in enumerate(lines):
            frame = whole_number(cell(line, ("frame_id",)))
            text = caption_of(cell(line, place.captions(("caption",))))
            captions.append(TimedCaption(text, frame=64 * place_in_clip if frame is None else frame))
        yield VideoRow(
            name=name,
            path=place.path(name),
            root=place.root,
            listed_path=name,
            caption=captions[0].text,
            captions=tuple(captions),
            extra={"part_id": part},
        )


def hdvila_clip_name(part: str, clip: str) -> str:
    """Where Follow-Your-Pose keeps a clip, below its data folder."""
    number = whole_number(part)
    suffix = "" if Path(clip).suffix else ".mp4"
    return f"part_{part if number is None else number}/video_clips/{clip}{suffix}"


def panda70m_row(record: Record, place: ListPlace) -> VideoRow:
    """Panda-70M csv: videoID, url, and lists of one length: timestamp ([start, end] each), caption, matching_score.

    Its shot boundaries are not used: they are those before stitching.
    """
    captions = place.captions(_CAPTIONS["panda70m"])
    name = text_cell(record, ("videoid", "video_id")) or text_cell(record, ("url",))
    times, texts = literal(cell(record, ("timestamp",))), literal(cell(record, captions))
    texts = texts if isinstance(texts, list) else [texts]
    spans = []
    for number, pair in enumerate(times if isinstance(times, list) else []):
        pair_s = seconds_of(pair)
        if len(pair_s) == 2:
            caption = caption_of(texts[number]) if number < len(texts) else None
            spans.append(Span(*pair_s, caption=caption, name=f"{name}_{number}"))
    listed = place.existing(f"{name}.mp4", f"{name}.mkv", f"{name}.webm")
    return VideoRow(
        name=name,
        path=place.path(listed) if listed else None,
        root=place.root,
        listed_path=listed,
        url=text_cell(record, ("url",)) or None,
        caption=spans[0].caption or "" if spans else "",
        spans=tuple(spans),
        extra=other_cells(record, (("timestamp",), captions, ("url",), ("shot_boundary_detection",))),
    )


def timed_captions(value: object) -> tuple[TimedCaption, ...]:
    """A list of [time, text] pairs or of objects with text and time, start and end (their middle), or frame."""
    found = map(_timed_caption, value if isinstance(value, list) else [])
    return tuple(caption for caption in found if caption is not None)


def _timed_caption(item: object) -> TimedCaption | None:
    if isinstance(item, list | tuple) and len(item) == 2:
        time_s = seconds(item[0])
        return None if time_s is None else TimedCaption(caption_of(item[1]), time_s=time_s)
    return timed_caption_of(item) if isinstance(item, Mapping) else None


def timed_caption_of(record: Record) -> TimedCaption | None:
    """The caption of one moment that these columns state, or None where they state no moment."""
    text = caption_of(cell(record, CAPTION_ALIASES))
    start_s, end_s = seconds(cell(record, START_ALIASES)), seconds(cell(record, END_ALIASES))
    time_s = seconds(cell(record, TIME_ALIASES))
    if time_s is None and start_s is not None:
        time_s = start_s if end_s is None else (start_s + end_s) / 2
    if time_s is not None:
        return TimedCaption(text, time_s=time_s)
    frame = whole_number(cell(record, FRAME_ALIASES))
    return None if frame is None else TimedCaption(text, frame=frame)
