"""Contract of `write_report` on video datasets: true numbers, the right frames, both laws, no text that acts.

The clips are made by the production code from small videos whose frames carry their number.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lposekit.report import clip_player
from lposekit.report.clip_player import MAX_BYTES, SIDE_PX, frame_step, mp4_uri
from lposekit.report.clip_strips import three_frames
from lposekit.report.html import write_report
from lposekit.report.video_facts import WINDOW_WORDS, histogram
from lposekit.shards.dataset import open_dataset
from lposekit.shards.layout import DatasetLayout
from lposekit.stored_media import open_clip
from pipelines.video.clips.account import DAMAGED
from pipelines.video.clips.motion import BLACK, DARK, FROZEN, LOW_MOTION
from pipelines.video.clips.records import VideoRow
from pipelines.video.clips.settings import EncodeSettings
from pipelines.video.clips.windows import CUT, MAX_CLIPS, TOO_SHORT
from pipelines.video.rows import REMOVED_WINDOW
from tests.lposekit.report.conftest import CLIPS, FPS
from tests.lposekit.report.test_images import Page, only_our_script
from tests.support.datasets import HOSTILE_TEXTS, make_video_dataset
from tests.support.videos import moving, plain, read_number, write_video


@pytest.fixture(scope="module")
def page(videos: DatasetLayout) -> Page:
    return Page(write_report(videos.root))


def test_both_laws_are_stated_with_their_numbers(videos: DatasetLayout, page: Page) -> None:
    words, stats = page.words(), videos.read_stats(0)
    assert stats.dropped is not None
    assert stats.clips is not None
    assert "3 rows in = 3 rows with exactly one outcome." in words
    dropped = sum(stats.dropped.values())
    assert stats.clips >= 2
    assert f"{stats.windows} clip windows = {stats.clips} clips + {dropped} dropped" in words
    for reason, count in stats.dropped.items():
        assert re.search(rf"{reason} {count} \d+\.?\d*% {re.escape(WINDOW_WORDS[reason])}", words)


def test_every_clip_shows_its_first_middle_and_last_frame(videos: DatasetLayout, page: Page) -> None:
    """The frames' own numbers say which they are. Mutation: count // 2 -> count // 3."""
    numbers = []
    for source in (source for source in page.sources() if source.startswith("data:image/")):
        data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
        bgr_HWC = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert bgr_HWC is not None
        numbers.append(read_number(np.ascontiguousarray(bgr_HWC[..., ::-1]).astype(np.uint8)))
    expected = []
    for sample in open_dataset(videos.root):
        first, last = sample.metadata["source_frames"]
        expected += [first + (last - first + 1) // 2, first, last]
    assert numbers == expected


def test_every_clip_plays_in_a_small_form_of_its_own(videos: DatasetLayout, page: Page) -> None:
    """Decoded again, it has the clip's first frame and its duration, at most 10 frames a second, within its budget.

    Mutations: every frame of a clip taken, 20 a second; the rate not divided by the step: twice as fast.
    """
    clips = [source for source in page.sources() if source.startswith("data:video/mp4;base64,")]
    samples = list(open_dataset(videos.root))
    assert len(clips) == len(samples) >= 2
    for source, sample in zip(clips, samples, strict=True):
        mp4 = base64.b64decode(source.partition(",")[2])
        assert len(mp4) <= MAX_BYTES
        with open_clip(mp4) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert float(container.streams.video[0].average_rate or 0) == pytest.approx(FPS / 2)
        assert len(frames) == -(-sample.metadata["num_frames"] // 2)
        assert max(frames[0].shape[:2]) == SIDE_PX
        assert read_number(np.ascontiguousarray(frames[0]).astype(np.uint8)) == sample.metadata["source_frames"][0]


@pytest.mark.parametrize(
    ("num_frames", "fps", "step"), [(20, 20, 2), (20, 10, 1), (20, 0, 1), (2400, 24, 40), (8, 25, 3), (60, 10, 1)]
)
def test_long_and_fast_clips_are_thinned_out(num_frames: int, fps: float, step: int) -> None:
    assert frame_step(num_frames, fps) == step


def test_a_clip_is_made_coarser_until_it_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutations: the first try taken whatever its size; the last one.
    noise = list(np.random.default_rng(0).integers(0, 256, (20, SIDE_PX, SIDE_PX, 3), np.uint8))
    coarse = mp4_uri(noise, 10.0)
    assert coarse is not None
    assert len(coarse) < MAX_BYTES * 4 / 3 + 100
    monkeypatch.setattr(clip_player, "MAX_BYTES", 1000)
    assert mp4_uri(noise, 10.0) is None
    assert mp4_uri(noise[:1], 10.0) is None


def test_captions_times_and_cuts_are_shown(page: Page) -> None:
    words = page.words()
    assert "two shots" in words
    assert "2.5 s, 3 clips, 1 cut " in words or "2.5 s, 2 clips, 1 cut " in words
    assert "cut at 1.50 s" in words
    assert "20 frames at 20 fps, 320 x 240" in words


def test_the_public_page_has_no_frame_caption_or_place(videos: DatasetLayout) -> None:
    path = write_report(videos.root, public=True)
    page = Page(path)
    assert page.sources() == []
    assert "two shots" not in page.words()
    assert str(videos.root.parent) not in path.read_text()
    assert "clip windows =" in page.words()


def test_without_pyav_the_page_says_what_is_missing(videos: DatasetLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    page = Page(write_report(videos.root))
    assert page.sources() == []
    assert "pip install 'lposekit[video]'" in page.words()
    assert "two shots" in page.words()


def test_an_account_that_does_not_close_is_said(videos: DatasetLayout) -> None:
    stats = json.loads(videos.stats(0).read_text())
    try:
        videos.stats(0).write_text(json.dumps({**stats, "windows": stats["windows"] + 1}))
        assert "The totals do not add up: " in Page(write_report(videos.root)).words()
    finally:
        videos.stats(0).write_text(json.dumps(stats))


def test_clips_stored_as_frames_are_shown_and_hostile_captions_stay_texts(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [moving(i) for i in range(20)], FPS)
    rows = [VideoRow(f"v{i}", path=str(video), caption=text) for i, text in enumerate(HOSTILE_TEXTS[:4])]
    settings = replace(CLIPS, encode=EncodeSettings(format="frames"))
    path = write_report(make_video_dataset(tmp_path / "d", rows, settings, warnings=list(HOSTILE_TEXTS)).root)
    page = Page(path)
    kinds = [source.partition(";")[0] for source in page.sources()]
    assert (kinds.count("data:image/jpeg"), kinds.count("data:video/mp4")) == (3 * len(rows), len(rows))
    assert len(kinds) == 4 * len(rows)
    only_our_script(path)
    assert "<script>" in page.text


def test_a_dataset_without_clips_says_so(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [plain(128)] * 30, FPS)
    page = Page(write_report(make_video_dataset(tmp_path / "d", [VideoRow("v", path=str(video))], CLIPS).root))
    assert "No clip was made." in page.words()
    assert "no_clip 1 100%" in page.words()


@pytest.mark.parametrize("mp4", [b"", b"no video", b"\x00" * 1000])
def test_a_clip_that_cannot_be_decoded_gives_no_frames(mp4: bytes) -> None:
    assert three_frames({"mp4": mp4}, 10, 25.0) == []


def test_every_reason_to_drop_a_window_has_words() -> None:
    assert {CUT, TOO_SHORT, MAX_CLIPS, BLACK, DARK, FROZEN, LOW_MOTION, DAMAGED, REMOVED_WINDOW} == set(WINDOW_WORDS)


@pytest.mark.parametrize(
    ("values", "labels", "counts"),
    [
        ([], ["0"], [0]),
        ([2.0], ["2"], [1]),
        ([0.0, 0.1, 0.3, 0.3, 1.0], ["0", "0.1", "0.2", "0.3", *["0.4", "0.5", "0.6", "0.7", "0.8", "0.9"], "1"], None),
        ([1, 30, 61], ["0", "5", "10", "15", "20", "25", "30", "35", "40", "45", "50", "55", "60"], None),
    ],
)
def test_histograms_have_round_edges_and_lose_nothing(
    values: list[float], labels: list[str], counts: list[int] | None
) -> None:
    found_labels, found_counts = histogram(np.array(values, float))
    assert found_labels == labels
    assert sum(found_counts) == len(values)
    if counts is not None:
        assert found_counts == counts
