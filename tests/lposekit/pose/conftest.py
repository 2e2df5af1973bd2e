"""Pose tests run on one thread: two spinning OpenMP threads on shared cores take ten times as long as one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import lposekit.pose  # noqa: F401  (sets OMP_WAIT_POLICY, if torch is not loaded yet)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
