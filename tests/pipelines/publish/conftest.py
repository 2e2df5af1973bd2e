"""What the tests of `push` and `materialize` share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.recipes import build_images
from tests.support.execute_here import execute_here
from tests.support.pushed_index import ROWS
from tests.support.stub_build import served, stub_pages, stub_settings


@pytest.fixture
def built(tmp_path: Path):
    """A server, and a dataset of its images: two few keypoints, one nobody, one gone, the list with a column."""
    pages = stub_pages(ROWS, num_detected={1: 3, 6: 2}, num_persons={3: 0})
    licences = [f"licence {row}" for row in range(ROWS)]
    with served(pages, tmp_path, licence=licences, note=["/home/me/a.jpg"] + ["x"] * (ROWS - 1)) as (server, path):
        del pages["/4.jpg"]
        build_images(stub_settings(path, tmp_path / "d"), execute=execute_here)
        yield server, tmp_path / "d"
