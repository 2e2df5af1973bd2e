"""From the account of one video to what is stored: its parquet row, and the tar members of its clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from lposekit.errors import Outcome
from pipelines.image.rows import MAX_ERROR_CHARS, free_column
from pipelines.job.shard_report import img2dataset_status
from pipelines.video.clips.records import ClipRecord, VideoResult, VideoRow

CLIP_DIGITS = 4
OWN_COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "status": pa.string(),
    "error_message": pa.string(),
    "outcome": pa.string(),
    "sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "codec": pa.string(),
    "container": pa.string(),
    "rotation": pa.int32(),
    "fps": pa.float64(),
    "variable_frame_rate": pa.bool_(),
    "num_frames": pa.int64(),
    "duration_s": pa.float64(),
    "header_frames": pa.int64(),
    "header_duration_s": pa.float64(),
    "header_fps": pa.float64(),
    "decoder": pa.string(),
    "cuts_s": pa.list_(pa.float64()),
    "num_windows": pa.int32(),
    "num_clips": pa.int32(),
    "dropped": pa.string(),
    "clip_keys": pa.list_(pa.string()),
    "clip_motion": pa.list_(pa.float64()),
    "clip_duration_s": pa.list_(pa.float64()),
}


@dataclass(frozen=True, slots=True)
class VideoRowResult:
    """Everything that one video leaves behind but its clips' bytes."""

    outcome: Outcome
    columns: dict[str, Any]
    num_clips: int = 0
    num_windows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def clip_key(key: str, clip: int) -> str:
    """Key of a clip: the video's key and four digits."""
    assert clip < 10**CLIP_DIGITS, "`video_account.MAX_CLIPS_OF_VIDEO` forbids it"
    return f"{key}{clip:0{CLIP_DIGITS}d}"


def video_row(key: str, row: VideoRow, result: VideoResult, sha256: str | None) -> VideoRowResult:
    """The parquet row of a video."""
    stored = bool(result.clips)
    message = None if result.outcome is Outcome.KEPT else f"{result.outcome.value}: {result.detail}"[:MAX_ERROR_CHARS]
    first = result.clips[0] if stored else None
    columns: dict[str, Any] = {
        "url": row.source,
        "caption": row.caption,
        **{name: value for name, value in row.extra.items() if name not in OWN_COLUMNS},
        **dict.fromkeys(OWN_COLUMNS),
        **{name: value for name, value in result.info.items() if name in OWN_COLUMNS},
        "key": key,
        "status": img2dataset_status(result.outcome, stored),
        "error_message": message,
        "outcome": result.outcome.value,
        "sha256": sha256,
        "width": first.width if first else None,
        "height": first.height if first else None,
        "decoder": result.decoder or None,
        "cuts_s": list(result.cuts_s),
        "num_windows": len(result.windows),
        "num_clips": len(result.clips),
        "dropped": json.dumps(result.dropped, sort_keys=True),
        "clip_keys": [clip_key(key, i) for i in range(len(result.clips))],
        "clip_motion": [clip.motion for clip in result.clips],
        "clip_duration_s": [clip.end_s - clip.start_s for clip in result.clips],
    }
    return VideoRowResult(result.outcome, columns, len(result.clips), len(result.windows), result.dropped)


def clip_members(key: str, row: VideoRow, result: VideoResult, out_dir: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and tar members of each clip of a video, read from the folder that they were built in."""
    for number, clip in enumerate(result.clips):
        members = {_member_name(name): (out_dir / name).read_bytes() for name in clip.files}
        members["txt"] = clip.caption.encode("utf-8")
        members["json"] = _clip_json(clip_key(key, number), key, row, result, clip)
        yield clip_key(key, number), members


def _member_name(file: str) -> str:
    """``00000.mp4`` -> ``mp4``; ``00000.000003.jpg`` -> ``000003.jpg``."""
    return file.partition(".")[2]


def _clip_json(key: str, video_key: str, row: VideoRow, result: VideoResult, clip: ClipRecord) -> bytes:
    value = {
        "key": key,
        "video_key": video_key,
        "source": row.source,
        "span": clip.span,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "fps": clip.fps,
        "num_frames": clip.num_frames,
        "width": clip.width,
        "height": clip.height,
        "caption": clip.caption,
        "captions": [{"time_s": caption.time_s, "text": caption.text} for caption in result.captions],
        "motion": clip.motion,
        "luma": clip.luma,
        "repeated_frames": clip.repeated_frames,
        "source_frames": list(clip.source_frames),
        "source_fps": result.info.get("fps"),
        "sha256": clip.sha256,
    }
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8")


def video_rows_table(results: Sequence[VideoRowResult]) -> pa.Table:
    """The parquet table of a video shard, one row per input video."""
    names = list(dict.fromkeys(name for result in results for name in result.columns))
    arrays = []
    for name in names:
        values = [result.columns.get(name) for result in results]
        if name in ("url", "caption"):
            arrays.append(pa.array(values, pa.string()))
        else:
            arrays.append(pa.array(values, OWN_COLUMNS[name]) if name in OWN_COLUMNS else free_column(values))
    return pa.Table.from_arrays(arrays, names=names)
