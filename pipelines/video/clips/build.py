"""From one video file to clips, with a full account. Runs inside a killable child (see `sandbox`).

One decode pass: the frames in which cuts are searched are those that the clips are made of. Memory does not grow with
the video's length.

    result = build_clips(path, row, settings, out_dir)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from lposekit.errors import Outcome, Rejected
from lposekit.sandbox.child import beat as sandbox_beat
from lposekit.shards.files import DISK_FULL
from lposekit.stage_times import StageTimes
from pipelines.video.clips.account import VideoAccount
from pipelines.video.clips.answer import packed
from pipelines.video.clips.probe import DamageSuspectedError, VideoReader, clip_size, probe
from pipelines.video.clips.read_decord import DecordReader
from pipelines.video.clips.read_pyav import PyavReader
from pipelines.video.clips.records import Span, VideoResult, VideoRow
from pipelines.video.clips.settings import BuildClipsSettings
from pipelines.video.clips.span import SpanClips

log = logging.getLogger(__name__)


def build_clips_payload(payload: Mapping[str, Any]) -> Mapping[str, object]:
    """`build_clips` as the sandbox's target: {"path", "row", "settings", "out_dir"} as trees; answers as `packed`."""
    cv2.setNumThreads(1)
    out_dir = Path(payload["out_dir"])
    try:
        result = build_clips(
            Path(payload["path"]),
            VideoRow.from_plain(payload["row"]),
            BuildClipsSettings.from_plain(payload["settings"]),
            out_dir,
        )
    except OSError as error:
        if error.errno in DISK_FULL:  # it says nothing about the video: the parent ends the shard
            return {"disk_full": error.errno}
        result = VideoResult(Outcome.WORKER_CRASH, f"clips cannot be written to {out_dir}: {error}")
    return packed(result)


def build_clips(
    path: Path,
    row: VideoRow,
    settings: BuildClipsSettings,
    out_dir: Path,
    beat: Callable[[], None] = sandbox_beat,
) -> VideoResult:
    """Write the clips of one video into `out_dir`, an empty folder, as 00000.mp4, 00001.mp4, ...

    Never raises for what a file holds: the outcome says it. `beat` is called for every frame,
    decoded or written.

    Raises:
        OSError: the clips cannot be written.
    """
    times = StageTimes()
    start = time.perf_counter()
    try:
        result = _build(path, row, settings, out_dir, beat, times)
    except Rejected as rejected:
        _empty(out_dir)
        result = VideoResult(rejected.outcome, rejected.detail)
    # the sum is of rounded times
    times.add("shots", max(0.0, time.perf_counter() - start - sum(times.as_dict().values())))
    return replace(result, timings_s=times.as_dict())


def _build(
    path: Path,
    row: VideoRow,
    settings: BuildClipsSettings,
    out_dir: Path,
    beat: Callable[[], None],
    times: StageTimes,
) -> VideoResult:
    with times.stage("decode"):
        info = probe(path, settings.video.max_frame_pixels, beat)
    account = VideoAccount(info, row, settings, out_dir, times)
    size = clip_size(info, settings.encode.size)
    if settings.video.decoder == "decord":
        try:
            return _built(DecordReader(path, info, size, beat), "decord", account, beat)
        except DamageSuspectedError as suspected:
            log.info("%s: read again with PyAV: %s", row.name, suspected)
            _empty(out_dir)
            account = VideoAccount(info, row, settings, out_dir, times)
    return _built(PyavReader(path, info, size, beat), "pyav", account, beat)


def _built(reader: VideoReader, decoder: str, account: VideoAccount, beat: Callable[[], None]) -> VideoResult:
    try:
        for span in account.row.spans or (Span(),):
            SpanClips(account, span, beat).run(reader)
    finally:
        reader.close()
    return account.result(decoder)


def _empty(folder: Path) -> None:
    for leftover in folder.iterdir():
        leftover.unlink()
