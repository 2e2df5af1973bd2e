"""Contract: on a cluster of several nodes with a small object store, closed by a token, a build ends with the bytes of
a build in one process; without the token it is refused with a word about tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lposekit.shards.layout import DatasetLayout
from pipelines.recipes import build_images as run
from tests.support.build_process import Build, content_digest
from tests.support.execute_here import execute_here
from tests.support.ray_cluster import ray_cluster
from tests.support.stub_build import served, stub_pages, stub_settings


@pytest.mark.more
@pytest.mark.timeout(600)
def test_a_cluster_of_two_nodes_builds_the_same_bytes(tmp_path: Path) -> None:
    with served(stub_pages(24, num_persons={3: 0, 9: 2}), tmp_path) as (_, path):
        run(stub_settings(path, tmp_path / "here"), execute=execute_here)
        with ray_cluster(2) as (address, token):
            flags = ("--ray-address", address, "--pose.batch-size", "4")
            build = Build(path, tmp_path / "there", rows_per_shard=4, extra=flags, environment=token)
            assert build.finish(200) == 0, build.log_path.read_text()
            closed = Build(
                path, tmp_path / "closed", extra=flags, environment={"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
            )
            assert closed.finish(100) == 2, closed.log_path.read_text()
            assert "token" in closed.log_path.read_text()
    assert content_digest(build.layout) == content_digest(DatasetLayout(tmp_path / "here"))
