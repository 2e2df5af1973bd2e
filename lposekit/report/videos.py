"""The report of a video dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from lposekit.errors import Outcome
from lposekit.records import Columns
from lposekit.report import charts
from lposekit.report.charts import ChartWithNumbers
from lposekit.report.clip_strips import ClipFacts, can_decode, clip_strips
from lposekit.report.common import common_values, page_path
from lposekit.report.facts import spread_rows
from lposekit.report.page import duration, share, write_page
from lposekit.report.video_facts import (
    MAX_CLIP_BARS,
    MAX_SHOWN,
    WINDOW_WORDS,
    VideoFacts,
    gather_video_facts,
    histogram,
)
from lposekit.shards.dataset import PoseDataset, read_members
from lposekit.shards.index import ShardIndex
from lposekit.words import counted

TIMELINES_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Timeline:
    """One video as a bar, with its clips and cuts."""

    key: str
    note: str
    svg: Markup


def write_video_report(dataset: PoseDataset, *, public: bool) -> Path:
    """Write the page of a video dataset; returns its path. See `lposekit.report.html.write_report`.

    A public page has numbers only: clips have no skeletons that could stand for their frames.
    """
    facts = gather_video_facts(dataset)
    return write_page(
        page_path(dataset, public=public),
        "videos.html",
        **common_values(dataset, facts, public=public),
        strips=[] if public else clip_strips(dataset, facts),
        timelines=[] if public else timelines(dataset, facts),
        decoder_missing=not can_decode(),
        windows=window_lines(facts),
        charts=[_duration_chart(facts), _motion_chart(facts), _clips_chart(facts)],
    )


def window_lines(facts: VideoFacts) -> list[tuple[str, str, int]]:
    """Name, words and number of what became of the windows: clips first, then the reasons, the most frequent first."""
    dropped = [(name, WINDOW_WORDS.get(name, ""), count) for name, count in facts.dropped.most_common() if count]
    return [("clip", "written", facts.num_clips), *dropped]


def timelines(dataset: PoseDataset, facts: VideoFacts) -> list[Timeline]:
    """Up to `TIMELINES_SHOWN` videos that have clips, spread over all shards."""
    lines = []
    for shard, row in spread_rows(dataset, facts, Outcome.KEPT, TIMELINES_SHOWN):
        seconds = _seconds(row["duration_s"])
        cuts_s = [_seconds(cut_s) for cut_s in row["cuts_s"] or []]
        spans_s = _clip_spans(shard, row)
        note = ", ".join([duration(seconds), counted(len(spans_s), "clip"), counted(len(cuts_s), "cut")])
        svg = charts.timeline(seconds, spans_s, cuts_s, title=f"Video {row['key']}: {note}")
        lines.append(Timeline(row["key"], note, svg))
    return lines


def _clip_spans(shard: ShardIndex, row: Columns) -> list[tuple[float, float]]:
    """Start and end in seconds of each clip of a video."""
    spans = []
    for key in row["clip_keys"] or []:
        if (position := shard.row_of(key)) is not None:
            metadata = ClipFacts.of(shard, key, read_members(shard, position))
            spans.append((metadata.start_s, metadata.end_s))
    return spans


def _seconds(value: float | None) -> float:
    return value if value is not None and 0 <= value < MAX_SHOWN else 0.0


def _duration_chart(facts: VideoFacts) -> ChartWithNumbers:
    return _histogram_chart(
        facts.clip_durations_s,
        title="Clip duration",
        hint="How long the clips are.",
        x_title="seconds (from)",
    )


def _motion_chart(facts: VideoFacts) -> ChartWithNumbers:
    return _histogram_chart(
        facts.clip_motions,
        title="Clip motion",
        hint="How much moves in the clips: the measure that the motion filter compares.",
        x_title="motion (from)",
    )


def _histogram_chart(values: list[npt.NDArray[np.float64]], *, title: str, hint: str, x_title: str) -> ChartWithNumbers:
    labels, counts = histogram(np.concatenate(values) if values else np.zeros(0))
    svg = charts.bar_chart(labels, counts, title=title, x_title=x_title)
    total = sum(counts)
    rows = [(label, f"{count:,}", share(count, total)) for label, count in zip(labels, counts, strict=True)]
    return ChartWithNumbers(title, hint, svg, (x_title, "clips", "share"), rows)


def _clips_chart(facts: VideoFacts) -> ChartWithNumbers:
    labels = [*map(str, range(MAX_CLIP_BARS)), f"{MAX_CLIP_BARS}+"]
    counts = [facts.clips_per_video[i] for i in range(MAX_CLIP_BARS + 1)]
    svg = charts.bar_chart(labels, counts, title="Videos by number of clips", x_title="clips of the video")
    rows = [(label, f"{count:,}") for label, count in zip(labels, counts, strict=True)]
    return ChartWithNumbers("Clips per video", "All videos, also those without a clip.", svg, ("clips", "videos"), rows)
