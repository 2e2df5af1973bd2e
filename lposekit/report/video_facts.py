"""What the report of a video dataset says beyond `DatasetFacts`: clips, windows, cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lposekit.report.facts import DatasetFacts
from lposekit.report.row_list import Number
from lposekit.report.rows import report_rows
from lposekit.shards.dataset import PoseDataset
from lposekit.shards.layout import DatasetLayout

MAX_CLIP_BARS = 10
MAX_SHOWN = 1e7
PARTS = 1024

WINDOW_WORDS = {
    "cut": "too short, because a cut ended it",
    "too_short": "too short, because the video ended",
    "max_clips": "beyond the largest number of clips of one video",
    "low_motion": "too little moves",
    "removed": "taken out by `lposekit remove`",
    "black": "black",
    "dark": "too dark",
    "frozen": "the image stands still",
    "damaged": "damaged frames in it",
}
"""Why a clip window was dropped. Reasons that are not listed here are shown by their name alone."""


@dataclass(slots=True, kw_only=True)
class VideoFacts(DatasetFacts):
    """Counts over all committed shards of a video dataset. `motion` is the share of the image that moves, 0..1."""

    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "duration_s": pa.float64(),
        **dict.fromkeys(("cuts_s", "clip_duration_s", "clip_motion"), pa.list_(pa.float64())),
        "num_clips": pa.int64(),
        "clip_keys": pa.list_(pa.string()),
    }
    number_names: ClassVar[tuple[str, ...]] = ("clips", "seconds")
    num_windows: int = 0
    num_clips: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    num_cuts: int = 0
    source_seconds: float = 0.0
    clip_durations_s: list[npt.NDArray[np.float64]] = field(default_factory=list)
    clip_motions: list[npt.NDArray[np.float64]] = field(default_factory=list)
    clips_per_video: Counter[int] = field(default_factory=Counter)

    def numbers_of(self, rows: pa.Table) -> Sequence[Sequence[Number]]:
        """Clips made of each video, and its duration."""
        durations_s = rows["duration_s"].to_pylist()
        shown = [round(s, 2) if s is not None and 0 <= s < MAX_SHOWN else None for s in durations_s]
        return rows["num_clips"].to_pylist(), shown

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def account_closes(self) -> bool:
        """The second law: windows = clips + dropped, and as many clips as there are samples."""
        return self.num_windows == self.num_clips + self.num_dropped and self.num_clips == self.num_samples

    @property
    def clip_seconds(self) -> float:
        return float(sum(values.sum() for values in self.clip_durations_s))


def gather_video_facts(dataset: PoseDataset) -> VideoFacts:
    """Read all rows of a video dataset once."""
    facts = VideoFacts()
    facts.expect(dataset)
    layout = DatasetLayout(dataset.root)
    for shard in dataset.shards:
        rows, stats = report_rows(layout, shard.shard, facts.columns), layout.read_stats(shard.shard)
        facts.add_shard(shard, stats, rows)
        facts.num_windows += stats.windows or 0
        facts.num_clips += stats.clips or 0
        facts.dropped.update(stats.dropped or {})
        _add_rows(facts, rows)
    return facts


def _add_rows(facts: VideoFacts, rows: pa.Table) -> None:
    facts.source_seconds += float(_sane(_floats(rows["duration_s"])).sum())
    facts.num_cuts += len(_values(rows, "cuts_s"))
    _append(facts.clip_durations_s, _sane(_values(rows, "clip_duration_s")))
    _append(facts.clip_motions, _sane(_values(rows, "clip_motion")))
    clips = [min(max(number or 0, 0), MAX_CLIP_BARS) for number in rows["num_clips"].to_pylist()]
    facts.clips_per_video.update(clips)


def _append(parts: list[npt.NDArray[np.float64]], values: npt.NDArray[np.float64]) -> None:
    """Joined now and then: a shard has a few clips, and an array of its own takes more than they do."""
    parts.append(values)
    if len(parts) >= PARTS:
        parts[:] = [np.concatenate(parts)]


def _sane(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Those that a chart can show: neither missing nor of a size that only damage has."""
    return values[(values >= 0) & (values < MAX_SHOWN)]


def _values(rows: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """All values of a list column, one after the other."""
    return _floats(pc.list_flatten(rows[name].combine_chunks()))  # pyright: ignore[reportAttributeAccessIssue]


def _floats(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def histogram(values: npt.NDArray[np.float64], most_bars: int = 14) -> tuple[list[str], list[int]]:
    """Round lower edges as labels, and counts. The last bar takes the largest value."""
    if not len(values):
        return ["0"], [0]
    low, high = float(values.min()), float(values.max())
    step = next(s for s in _steps() if _bins(high, s) - _bins(low, s) < most_bars)
    bins = _bins(values, step)
    first, last = int(bins.min()), int(bins.max())
    counts = np.bincount(bins - first, minlength=last - first + 1)
    return [f"{i * step:.4g}" for i in range(first, last + 1)], counts.tolist()


def _bins(values: npt.ArrayLike, step: float) -> npt.NDArray[np.int64]:
    # the small addition, so that 0.3 falls into the bin from 0.3 on: 0.3 / 0.1 is 2.9999999999999996
    return np.floor(np.asarray(values) / step + 1e-9).astype(np.int64)


def _steps() -> list[float]:
    return [factor * 10.0**power for power in range(-3, 7) for factor in (1, 2, 5)]
