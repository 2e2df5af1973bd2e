"""The inputs of a video build: folders of videos with captions beside them, and lists (see `video_lists`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from lposekit.errors import UsageError
from lposekit.shards.layout import META_DIR
from pipelines.lists.files import ListFile, OpenedList, find_lists, open_list
from pipelines.video.cells import Record, caption_of, cell, seconds, seconds_of, text_of
from pipelines.video.clips.records import Span, VideoRow
from pipelines.video.formats import (
    check_columns,
    detect_format,
    lacks_captions,
    list_records,
    timed_captions,
    video_rows,
)
from pipelines.video.places import ListPlace
from pipelines.video.settings import VideoFormat

log = logging.getLogger(__name__)

_MAX_ANNOTATION_CHARS = 4 * 2**20

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv"}
)


@dataclass(frozen=True, slots=True)
class FolderInput:
    """A folder of videos. `place.folder` is absolute: workers may run elsewhere than this process."""

    name: str
    place: ListPlace
    videos: tuple[Path, ...]

    def rows(self) -> Iterator[VideoRow]:
        return (folder_row(self.place, video) for video in self.videos)


@dataclass(frozen=True, slots=True)
class ListInput:
    """A list of videos, its format known."""

    opened: OpenedList
    kind: VideoFormat
    place: ListPlace

    @property
    def name(self) -> str:
        return self.opened.file.path

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.opened.types)

    @property
    def lacks_captions(self) -> bool:
        """Whether captions could stand in the list, and no column holds them."""
        return self.place.caption is None and lacks_captions(self.opened.file, self.kind, self.columns)

    def rows(self) -> Iterator[VideoRow]:
        return video_rows(list_records(self.opened), self.kind, self.place)


VideoInput = FolderInput | ListInput


def open_inputs(
    inputs: Sequence[str],
    kind: VideoFormat | None = None,
    video_root: Path | None = None,
    caption_column: str | None = None,
    allow_outside_paths: bool = False,
) -> list[VideoInput]:
    """The inputs, in order, with what is to be known of them before any work.

    kind: the format of the lists; default: from their columns. video_root: where relative paths of lists count from;
    default: the folder of the list. caption_column: the lists' column of captions; default: found by its name.
    allow_outside_paths: also take files outside of the folder that paths count from.

    Raises:
        UsageError: an input is missing or names no video.
        LposekitError: a list is damaged.
    """
    if not inputs:
        raise UsageError("no input is named. Give --input FOLDER, or FILE: a list of videos and captions.")
    confined, opened = not allow_outside_paths, list[VideoInput]()
    for name in inputs:
        folder = Path(name).resolve()
        videos = folder_videos(folder) if folder.is_dir() else []
        if videos:
            opened.append(FolderInput(name, ListPlace(folder, caption_column, confined), tuple(videos)))
            continue
        for file in find_lists([name]):
            place = ListPlace((video_root or Path(file.path).resolve().parent).resolve(), caption_column, confined)
            opened.append(_list_input(file, kind, place))
    return opened


def _list_input(file: ListFile, kind: VideoFormat | None, place: ListPlace) -> ListInput:
    opened = open_list(file)
    columns = tuple(opened.types)
    found = kind or detect_format(columns)
    if found is None:
        raise UsageError(
            f"input {file.path}: no column names a video (path, url, ...). Found: {', '.join(columns)}. "
            f"Rename one, or name the format with --format ({', '.join(get_args(VideoFormat))})."
        )
    check_columns(file, found, columns, place.caption)
    return ListInput(opened, found, place)


def read_rows(inputs: Sequence[VideoInput]) -> Iterator[VideoRow]:
    """All rows: the videos of a folder, sorted by path, or the rows of a list; inputs in order.

    Raises:
        LposekitError: a list turns out to be damaged.
    """
    return (row for each in inputs for row in each.rows())


def folder_videos(folder: Path) -> list[Path]:
    """The video files below a folder, sorted; without the clips that a build into that folder is at work on."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    return sorted(path for path in found if META_DIR not in path.relative_to(folder).parts)


def folder_row(place: ListPlace, video: Path) -> VideoRow:
    """One video of a folder; its annotation lies beside it in a file of the same name, `.txt` or `.json`.

    The json holds a caption, or an object with `caption` and optional `captions` (timed), `start`, `end`, `cuts`.
    """
    name = text_of(video.relative_to(place.folder).as_posix()) or ""  # on disk a name need not be UTF-8
    text = video.with_suffix(".txt")
    annotation = _annotation(place, video)
    caption = _read(text).strip() if place.holds(text) else None
    start_s, end_s, cuts = seconds(annotation.get("start")), seconds(annotation.get("end")), annotation.get("cuts")
    return VideoRow(
        name=name,
        path=str(video),
        root=place.root,
        listed_path=name,
        caption=caption_of(cell(annotation, place.captions()) if caption is None else caption),
        spans=() if start_s is None and end_s is None else (Span(start_s or 0.0, end_s),),
        captions=timed_captions(annotation.get("captions")),
        cuts_s=seconds_of(cuts) if isinstance(cuts, list) else None,
    )


def _annotation(place: ListPlace, video: Path) -> Record:
    """The object in the json beside a video; a text or a list in it is its caption or its timed captions."""
    path = video.with_suffix(".json")
    if not place.holds(path):
        return {}
    try:
        annotation = json.loads(_read(path))
    except (ValueError, RecursionError):
        log.warning("%s is no JSON: the video beside it gets no caption from it", path)
        return {}
    if isinstance(annotation, Mapping):
        return annotation
    if isinstance(annotation, list):
        return {"captions": annotation}
    return {"caption": annotation} if isinstance(annotation, str) else {}


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(_MAX_ANNOTATION_CHARS)
