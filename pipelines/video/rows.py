"""From the account of one video to what is stored: its parquet row, and the tar members of its clips."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from lposekit.errors import Outcome
from lposekit.json_values import JsonValue, strict_json
from lposekit.records import Columns
from lposekit.shards.layout import sum_counts
from lposekit.shards.rows import LIST_COLUMNS, RowResult, Sample, ShardKind
from pipelines.fetch.removals import DETAIL
from pipelines.job.rows import removed_columns, row_columns
from pipelines.video.clips.records import ClipRecord, VideoResult, VideoRow

CLIP_DIGITS = 4
REMOVED_WINDOW = "removed"
"""Why the window of a clip that was removed is no clip."""
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


def clip_key(key: str, clip: int) -> str:
    """Key of a clip: the video's key and four digits."""
    assert clip < 10**CLIP_DIGITS, "`video_account.MAX_CLIPS_OF_VIDEO` forbids it"
    return f"{key}{clip:0{CLIP_DIGITS}d}"


def video_row(
    key: str, row: VideoRow, result: VideoResult, sha256: str | None, samples: Iterable[Sample] = ()
) -> RowResult:
    """What a video leaves behind; `samples`: its clips, read while the row is written."""
    if result.outcome is Outcome.REMOVED:
        return removed_video(key, [*LIST_COLUMNS, *row.extra, *OWN_COLUMNS])
    stored = bool(result.clips)
    first = result.clips[0] if stored else None
    columns = row_columns(
        OWN_COLUMNS,
        key=key,
        url=row.source,
        caption=row.caption,
        extra=row.extra,
        outcome=result.outcome,
        detail=result.detail,
        stored=stored,
        query=row.query,
    )
    columns |= {name: value for name, value in result.info.items() if name in OWN_COLUMNS}
    columns |= {
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
    return RowResult(key, result.outcome, columns, samples)


def removed_video(key: str, names: Iterable[str]) -> RowResult:
    """The row of a video that was removed; `names`: of its columns. Its windows count no more."""
    none: dict[str, list[object]] = {name: [] for name in ("cuts_s", "clip_keys", "clip_motion", "clip_duration_s")}
    columns = removed_columns(names, key, DETAIL) | {"num_windows": 0, "num_clips": 0, "dropped": "{}", **none}
    return RowResult(key, Outcome.REMOVED, columns)


def without_clips(row: RowResult, removed: Collection[str]) -> RowResult:
    """A video's row and samples without the clips of these keys; a video of which none is left is removed."""
    keys = row.columns["clip_keys"] or []
    left = [i for i, key in enumerate(keys) if key not in removed]
    if len(left) == len(keys):
        return row
    if not left:
        return removed_video(row.key, row.columns)
    dropped = json.loads(row.columns["dropped"])
    dropped[REMOVED_WINDOW] = dropped.get(REMOVED_WINDOW, 0) + len(keys) - len(left)
    lists = {name: [row.columns[name][i] for i in left] for name in ("clip_keys", "clip_motion", "clip_duration_s")}
    columns = {**row.columns, **lists, "num_clips": len(left), "dropped": json.dumps(dropped, sort_keys=True)}
    samples = ((key, members) for key, members in row.samples if key not in removed)
    return replace(row, columns=columns, samples=samples)


def window_account(rows: Sequence[Columns]) -> dict[str, JsonValue]:
    """The account of a shard's clip windows, from its parquet rows: every window is a clip or dropped for a reason."""
    windows, clips = sum(row["num_windows"] for row in rows), sum(row["num_clips"] for row in rows)
    dropped = sum_counts(json.loads(row["dropped"]) for row in rows)
    assert windows == clips + sum(dropped.values()), (windows, clips, dropped)
    return {"windows": windows, "clips": clips, "dropped": dropped}


def clip_members(key: str, row: VideoRow, result: VideoResult, out_dir: Path) -> Iterator[Sample]:
    """Key and tar members of each clip of a video, read from the folder that they were built in."""
    for number, clip in enumerate(result.clips):
        members = {_member_name(name): (out_dir / name).read_bytes() for name in clip.files}
        members["txt"] = clip.caption.encode("utf-8")
        members["json"] = _clip_json(clip_key(key, number), key, row, result, clip)
        yield clip_key(key, number), members


def _member_name(file: str) -> str:
    """`00000.mp4` -> `mp4`; `00000.000003.jpg` -> `000003.jpg`."""
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
    return strict_json(value, ensure_ascii=False, sort_keys=True).encode("utf-8")


VIDEO_SHARDS = ShardKind(OWN_COLUMNS, window_account)
