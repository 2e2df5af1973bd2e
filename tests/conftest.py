"""Fixtures that many tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # img2dataset's albumentations calls home otherwise


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One small Ray on this machine for all tests that need no cluster of their own."""
    from pipelines.job.cluster import connected

    with connected(None):
        yield
