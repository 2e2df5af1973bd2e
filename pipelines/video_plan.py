"""What videos a run is about: folders of videos, and lists of the formats in `video_lists`, as rows in a fixed order.

Row i belongs to shard i // rows_per_shard, so a resumed run gives every shard the rows that it had.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

from lposekit.errors import UsageError
from lposekit.records import KEY_ROW_DIGITS
from pipelines.decode.video_records import Span, VideoRow
from pipelines.list_columns import CAPTION_ALIASES, find_column
from pipelines.lists import ListFile, find_lists, read_columns
from pipelines.plan import input_fingerprint as lists_fingerprint
from pipelines.settings import BuildImagesSettings, BuildVideoSettings
from pipelines.video_captions import check_keys, read_captions, with_captions
from pipelines.video_lists import (
    ListPlace,
    VideoFormat,
    detect_format,
    list_records,
    seconds,
    timed_captions,
    video_rows,
)
from pipelines.video_shard import VideoPlan

log = logging.getLogger(__name__)

InputFormat = Literal["auto", "generic", "webvid", "hdvila", "hdvila_captions", "panda70m"]
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv"}
)


def iter_plans(settings: BuildVideoSettings, skip: Container[int] = ()) -> Iterator[VideoPlan]:
    """The shards of the input in order, without those in `skip`.

    What can be wrong with the input is looked for in this call, before the first shard is asked for.

    Raises:
        UsageError: a missing file or column, an unknown format, captions of another list, a setting out of range.
        LposekitError: a damaged list; one that shows its damage only later raises while iterating.
    """
    if not 1 <= settings.rows_per_shard <= 10**KEY_ROW_DIGITS:
        raise UsageError(f"--rows-per-shard {settings.rows_per_shard}: allowed are 1 to {10**KEY_ROW_DIGITS}.")
    formats = get_args(InputFormat)
    kind = settings.format or "auto"
    if kind not in formats:
        raise UsageError(f"--format {kind}: no such format. There are {', '.join(formats)}.")
    next(read_video_rows(settings.input, kind), None)
    rows: Iterable[VideoRow] = read_video_rows(settings.input, kind)
    if settings.captions is not None:
        captions = read_captions(str(settings.captions))
        check_keys(read_video_rows(settings.input, kind), captions)
        rows = with_captions(rows, captions)
    return _shards(iter(rows), settings.rows_per_shard, skip)


def _shards(rows: Iterator[VideoRow], rows_per_shard: int, skip: Container[int]) -> Iterator[VideoPlan]:
    shard = 0
    while chunk := tuple(islice(rows, rows_per_shard)):
        if shard not in skip:
            yield VideoPlan(shard, chunk)
        shard += 1


def input_fingerprint(settings: BuildVideoSettings) -> str:
    """sha256 (hex) of the input: of lists and captions files their content (see `plan.input_fingerprint`), of folders
    the names and sizes of the videos and what stands beside them."""
    digest = hashlib.sha256()
    captions = () if settings.captions is None else (str(settings.captions),)
    for name in (*settings.input, *captions):
        folder = Path(name)
        videos = folder_videos(folder) if folder.is_dir() else []
        for video in videos:
            digest.update(f"{video.relative_to(folder).as_posix()} {video.stat().st_size}\n".encode())
            for beside in (video.with_suffix(".txt"), video.with_suffix(".json")):
                digest.update(beside.read_bytes() if beside.is_file() else b"\n")
        if not videos:
            digest.update(lists_fingerprint(BuildImagesSettings(input=(name,))).encode())
    return digest.hexdigest()


def read_video_rows(inputs: Sequence[str], kind: str = "auto", video_root: Path | None = None) -> Iterator[VideoRow]:
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


def _list_rows(file: ListFile, kind: str, folder: Path) -> Iterator[VideoRow]:
    return video_rows(list_records(file), list_format(file, kind), ListPlace(folder))


def list_format(file: ListFile, kind: str = "auto") -> VideoFormat:
    """The format of a list, from its columns unless it is named. Raises UsageError where they say nothing."""
    if kind != "auto":
        return cast(VideoFormat, kind)
    columns = read_columns(file)
    found = detect_format(columns)
    if found is None:
        formats = ", ".join(get_args(VideoFormat))
        raise UsageError(
            f"input {file.path}: no column names a video (path, url, ...). Found: {', '.join(columns)}. "
            f"Rename one, or name the format with --format ({formats})."
        )
    return found
