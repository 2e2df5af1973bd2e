"""From one video file to clips, with a full account. Runs inside a killable child (see `sandbox`).

One decode pass: the frames in which cuts are searched are those that the clips are made of. Memory does not grow with
the video's length.

    result = build_clips(path, row, settings, out_dir)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2

from lposekit.errors import Rejected
from pipelines.decode.sandbox import beat as sandbox_beat
from pipelines.decode.span_clips import SpanClips
from pipelines.decode.video import DamageSuspectedError, VideoReader, clip_size, probe
from pipelines.decode.video_account import VideoAccount
from pipelines.decode.video_decord import DecordReader
from pipelines.decode.video_pyav import PyavReader
from pipelines.decode.video_records import Span, VideoResult, VideoRow
from pipelines.decode.video_settings import BuildClipsSettings

log = logging.getLogger(__name__)


def build_clips_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """`build_clips` as the sandbox's target: {"path", "row", "settings", "out_dir"} as trees, and back."""
    cv2.setNumThreads(1)
    result = build_clips(
        Path(payload["path"]),
        VideoRow.from_tree(payload["row"]),
        BuildClipsSettings.from_tree(payload["settings"]),
        Path(payload["out_dir"]),
    )
    return result.to_tree()


def build_clips(
    path: Path,
    row: VideoRow,
    settings: BuildClipsSettings,
    out_dir: Path,
    beat: Callable[[], None] = sandbox_beat,
) -> VideoResult:
    """Write the clips of one video into `out_dir`, an empty folder, as 00000.mp4, 00001.mp4, ...

    Never raises for what a file holds: the outcome says it. `beat` is called for every frame.
    """
    try:
        info = probe(path, settings.video.max_frame_pixels, beat)
    except Rejected as rejected:
        return VideoResult(rejected.outcome, rejected.detail)
    account = VideoAccount(info, row, settings, out_dir)
    size = clip_size(info, settings.encode.size)
    if settings.video.decoder == "decord":
        try:
            return _built(DecordReader(path, info, size, beat), "decord", account)
        except DamageSuspectedError as suspected:
            log.info("%s: read again with PyAV: %s", row.name, suspected)
            for leftover in out_dir.iterdir():
                leftover.unlink()
            account = VideoAccount(info, row, settings, out_dir)
    return _built(PyavReader(path, info, size, beat), "pyav", account)


def _built(reader: VideoReader, decoder: str, account: VideoAccount) -> VideoResult:
    try:
        for span in account.row.spans or (Span(),):
            SpanClips(account, span).run(reader)
    finally:
        reader.close()
    return account.result(decoder)
