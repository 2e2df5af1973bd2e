"""One dataset of real photos, made once for all tests of the report. Tests may write its report, nothing else."""

from __future__ import annotations

import pytest

from lposekit.shards.layout import DatasetLayout
from tests.support.datasets import make_photo_dataset
from tests.support.fixtures import fixture_path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return make_photo_dataset(tmp_path_factory.mktemp("photos") / "dataset", fixture_path("data/images"))
