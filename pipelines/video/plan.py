"""What videos a run is about, as shards of rows in a fixed order, and everything that can be wrong with it beforehand.

Which rows share a shard is a function of rows and settings (`pipelines.video.shard_sizes`), so a resumed run gives
every shard the rows that it had.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import fsspec

from lposekit.errors import LposekitError, UsageError
from pipelines.lists.files import find_lists
from pipelines.lists.fingerprint import lists_fingerprint
from pipelines.lists.tail import check_tail
from pipelines.video.captions import ROWS_CHECKED, NewCaption, check_keys, read_captions, with_captions
from pipelines.video.clips.records import VideoRow
from pipelines.video.inputs import FolderInput, ListInput, VideoInput, folder_videos, open_inputs, read_rows
from pipelines.video.platforms import is_platform_url
from pipelines.video.settings import BuildVideoSettings
from pipelines.video.shard import VideoPlan
from pipelines.video.shard_sizes import row_groups

log = logging.getLogger(__name__)

PLATFORM_ROWS_CHECKED = 1000
MAX_COUNTED_BYTES = 64 * 2**20
"""Of a list that is read once more to know how many videos it names."""


def iter_plans(settings: BuildVideoSettings, skip: Container[int] = ()) -> Iterator[VideoPlan]:
    """The shards of the input in order, without those in `skip`.

    What can be wrong with the input is looked for in this call, before the first shard is asked for.

    Raises:
        UsageError: a missing file or column, captions of another list.
        LposekitError: a damaged list; one that shows its damage only later raises while iterating.
    """
    inputs = open_inputs(
        settings.input, settings.format, settings.video_root, settings.caption_column, settings.allow_outside_paths
    )
    for each in inputs:
        if isinstance(each, ListInput):
            check_tail(each.opened.file)
    captions = None if settings.captions is None else read_captions(settings.captions)
    _check_rows(inputs, captions)
    query = settings.fetch.stored_query
    rows = (replace(row, query=query) for row in read_rows(inputs))
    return _shards(rows if captions is None else with_captions(rows, captions), settings, skip)


def count_videos(settings: BuildVideoSettings) -> int | None:
    """Videos of the input; None where a list is too long to be read for that, or damaged."""
    inputs = open_inputs(
        settings.input, settings.format, settings.video_root, settings.caption_column, settings.allow_outside_paths
    )
    total = 0
    for each in inputs:
        if isinstance(each, FolderInput):
            total += len(each.videos)
            continue
        filesystem, path = fsspec.core.url_to_fs(each.name)
        if (filesystem.size(path) or MAX_COUNTED_BYTES + 1) > MAX_COUNTED_BYTES:
            return None
        try:
            total += sum(1 for _ in each.rows())
        except LposekitError:
            return None
    return total


def _check_rows(inputs: Sequence[VideoInput], captions: Mapping[str, NewCaption] | None) -> None:
    """Look at the first rows, once: do they need yt-dlp, do the captions belong to them, do they have captions?

    Raises:
        UsageError: none of them can be used as it is.
    """
    first: list[VideoRow] = []
    bare: list[tuple[VideoInput, int]] = []
    for each in inputs:
        if captions is not None and len(first) == ROWS_CHECKED:
            break
        rows = list(islice(each.rows(), ROWS_CHECKED))
        first += rows[: ROWS_CHECKED - len(first)]
        if rows and not any(_has_caption(row) for row in rows):
            bare.append((each, len(rows)))
    _check_platforms(first[:PLATFORM_ROWS_CHECKED])
    if captions is None:
        _check_captions(inputs, bare)
    else:
        check_keys(first, captions)


def _shards(rows: Iterator[VideoRow], settings: BuildVideoSettings, skip: Container[int]) -> Iterator[VideoPlan]:
    for shard, group in enumerate(row_groups(rows, settings)):
        if shard not in skip:
            yield VideoPlan(shard, group)


def _check_captions(inputs: Sequence[VideoInput], bare: Sequence[tuple[VideoInput, int]]) -> None:
    """Raises UsageError for a list without a column of captions; warns of an input whose first videos all lack one.

    bare: those inputs, with the number of videos that were looked at.
    """
    for each in inputs:
        if isinstance(each, ListInput) and each.lacks_captions:
            raise UsageError(
                f"input {each.name}: no column holds captions. Found: {', '.join(each.columns)}. Name it with "
                "--caption-column, or give captions of their own with --captions FILE."
            )
    for each, num_rows in bare:
        log.warning(
            "input %s: none of its videos has a caption (looked at %d): clips will have empty ones. Give captions "
            "in a .txt or .json file beside each video, in a column of the list, or with --captions FILE.",
            each.name,
            num_rows,
        )


def _has_caption(row: VideoRow) -> bool:
    return bool(row.caption or row.captions or any(span.caption for span in row.spans))


def _check_platforms(first: Sequence[VideoRow]) -> None:
    """Raises UsageError if yt-dlp is missing and every one of the first rows needs it; warns if some do."""
    pages = sum(row.path is None and is_platform_url(row.url or "") for row in first)
    if not pages or importlib.util.find_spec("yt_dlp") is not None:
        return
    what = (
        f"{pages} of the first {len(first)} videos are pages of platforms, such as YouTube, and yt-dlp, which fetches "
        "those, is not installed (pip install 'lposekit[platforms]')"
    )
    if pages == len(first):
        raise UsageError(f"{what}.")
    log.warning("%s; without it they end as bad_url.", what)


def input_fingerprint(settings: BuildVideoSettings) -> str:
    """sha256 (hex) of the input: of lists and captions files their content (see `lists_fingerprint`), of folders
    the names and sizes of the videos and what stands beside them."""
    digest = hashlib.sha256()
    captions = () if settings.captions is None else (settings.captions,)
    for name in (*settings.input, *captions):
        folder = Path(name)
        videos = folder_videos(folder) if folder.is_dir() else []
        for video in videos:
            digest.update(os.fsencode(f"{video.relative_to(folder).as_posix()} {video.stat().st_size}\n"))
            for beside in (video.with_suffix(".txt"), video.with_suffix(".json")):
                digest.update(beside.read_bytes() if beside.is_file() else b"\n")
        if not videos:
            digest.update(lists_fingerprint(find_lists([name])).encode())
    return digest.hexdigest()
