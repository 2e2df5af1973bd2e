"""What videos a run is about: folders of videos, and lists of the formats in `video_lists`, as rows in a fixed order."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow.parquet as pq

from lposekit.errors import LposekitError, UsageError
from pipelines.decode.video_records import Span, VideoRow
from pipelines.list_columns import CAPTION_ALIASES, find_column
from pipelines.list_text import text_rows
from pipelines.lists import ListFile, find_lists, read_columns
from pipelines.video_lists import ListPlace, VideoFormat, detect_format, seconds, timed_captions, video_rows

log = logging.getLogger(__name__)

InputFormat = Literal["auto", "generic", "webvid", "hdvila", "hdvila_captions", "panda70m"]
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv"}
)


def read_video_rows(
    inputs: Sequence[str], kind: InputFormat = "auto", video_root: Path | None = None
) -> Iterator[VideoRow]:
    """All rows, inputs in order: the videos of a folder (sorted by path), or the rows of a list.

    kind: the format of the lists, or `auto`: from their columns. video_root: where relative paths of lists count from;
    default: the folder of the list.

    Raises UsageError for an input that is missing or names no video, LposekitError for a damaged list.
    """
    if not inputs:
        raise UsageError("no input is named. Give --input FOLDER, or FILE: a list of videos and captions.")
    for name in inputs:
        folder = Path(name)
        videos = folder_videos(folder) if folder.is_dir() else []
        if videos:
            yield from (folder_row(folder, video) for video in videos)
            continue
        for file in find_lists([name]):
            yield from _list_rows(file, kind, video_root or Path(file.path).resolve().parent)


def folder_videos(folder: Path) -> list[Path]:
    """The video files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())


def folder_row(folder: Path, video: Path) -> VideoRow:
    """One video of a folder; what is said about it stands beside it in a file of the same name, `.txt` or `.json`.

    The json holds a caption, or an object with `caption` and optional `captions` (timed), `start`, `end`, `cuts`.
    """
    name = video.relative_to(folder).as_posix()
    text = video.with_suffix(".txt")
    said = _read_json(video.with_suffix(".json"))
    if isinstance(said, str):
        said = {"caption": said}
    elif isinstance(said, list):
        said = {"captions": said}
    elif not isinstance(said, Mapping):
        said = {}
    column = find_column(said, CAPTION_ALIASES)
    caption = str(said[column]) if column is not None and said[column] is not None else ""
    if text.is_file():
        caption = text.read_text(encoding="utf-8", errors="replace").strip()
    start_s, end_s = seconds(said.get("start")), seconds(said.get("end"))
    cuts = said.get("cuts")
    return VideoRow(
        name=name,
        path=str(video),
        caption=caption,
        spans=() if start_s is None and end_s is None else (Span(start_s or 0.0, end_s),),
        captions=timed_captions(said.get("captions")),
        cuts_s=tuple(cut_s for cut_s in map(seconds, cuts) if cut_s is not None) if isinstance(cuts, list) else None,
    )


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError:
        log.warning("%s is no JSON: the video beside it gets no caption from it", path)
        return None


def _list_rows(file: ListFile, kind: InputFormat, folder: Path) -> Iterator[VideoRow]:
    return video_rows(list_records(file), list_format(file, kind), ListPlace(folder))


def list_format(file: ListFile, kind: InputFormat = "auto") -> VideoFormat:
    """The format of a list, from its columns unless it is named. Raises UsageError where they say nothing."""
    if kind != "auto":
        return kind
    columns = read_columns(file)
    found = detect_format(columns)
    if found is None:
        formats = ", ".join(get_args(VideoFormat))
        raise UsageError(
            f"input {file.path}: no column names a video (path, url, ...). Found: {', '.join(columns)}. "
            f"Rename one, or name the format with --format ({formats})."
        )
    return found


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
