"""The builder's answer on its way out of the sandbox. A long video has thousands of clips and windows with the same few
texts: each text travels once, records without their field names, and all of it as one buffer (`arena` bounds JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from pipelines.video.clips.records import ClipRecord, VideoResult, WindowRecord

MAX_BYTES = 256 * 2**20
"""Five million windows: two days of video, one window a frame."""
_CLIP = tuple(each.name for each in fields(ClipRecord))
_WINDOW = tuple(each.name for each in fields(WindowRecord))
_CAPTION = _CLIP.index("caption")


def packed(result: VideoResult) -> dict[str, bytes]:
    """`result` as plain values for the sandbox."""
    places: dict[str, int] = {}
    clips = [[getattr(clip, name) for name in _CLIP] for clip in result.clips]
    for clip in clips:
        clip[_CAPTION] = places.setdefault(clip[_CAPTION], len(places))
    windows = [[getattr(window, name) for name in _WINDOW] for window in result.windows]
    rest = replace(result, clips=(), windows=()).to_plain()
    return {"json": json.dumps({**rest, "texts": list(places), "clips": clips, "windows": windows}).encode()}


def unpacked(answer: Mapping[str, Any]) -> VideoResult:
    """The inverse of `packed`.

    Raises:
        KeyError, TypeError, IndexError, ValueError: it is none.
    """
    if len(answer["json"]) > MAX_BYTES:
        raise ValueError(f"{len(answer['json'])} bytes")
    plain = json.loads(answer["json"])
    clips = [dict(zip(_CLIP, clip, strict=True)) for clip in plain["clips"]]
    for clip in clips:
        clip["caption"] = plain["texts"][clip["caption"]]
    windows = [dict(zip(_WINDOW, window, strict=True)) for window in plain["windows"]]
    return VideoResult.from_plain({**plain, "clips": clips, "windows": windows})
