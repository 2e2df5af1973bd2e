"""The report of a dataset of poses: skeletons, for the frames themselves lie with the clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lposekit.errors import Outcome
from lposekit.pose.tracks import MEMBER, PoseTracks, decode_tracks, persons_at
from lposekit.report import charts
from lposekit.report.charts import ChartWithNumbers
from lposekit.report.clip_player import SIDE_PX, frame_step, mp4_uri
from lposekit.report.clip_strips import can_decode
from lposekit.report.common import common_values, page_path
from lposekit.report.facts import spread_rows
from lposekit.report.inline_images import skeleton_image, skeleton_uri
from lposekit.report.page import share, write_page
from lposekit.report.pose_facts import COVERAGE_BARS, MAX_PERSON_BARS, PoseFacts, gather_pose_facts
from lposekit.report.row_list import Number
from lposekit.shards.dataset import PoseDataset, read_members
from lposekit.words import counted

CLIPS_SHOWN = 24
FRAME_SIDE_PX = 260


@dataclass(frozen=True, slots=True)
class SkeletonStrip:
    """One clip of the page. `frames`: data URIs of the skeletons of its first, middle and last frame."""

    key: str
    caption: str
    frames: Sequence[str]
    ratio: float
    note: str
    video: str | None
    numbers: Sequence[Number]


def write_pose_report(dataset: PoseDataset, *, public: bool) -> Path:
    """Write the page of a dataset of poses; returns its path. See `lposekit.report.html.write_report`.

    A public page has the skeletons, without captions.
    """
    facts = gather_pose_facts(dataset)
    return write_page(
        page_path(dataset, public=public),
        "poses.html",
        **common_values(dataset, facts, public=public),
        strips=list(skeleton_strips(dataset, facts, public=public)),
        charts=[_persons_chart(facts), _coverage_chart(facts)],
    )


def skeleton_strips(dataset: PoseDataset, facts: PoseFacts, *, public: bool) -> Iterator[SkeletonStrip]:
    """Up to `CLIPS_SHOWN` clips with persons, spread over all shards."""
    for shard, row in spread_rows(dataset, facts, Outcome.KEPT, CLIPS_SHOWN):
        if (position := shard.row_of(row["key"])) is None:
            continue
        name = f"{dataset.root}:{row['key']}"
        tracks = decode_tracks(read_members(shard, position).get(MEMBER, b""), name)
        last = tracks.num_frames - 1
        persons, frames = counted(len(tracks.persons), "person"), counted(tracks.num_frames, "frame")
        yield SkeletonStrip(
            row["key"],
            "" if public else row["caption"] or "",
            [_skeleton(tracks, frame) for frame in (0, tracks.num_frames // 2, last)] if tracks.num_frames else [],
            tracks.width / tracks.height,
            f"{persons}, {frames} at {float(tracks.fps):.4g} fps, {tracks.width} x {tracks.height}",
            _video(tracks),
            (row["num_persons"], row["coverage_filled"]),
        )


def _video(tracks: PoseTracks) -> str | None:
    """The skeletons as a small clip that plays; None without PyAV."""
    if not can_decode():
        return None
    fps, size_hw = float(tracks.fps), (tracks.height, tracks.width)
    step = frame_step(tracks.num_frames, fps)
    shown = range(0, tracks.num_frames, step)
    images = [skeleton_image(persons_at(tracks, frame), size_hw, SIDE_PX, _threshold(tracks)) for frame in shown]
    return mp4_uri([image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2] for image in images], fps / step)


def _threshold(tracks: PoseTracks) -> float:
    stated = tracks.info.get("keypoint_score_threshold")
    return float(stated) if isinstance(stated, int | float) else 0.0


def _skeleton(tracks: PoseTracks, frame: int) -> str:
    return skeleton_uri(persons_at(tracks, frame), (tracks.height, tracks.width), FRAME_SIDE_PX, _threshold(tracks))


def _persons_chart(facts: PoseFacts) -> ChartWithNumbers:
    labels = [*map(str, range(MAX_PERSON_BARS)), f"{MAX_PERSON_BARS}+"]
    counts = [facts.persons[i] for i in range(MAX_PERSON_BARS + 1)]
    return _chart("Persons per clip", "Clips whose poses are stored.", "persons in the clip", labels, counts)


def _coverage_chart(facts: PoseFacts) -> ChartWithNumbers:
    labels = [f"{i / COVERAGE_BARS:g}" for i in range(COVERAGE_BARS)]
    counts = [facts.coverage[i] for i in range(COVERAGE_BARS)]
    hint = "Share of the frames that the largest person is in, gaps filled; clips with persons."
    return _chart("Coverage", hint, "share of the frames (from)", labels, counts)


def _chart(title: str, hint: str, x_title: str, labels: Sequence[str], counts: Sequence[int]) -> ChartWithNumbers:
    svg = charts.bar_chart(labels, counts, title=title, x_title=x_title)
    rows = [(label, f"{count:,}", share(count, sum(counts))) for label, count in zip(labels, counts, strict=True)]
    return ChartWithNumbers(title, hint, svg, (x_title, "clips", "share"), rows)
