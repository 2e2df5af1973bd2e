"""Contract of `lposekit build-video-shards` without an argument: it builds the sample that it makes itself, labelled as
one; every video ends as listed, and no clip shows both sides of a hard cut. `--dry-run` says so and writes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lposekit
from lposekit import cli
from lposekit.shards.verify import verify_dataset
from pipelines.quickstart.videos import FPS, SAMPLE_VIDEOS

pytestmark = pytest.mark.timeout(480)
OUTPUT = Path("quickstart/video-shards")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing said in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("LPOSEKIT_INPUT", "LPOSEKIT_OUTPUT", "LPOSEKIT_WORKERS", "LPOSEKIT_PRESET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("ray_local")
def test_without_an_argument_the_sample_is_built_and_ends_as_listed(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutation tried: no detector by default, no `expected` at the still video, `sample=False` in `run`: each red.
    assert cli.main(["build-video-shards", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    dataset = lposekit.open_dataset(fresh / OUTPUT)
    assert dataset.card.sample is True
    rows = {Path(row["url"]).stem: row for row in dataset.rows().to_pylist()}
    assert {name: row["outcome"] for name, row in rows.items()} == {v.name: v.expected for v in SAMPLE_VIDEOS}
    assert {name: row["caption"] for name, row in rows.items()} == {v.name: v.caption for v in SAMPLE_VIDEOS}
    assert answer["windows"] == answer["samples"] + sum(answer["dropped_windows"].values())
    assert answer["rows"] == len(SAMPLE_VIDEOS) == sum(answer["outcomes"].values())
    clips = _clips_by_video(fresh / OUTPUT)
    for video in SAMPLE_VIDEOS:
        row, spans_s = rows[video.name], clips.get(video.name, [])
        assert row["cuts_s"] == pytest.approx(video.cuts_s, abs=0.5 / FPS)
        assert bool(spans_s) == (video.expected == "kept")
        for start_s, end_s in spans_s:
            assert all(end_s <= cut_s or start_s >= cut_s for cut_s in video.cuts_s), video.name
    assert any(video.cuts_s for video in SAMPLE_VIDEOS)
    assert verify_dataset(fresh / OUTPUT) == []
    assert "quickstart sample" in (fresh / OUTPUT / "_dataset/report/index.html").read_text(encoding="utf-8")


def _clips_by_video(root: Path) -> dict[str, list[tuple[float, float]]]:
    """Start and end of each clip, by the name of its video; every clip carries the video's caption."""
    captions = {video.name: video.caption for video in SAMPLE_VIDEOS}
    spans: dict[str, list[tuple[float, float]]] = {}
    for sample in lposekit.open_dataset(root):
        said: dict[str, Any] = sample.metadata
        name = Path(said["source"]).stem
        assert sample.caption == said["caption"] == captions[name]
        spans.setdefault(name, []).append((said["start_s"], said["end_s"]))
    return spans


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build-video-shards", "--dry-run"]) == 0
    assert f"would build {len(SAMPLE_VIDEOS)} videos in 2 shards" in capsys.readouterr().out
    assert list(fresh.iterdir()) == []
