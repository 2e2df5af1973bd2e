"""Contract of the image job on a real Ray: many workers, several nodes, a network that is down."""

from __future__ import annotations

from pathlib import Path

import pytest

import lposekit
from lposekit.shards.card import read_card
from lposekit.shards.layout import DatasetLayout
from lposekit.shards.verify import verify_dataset
from pipelines.recipes import build_images as run
from tests.support.bad_server import closed_port
from tests.support.execute_here import execute_here
from tests.support.stub_build import served, stub_pages, stub_settings, write_rows

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.timeout(480)]


@pytest.mark.case(12)
def test_a_network_that_is_down_commits_nothing_and_the_next_run_goes_on(tmp_path: Path) -> None:
    # Mutation tried: committed=True whatever failed -> 24 rows end as connect and are never tried again.
    output, dead = tmp_path / "d", f"http://127.0.0.1:{closed_port()}"
    path = write_rows(tmp_path / "dead.jsonl", [{"url": f"{dead}/{i}.jpg", "caption": ""} for i in range(24)])
    report = run(stub_settings(path, output, rows_per_shard=24))
    assert report.exit_code == 3
    assert report.stopped is not None
    assert "24 of the last 24 rows failed by the network (connect 24)" in report.stopped
    assert DatasetLayout(output).committed_shards() == []
    again = run(stub_settings(path, output, rows_per_shard=24, network_failure_limit=None), execute=execute_here)
    assert (again.exit_code, again.outcomes) == (0, {"connect": 24})


@pytest.mark.more  # `test_build_killed.py` compares the bytes of several workers
def test_rows_keep_their_order_over_many_workers(tmp_path: Path) -> None:
    with served(stub_pages(24), tmp_path) as (_, path):
        report = run(stub_settings(path, tmp_path / "d", workers=3))
    assert report.exit_code == 0
    assert [sample.caption for sample in lposekit.open_dataset(tmp_path / "d")] == [f"row {row}" for row in range(24)]
    card = read_card(DatasetLayout(tmp_path / "d"))
    assert card.models["pose_model"]["name"] == "stub"
    assert verify_dataset(tmp_path / "d") == []
