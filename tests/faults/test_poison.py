"""Contract: an image on which the pose model raises, dies or eats all memory costs that row
alone, after a bounded number of tries; a bug of the model stops its shard, is named, and the run ends with exit code 3.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lposekit
from lposekit.keypoints import KeepRule
from lposekit.shards.verify import verify_dataset
from pipelines.build import Execute
from pipelines.fetch.settings import FetchSettings
from pipelines.image.settings import BuildImagesSettings, PoseSettings
from pipelines.job.build_report import BuildReport
from pipelines.job.crew import run_on_ray
from pipelines.recipes import build_images as run
from tests.support.bad_server import BadServer
from tests.support.execute_here import execute_here
from tests.support.pages import Page
from tests.support.stub_images import stub_image

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(480)]
ROWS = 12


def _build(
    tmp_path: Path, behaviours: dict[int, str], rows_per_shard: int = 6, execute: Execute = run_on_ray
) -> BuildReport:
    pages = {f"/{row}.jpg": Page(stub_image(row, behaviour=behaviours.get(row, "well"))) for row in range(ROWS)}
    with BadServer(pages=pages) as server:
        path = tmp_path / "list.jsonl"
        path.write_text(
            "".join(
                json.dumps({"url": f"{server.url}/{row}.jpg", "caption": f"row {row}"}) + "\n" for row in range(ROWS)
            )
        )
        settings = BuildImagesSettings(
            input=(str(path),),
            output=tmp_path / "d",
            rows_per_shard=rows_per_shard,
            workers=2,
            detector="stub",
            pose_model="stub",
            allow_private_addresses=True,
            fetch=FetchSettings(robots=False, threads=4),
            pose=PoseSettings(actors=1, batch_size=6),
        )
        return run(settings, execute=execute)


def _outcomes(tmp_path: Path) -> list[str]:
    return lposekit.open_dataset(tmp_path / "d").rows()["outcome"].to_pylist()


@pytest.mark.case(25)
def test_an_image_that_kills_the_model_is_named_and_every_other_is_kept(tmp_path: Path) -> None:
    # Mutation tried: find_killers that names nobody -> the batch dies again and all its rows end as worker_crash.
    report = _build(tmp_path, {3: "exit"})
    assert report.exit_code == 0
    assert _outcomes(tmp_path) == ["worker_crash" if row == 3 else "kept" for row in range(ROWS)]
    rows = lposekit.open_dataset(tmp_path / "d").rows()
    assert "the pose model's process died on this image" in rows["error_message"][3].as_py()
    assert verify_dataset(tmp_path / "d") == []


@pytest.mark.more
def test_images_and_text_and_pose_belong_together_after_a_fault(tmp_path: Path) -> None:
    _build(tmp_path, {0: "exit", 7: "raise"})
    samples = list(lposekit.open_dataset(tmp_path / "d"))
    assert [sample.caption for sample in samples] == [f"row {row}" for row in range(ROWS) if row not in (0, 7)]
    for sample in samples:
        row = int(sample.caption.split()[1])
        assert sample.persons[0].keypoints_K3[0, 1] == 20 + row
        expected = np.array([90, row * 11 % 256, row * 37 % 256])
        assert np.abs(sample.rgb_HWC[100, 200].astype(int) - expected).max() <= 4


@pytest.mark.parametrize(
    ("behaviour", "outcome"), [("raise", "pose_failed"), pytest.param("memory", "pose_failed", marks=pytest.mark.more)]
)
@pytest.mark.case(23)
def test_an_image_on_which_the_model_fails_costs_that_row_alone(tmp_path: Path, behaviour: str, outcome: str) -> None:
    report = _build(tmp_path, {5: behaviour})
    assert report.exit_code == 0
    assert _outcomes(tmp_path) == [outcome if row == 5 else "kept" for row in range(ROWS)]


@pytest.mark.more
@pytest.mark.case(23)
def test_a_wrong_shape_is_a_bug_that_stops_its_shard_and_says_so(tmp_path: Path) -> None:
    report = _build(tmp_path, {8: "wrong_shape"})
    assert report.exit_code == 3
    assert list(report.failures) == [1]
    assert "(16, 3) keypoints instead of (17, 3)" in report.failures[1]
    assert _outcomes(tmp_path) == ["kept"] * 6
    assert any("00001 is not committed" in line for line in report.summary_lines())


def test_the_rule_is_the_cards(tmp_path: Path) -> None:
    _build(tmp_path, {}, execute=execute_here)
    card = lposekit.open_dataset(tmp_path / "d").card
    assert KeepRule(**card.keep_rule) == KeepRule(keypoint_score_threshold=0.5)
