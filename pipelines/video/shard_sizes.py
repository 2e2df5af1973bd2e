"""Which videos share a shard: so many that its tar comes to about the size that is wanted, by what the list says of
their lengths. A pure function of rows and settings, so a resumed run gives every shard the rows that it had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from lposekit.json_values import JsonObject
from pipelines.video.cells import seconds
from pipelines.video.clips.records import VideoRow
from pipelines.video.settings import BuildVideoSettings

UNKNOWN_ROWS = 32
"""Videos of a shard of which no length is known."""
MOST_ROWS = 10_000
"""The limit of the keys."""
BYTES_PER_S_AT_512 = 350_000
"""Of clips with a shorter side of 512 pixels: 11.7 kB a frame (docs/decisions/2026-11-20-video-bytes.md), 30 a
second."""
FIRST_ESTIMATE: JsonObject = {"bytes_per_s_at_512": 350_000, "unknown_rows": 32}
"""Of folders by size whose cards state none: as both were then. Never changed."""
DURATION_COLUMNS = ("duration", "duration_s", "duration_seconds", "length_s")
_ISO = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?", re.IGNORECASE)


def shard_bytes(settings: BuildVideoSettings) -> int | None:
    """The size that a shard is to come to; None: shards of a set number of videos."""
    return settings.shard_mb * 1_000_000 if settings.rows_per_shard is None else None


def estimate() -> JsonObject:
    """What decides, beside rows and settings, which rows share a shard."""
    return {"bytes_per_s_at_512": BYTES_PER_S_AT_512, "unknown_rows": UNKNOWN_ROWS}


def row_groups(rows: Iterable[VideoRow], settings: BuildVideoSettings) -> Iterator[tuple[VideoRow, ...]]:
    """The rows of one shard after the other."""
    target = shard_bytes(settings)
    if target is None:
        iterator = iter(rows)
        while numbered := tuple(islice(iterator, settings.rows_per_shard)):
            yield numbered
        return
    group: list[VideoRow] = []
    size = 0
    for row in rows:
        more = expected_bytes(row, settings.encode.size, target)
        if group and (size + more > target or len(group) == MOST_ROWS):
            yield tuple(group)
            group, size = [], 0
        group.append(row)
        size += more
    if group:
        yield tuple(group)


def expected_bytes(row: VideoRow, side: int, target: int) -> int:
    """Of the clips of a video, if none is dropped."""
    listed_s = listed_seconds(row)
    if listed_s is None:
        return target // UNKNOWN_ROWS
    return round(listed_s * BYTES_PER_S_AT_512 * (side / 512) ** 2)


def listed_seconds(row: VideoRow) -> float | None:
    """How long the parts of a video are that become clips, as the list says; None where it does not."""
    if row.spans and all(span.end_s is not None for span in row.spans):
        return sum(max(0.0, (span.end_s or 0.0) - span.start_s) for span in row.spans)
    named = {name.lower(): value for name, value in row.extra.items()}
    texts = (named.get(name) for name in DURATION_COLUMNS)
    return next((found for text in texts if text and (found := _seconds(text)) is not None), None)


def _seconds(text: str) -> float | None:
    """`17.5`, `00:00:17.5` or WebVid's `PT00H00M17S`."""
    if (found := _ISO.fullmatch(text.strip())) and any(found.groups()):
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        return 3600 * hours + 60 * minutes + rest
    return seconds(text)
